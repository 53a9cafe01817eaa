//! Many short lives: every exit status is right, and nothing is left of any of them, also of those whose shim was killed.

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::bed::{Bed, Store};
use godwit_e2e::clean;
use godwit_e2e::container::{Container, SOON};
use godwit_lab::{Image, LabOptions, Node, wait};

/// Lives that are lived at the same time.
const LANES: usize = 3;
/// Of so many containers one loses its shim.
const UNLUCKY: usize = 10;

/// In each lane, one after the other: containers and executed processes that end with a status of their own, and containers whose shim is
/// killed in the middle. Tells every status that is wrong; says nothing when all are right.
const LANE: &str = r#"
run() { ctr run --runtime io.containerd.godwit.v2 $SHARES "$@"; }
settled() { for _ in $(seq 600); do ctr task ls | grep -q "^$1 " || return 0; sleep 0.1; done; echo "$1 stays"; return 1; }
run --detach godwit.test/shell:latest "host-$LANE" sleep 1d
for i in $(seq "$COUNT"); do
    id="c$LANE-$i"; wanted=$((i % 126)); got=0
    run --rm godwit.test/shell:latest "$id" sh -c "exit $wanted" || got=$?
    test "$got" = "$wanted" || echo "$id: $got instead of $wanted"
    got=0
    ctr task exec --exec-id "e$i" "host-$LANE" sh -c "sleep 0 & exit $wanted" || got=$?
    test "$got" = "$wanted" || echo "$id, executed: $got instead of $wanted"
    if test $((i % UNLUCKY)) = 0; then
        run --detach godwit.test/shell:latest "$id" sleep 1d
        # At any moment of its life: also before its start is answered, and while a process is executed in it.
        ctr task exec --exec-id x "$id" sleep 1d & exec=$!
        sleep "0.$((RANDOM % 3))"
        pkill --signal KILL --full "containerd-shim-godwit-v2 .*-id $id( |$)" || echo "$id has no shim"
        wait "$exec" || true
        settled "$id"
        ctr container rm "$id"
    fi
done
"#;

fn lane(node: &Node, number: usize, count: usize) -> Result<String> {
    let shares = if node.has_limits() { "" } else { "--cpu-shares 0" };
    let head = format!("LANE={number} COUNT={count} UNLUCKY={UNLUCKY} SHARES='{shares}'\n");
    Ok(node.sh(&(head + LANE))?)
}

/// Descriptors and children of the shim of a container.
fn held_by_shim(node: &Node, id: &str) -> Result<(usize, usize)> {
    let counts = node.sh(&format!(
        "pid=$(pgrep --full 'containerd-shim-godwit-v2 .*-id {id}( |$)')
         ls /proc/$pid/fd | wc -l; pgrep --count --parent $pid"
    ))?;
    let mut counts = counts.split_whitespace().filter_map(|number| number.parse().ok());
    counts.next().zip(counts.next()).context("two numbers")
}

/// Descriptors of the node's containerd, without the connections of its clients, which come and go.
fn held_by_containerd(node: &Node) -> Result<usize> {
    let counts = node.sh(
        "ls /proc/$(pgrep --exact containerd)/fd | wc -l
         grep --count --extended-regexp ' 03 +[0-9]+ /run/containerd/containerd.sock$' /proc/net/unix || true",
    )?;
    let mut counts = counts.split_whitespace().filter_map(|number| number.parse().ok());
    let (all, clients): (usize, usize) = counts.next().zip(counts.next()).context("two numbers")?;
    all.checked_sub(clients).context("more clients than descriptors")
}

fn churn(count: usize) -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    let node = &bed.n1;
    let probe = Container::new("probe", Image::Shell, &["sleep", "1d"]);
    probe.run(node)?;
    let (before, daemons) = (held_by_shim(node, "probe")?, held_by_containerd(node)?);
    let told = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|number| scope.spawn(move || lane(node, number, count / LANES)))
            .collect();
        lanes.into_iter().map(|lane| lane.join()).collect::<Vec<_>>()
    });
    for told in told {
        let told = told.map_err(|_| anyhow::anyhow!("a lane panicked"))??;
        let wrong: Vec<&str> = told.lines().filter(|line| !line.trim().is_empty()).collect();
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
    // Whoever executed hundreds of processes holds what one holds that executed none.
    for number in 0..LANES {
        let id = format!("host-{number}");
        wait::until(&format!("{id}'s shim to hold no more"), SOON, || {
            match held_by_shim(node, &id) {
                Ok(now) if now == before => Ok(()),
                other => Err(format!("{other:?} instead of {before:?}")),
            }
        })?;
        node.exec(&["ctr", "task", "rm", "--force", &id])?;
        node.ctr(&["container", "rm", &id])?;
    }
    wait::until("containerd to hold no more", SOON, || match held_by_containerd(node) {
        Ok(now) if now == daemons => Ok(()),
        other => Err(format!("{other:?} instead of {daemons}")),
    })?;
    probe.remove(node)?;
    ensure!(node.ctr(&["container", "ls", "--quiet"])?.trim().is_empty());
    clean::wait(node)
}

#[test]
fn hundreds_of_short_lives_leave_nothing() -> Result<()> {
    churn(300)
}

#[test]
#[ignore = "an hour: `make test-full`"]
fn ten_thousand_short_lives_leave_nothing() -> Result<()> {
    churn(10_000)
}
