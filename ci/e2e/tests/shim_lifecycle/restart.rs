//! containerd is killed and started again while containers are in every state.

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api::StartRequest;
use godwit_e2e::container::BUNDLES;
use godwit_lab::wait;

use super::kit::{Bed, SOON, context, exists};

/// A runc that waits in one of its commands until the file `/tmp/go` is there.
fn slow_runc(bed: &Bed, verb: &str) -> Result<()> {
    let script = format!(
        "#!/bin/bash\n\
         case \" $* \" in *\" {verb} \"*) touch /tmp/waiting; until test -e /tmp/go; do sleep 0.05; done;; esac\n\
         exec /usr/sbin/runc \"$@\"\n"
    );
    bed.node.write_file("/usr/local/sbin/runc", script)?;
    bed.node.run(&["chmod", "+x", "/usr/local/sbin/runc"])?;
    bed.node.run(&["rm", "-f", "/tmp/waiting", "/tmp/go"]).map(drop).map_err(Into::into)
}

fn restart(bed: &Bed) -> Result<()> {
    bed.node.kill_containerd()?;
    bed.node.start_containerd()?;
    Ok(())
}

#[test]
fn running_paused_and_stopped_tasks_are_found_again() -> Result<()> {
    let bed = Bed::new()?;
    for id in ["running", "paused", "stopped"] {
        bed.sleeper(id)?;
    }
    bed.node.ctr(&["task", "pause", "paused"])?;
    bed.node.ctr(&["task", "kill", "--signal", "SIGKILL", "stopped"])?;
    bed.wait_listed("stopped", "STOPPED")?;
    restart(&bed)?;
    for (id, state) in [("running", "RUNNING"), ("paused", "PAUSED"), ("stopped", "STOPPED")] {
        bed.wait_listed(id, state)?;
    }
    ensure!(bed.exec("running", &["echo", "here"])? == "here\n");
    bed.node.ctr(&["task", "resume", "paused"])?;
    ensure!(bed.exec("paused", &["echo", "here"])? == "here\n");
    ensure!(bed.delete("stopped")? == 137, "its status was kept");
    bed.remove("running")?;
    bed.remove("paused")?;
    bed.wait_clean()
}

#[test]
fn an_exit_while_containerd_is_away_is_told_when_it_is_back() -> Result<()> {
    let bed = Bed::new()?;
    bed.run(
        &["--detach"],
        "ends",
        &["sh", "-c", "until test -e /end; do sleep 0.05; done; exit 9"],
    )?;
    let end = &format!("{BUNDLES}/ends/rootfs/end");
    bed.node.kill_containerd()?;
    bed.node.write_file(end, "")?;
    wait::until("the container to end", SOON, || {
        let running = bed.node.sh("pgrep --full '^sh -c until' || true")?;
        if running.is_empty() { Ok(()) } else { Err(godwit_lab::LabError::Refused(running)) }
    })?;
    bed.node.start_containerd()?;
    bed.wait_listed("ends", "STOPPED")?;
    ensure!(bed.delete("ends")? == 9, "its status was kept");
    bed.wait_clean()
}

#[test]
fn a_start_under_way_goes_on_without_containerd() -> Result<()> {
    let bed = Bed::new()?;
    for verb in ["create", "start"] {
        slow_runc(&bed, verb)?;
        // An id that is no word of runc's.
        let id = &format!("slow-{verb}");
        let run = bed.spawn(&["--detach"], id, &["sleep", "98765"])?;
        wait::until_true("runc to be called", SOON, || {
            exists(&bed.node, "/tmp/waiting").unwrap_or(false)
        })?;
        restart(&bed)?;
        drop(run.wait_with_output()?);
        // It is known although it has no process that runs, and asking does not wait for runc.
        ensure!(bed.listed(id)? == "CREATED", "{}", bed.listed(id)?);
        bed.node.write_file("/tmp/go", "")?;
        match verb {
            "start" => bed.wait_listed(id, "RUNNING")?,
            _ => {
                wait::until("runc to have created it", SOON, || {
                    bed.node.sh("pgrep --full '^sleep 98765' || pgrep --full 'runc init'")
                })?;
                bed.node
                    .ctr(&["task", "start", "--detach", id])
                    .err()
                    .context("its task exists")?;
                // Created, and nobody is about to start it: it waits, and can be started.
                restart(&bed)?;
                ensure!(bed.listed(id)? == "CREATED", "{}", bed.listed(id)?);
                let start = StartRequest { id: id.clone(), ..Default::default() };
                bed.task(id)?.start(context(), &start)?;
                bed.wait_listed(id, "RUNNING")?;
            }
        }
        bed.node.run(&["rm", "/usr/local/sbin/runc"])?;
        bed.node.exec(&["ctr", "task", "kill", "--signal", "SIGKILL", id])?;
        wait::until("its task to be deleted", SOON, || {
            bed.node.ctr(&["task", "delete", "--force", id]).or_else(|why| {
                if bed.listed(id).is_ok_and(|now| now == "ABSENT") {
                    Ok(String::new())
                } else {
                    Err(why)
                }
            })
        })?;
        bed.node.ctr(&["container", "delete", id])?;
        bed.wait_clean()?;
    }
    Ok(())
}

#[test]
fn output_is_neither_lost_nor_cut_by_a_restart() -> Result<()> {
    let bed = Bed::new()?;
    let script = "i=0; until test -e /end; do i=$((i+1)); echo $i; sleep 0.01; done; echo $i";
    bed.run(&["--detach", "--log-uri", "file:///tmp/lines"], "lines", &["bash", "-c", script])?;
    restart(&bed)?;
    // From outside: who ends the container from inside may be killed with it.
    bed.node.run(&["touch", &format!("{BUNDLES}/lines/rootfs/end")])?;
    bed.wait_listed("lines", "STOPPED")?;
    bed.node.ctr(&["task", "delete", "lines"])?;
    bed.node.ctr(&["container", "delete", "lines"])?;
    let log = bed.node.read_file("/tmp/lines")?;
    let numbers: Vec<u64> = log.lines().map(str::parse).collect::<Result<_, _>>()?;
    let (last, before) = numbers.split_last().context("there are lines")?;
    ensure!(before.iter().copied().eq(1..=*last), "{} lines, last {last}", numbers.len());
    bed.wait_clean()
}
