//! What cannot be checkpointed or restored is refused with a sentence, and nothing is changed by it.

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::bed::{Bed, Store};
use godwit_e2e::container::{Container, SOON};
use godwit_lab::{Image, LabOptions, Node, wait};

fn sleeper(id: &str) -> Container {
    Container::new(id, Image::Shell, &["sleep", "infinity"])
}

/// The sentence with which a checkpoint is refused. The container runs on.
fn refused(container: &Container, node: &Node, flags: &[&str]) -> Result<String> {
    let told = container.checkpoint(node, flags);
    let sentence = match told {
        Ok(report) => anyhow::bail!("{} was checkpointed: {report:?}", container.id),
        Err(error) => format!("{error:#}"),
    };
    ensure!(container.listed(node)? == "RUNNING", "{} does not run on", container.id);
    Ok(sentence)
}

fn expect(told: &str, words: &str) -> Result<()> {
    ensure!(told.contains(words), "expected {words:?} in {told:?}");
    Ok(())
}

/// Runs `hold` and waits until it holds.
fn holds(bed: &Bed, what: &str, options: &[&str]) -> Result<Container> {
    let held = Container::new(what, Image::Mem, &["hold", what, "--file", "/ready"]).with(options);
    held.run(&bed.n1)?;
    let bundles = "/run/containerd/io.containerd.runtime.v2.task/default";
    let ready = format!("{bundles}/{what}/rootfs/ready");
    wait::until("the program to be ready", SOON, || bed.n1.read_file(&ready))
        .with_context(|| format!("hold {what} is {:?}", held.listed(&bed.n1)))?;
    Ok(held)
}

#[test]
fn what_a_process_has_open_or_is() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Mem])?;
    for (what, options, words) in [
        ("io-uring", &[][..], "uses io_uring, which cannot be saved"),
        ("userfaultfd", &["--privileged"], "uses userfaultfd, which cannot be saved"),
        ("traced", &["--privileged"], "detach the debugger or tracer first"),
        ("nested", &["--privileged"], "made a mnt namespace of its own"),
    ] {
        let held = holds(&bed, what, options)?;
        expect(&refused(&held, &bed.n1, &[])?, words)?;
        expect(&refused(&held, &bed.n1, &["--stop"])?, words)?;
    }
    Ok(())
}

#[test]
fn what_a_container_shares_or_is_doing() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    let on_host = sleeper("net").with(&["--net-host"]);
    on_host.run(&bed.n1)?;
    expect(&refused(&on_host, &bed.n1, &[])?, "uses the node's network")?;

    let first = sleeper("first");
    first.run(&bed.n1)?;
    let pid = bed.n1.ctr(&["task", "ls"])?;
    let line = pid.lines().find(|line| line.starts_with("first")).context("a line")?;
    let pid = line.split_whitespace().nth(1).context("a pid")?;
    let second = sleeper("second").with(&["--with-ns", &format!("pid:/proc/{pid}/ns/pid")]);
    second.run(&bed.n1)?;
    expect(&refused(&second, &bed.n1, &[])?, "shares its pid namespace")?;

    let exec = ["ctr", "task", "exec", "--exec-id", "long", "first", "sleep", "60"];
    let _session = bed.n1.spawn(&exec)?;
    wait::until_true("the exec session", SOON, || {
        bed.n1.ctr(&["task", "ps", "first"]).is_ok_and(|ps| ps.contains("long"))
    })?;
    expect(&refused(&first, &bed.n1, &[])?, "exec")
}

#[test]
fn what_is_not_there_or_is_asked_for_twice() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    let nobody = sleeper("nobody").checkpoint(&bed.n1, &[]).unwrap_err();
    expect(&format!("{nobody:#}"), "nobody")?;

    let shell = sleeper("shell");
    shell.run(&bed.n1)?;
    expect(&refused(&shell, &bed.n1, &["--store", "moon"])?, "main")?;
    let id = shell.checkpoint(&bed.n1, &["--stop"])?.checkpoint.to_string();
    let unknown = shell.restore(&bed.n2, "01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap_err();
    expect(&format!("{unknown:#}"), "01ARZ3NDEKTSV4RRFFQ69G5FAV")?;
    shell.remove(&bed.n2)?;
    let both = shell.clone().with(&["--annotation", &format!("godwit.dev/fork-from={id}")]);
    expect(&format!("{:#}", both.restore(&bed.n2, &id).unwrap_err()), "not both")?;
    shell.remove(&bed.n2)?;
    shell.restore(&bed.n2, &id)?;
    shell.wait_state(&bed.n2, "running")
}
