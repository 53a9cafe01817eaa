//! `ctr run`, `exec`, `kill`, `delete`.

use anyhow::{Result, ensure};
use godwit_lab::wait;

use super::kit::{Bed, SOON, exec_words};

#[test]
fn a_container_in_the_foreground_hands_on_output_and_exit_status_and_leaves_nothing() -> Result<()>
{
    let bed = Bed::new()?;
    let ran =
        bed.spawn(&["--rm"], "fore", &["sh", "-c", "echo out; echo err >&2; sleep 0.3; exit 3"])?;
    let output = ran.wait_with_output()?;
    ensure!(output.status.code() == Some(3), "{output:?}");
    ensure!(output.stdout == b"out\n", "{output:?}");
    ensure!(String::from_utf8_lossy(&output.stderr).contains("err\n"), "{output:?}");
    bed.wait_clean()
}

#[test]
fn a_container_in_the_background_is_entered_killed_and_deleted() -> Result<()> {
    let bed = Bed::new()?;
    bed.sleeper("back")?;
    ensure!(bed.listed("back")? == "RUNNING");
    ensure!(bed.exec("back", &["echo", "hello"])? == "hello\n");
    let failed = bed.node.exec(&[&["ctr"], &exec_words(&[], "back", &["false"])[..]].concat())?;
    ensure!(failed.status.code() == Some(1), "{failed:?}");
    let absent = exec_words(&[], "back", &["no-such-program"]);
    let absent = bed.node.exec(&[&["ctr"], &absent[..]].concat())?;
    ensure!(
        !absent.status.success()
            && String::from_utf8_lossy(&absent.stderr).contains("no-such-program")
    );
    ensure!(bed.exec("back", &["echo", "again"])? == "again\n", "a failed exec leaves its id free");
    let living = bed.node.exec(&["ctr", "task", "delete", "back"])?;
    ensure!(!living.status.success(), "a living task is not deleted");
    bed.remove("back")?;
    bed.wait_clean()
}

#[test]
fn a_signal_reaches_the_container_and_its_status_tells_it() -> Result<()> {
    let bed = Bed::new()?;
    let script = "trap 'exit 42' TERM; echo ready; while :; do sleep 0.1; done";
    let mut ran = bed.spawn(&["--rm"], "trap", &["bash", "-c", script])?;
    wait::until("the trap to be set", SOON, || {
        let exec = bed.node.exec(&["ctr", "task", "ps", "trap"])?;
        if exec.status.success() {
            Ok(())
        } else {
            Err(godwit_lab::LabError::Refused("not yet".into()))
        }
    })?;
    let mut line = String::new();
    let stdout = ran.child().stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)?;
    ensure!(line == "ready\n", "{line:?}");
    bed.node.ctr(&["task", "kill", "--signal", "SIGTERM", "trap"])?;
    let status = ran.child().wait()?;
    ensure!(status.code() == Some(42), "{status:?}");
    bed.wait_clean()
}

#[test]
fn a_hundred_short_containers_tell_their_own_statuses_and_leave_nothing() -> Result<()> {
    let bed = Bed::new()?;
    let script = "status=0
        one() {
          ctr run --rm --runtime io.containerd.godwit.v2 godwit.test/shell:latest s$1 \
            sh -c \"echo $1; exit $(($1 % 200))\" > /tmp/out$1 2>&1
          local got=$?
          test $got = $(($1 % 200)) && grep -qx $1 /tmp/out$1 || { echo \"$1: $got\"; cat /tmp/out$1; return 1; }
        }
        export -f one
        seq 1 100 | xargs -P 4 -I N bash -c 'one N'";
    let output = bed.node.exec(&["bash", "-c", script])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    bed.wait_clean()
}

#[test]
fn containers_of_one_sandbox_share_a_shim_which_outlives_the_first() -> Result<()> {
    let bed = Bed::new()?;
    let pod = ["--detach", "--annotation", "io.kubernetes.cri.sandbox-id=pod1"];
    for id in ["first", "second"] {
        bed.run(&pod, id, &["sleep", "infinity"])?;
    }
    ensure!(bed.shims()?.len() == 1, "{:?}", bed.shims()?);
    bed.remove("first")?;
    ensure!(bed.exec("second", &["echo", "here"])? == "here\n");
    bed.remove("second")?;
    bed.wait_clean()
}

#[test]
fn a_container_that_cannot_start_says_why_in_a_sentence_and_leaves_nothing() -> Result<()> {
    let bed = Bed::new()?;
    let ran = bed.spawn(&["--rm"], "bad", &["/no/such/program"])?.wait_with_output()?;
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    ensure!(!ran.status.success(), "{said}");
    ensure!(said.contains("OCI runtime") && said.contains("/no/such/program"), "{said}");
    bed.wait_clean()
}

#[test]
fn a_container_with_a_user_namespace_sees_its_image_as_its_own_and_no_layer_is_changed()
-> Result<()> {
    let bed = Bed::new()?;
    let mapped = "0:100000:65536";
    let users = ["--detach", "--uidmap", mapped, "--gidmap", mapped, "--remap-labels"];
    let root = |id: &str| bed.exec(id, &["stat", "--format", "%u:%g", "/", "/etc", "/bin/bash"]);
    bed.run(&users, "users", &["sleep", "infinity"])?;
    ensure!(root("users")? == "0:0\n0:0\n0:0\n", "{}", root("users")?);
    bed.exec("users", &["sh", "-c", "echo mine >/etc/mine"])?;
    let pid = "$(ctr task ls | awk '$1 == \"users\" {print $2}')";
    let outside =
        bed.node.sh(&format!("stat --format %u /proc/{pid} /proc/{pid}/root/etc/mine"))?;
    ensure!(outside == "100000\n100000\n", "{outside}");
    // A map of the mount, not layers that were given away.
    bed.node.sh("grep -q 'io.containerd.runtime.v2.task.*idmapped' /proc/self/mountinfo")?;
    bed.sleeper("plain")?;
    ensure!(root("plain")? == "0:0\n0:0\n0:0\n", "{}", root("plain")?);

    // Without a layer of its own its root is bound, or an overlay of layers alone.
    bed.run(&[&users[..], &["--read-only"]].concat(), "reader", &["sleep", "infinity"])?;
    ensure!(root("reader")? == "0:0\n0:0\n0:0\n", "{}", root("reader")?);
    for id in ["users", "plain", "reader"] {
        bed.remove(id)?;
    }
    bed.wait_clean()
}
