//! `kill -9` of the shim: containerd calls `delete`, and everything is over and told.

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::events::Events;
use godwit_lab::CgroupView;

use super::kit::{Bed, kill};

fn shim_dies(view: CgroupView) -> Result<()> {
    let bed = Bed::with(view)?;
    let pod =
        ["--detach", "--cpu-shares", "0", "--annotation", "io.kubernetes.cri.sandbox-id=pod1"];
    for (id, state) in [("running", "RUNNING"), ("paused", "PAUSED"), ("stopped", "STOPPED")] {
        // Longer than any test, and another than the node's own.
        bed.run(&pod, id, &["sleep", "98765"])?;
        match state {
            "PAUSED" => drop(bed.node.ctr(&["task", "pause", id])?),
            "STOPPED" => drop(bed.node.ctr(&["task", "kill", "--signal", "SIGKILL", id])?),
            _ => {}
        }
        bed.wait_listed(id, state)?;
    }
    let shims = bed.shims()?;
    ensure!(shims.len() == 1, "{shims:?}");
    kill(&bed.node, shims[0])?;
    for id in ["running", "paused", "stopped"] {
        bed.wait_listed(id, "ABSENT")?;
        bed.node.ctr(&["container", "delete", id])?;
    }
    bed.wait_clean()?;
    let alive = bed.node.sh("pgrep --list-full --full '^sleep 98765' || true")?;
    ensure!(alive.is_empty(), "{alive}");
    // The ids are free again.
    bed.run(&pod, "running", &["sleep", "infinity"])?;
    bed.remove("running")?;
    bed.wait_clean()
}

#[test]
fn a_killed_shim_takes_its_containers_with_it_on_each_version_of_cgroups() -> Result<()> {
    CgroupView::of_machine()?
        .into_iter()
        .try_for_each(|view| shim_dies(view).with_context(|| format!("on {view:?}")))
}

#[test]
fn a_container_that_had_ended_when_its_shim_was_killed_keeps_its_exit_status() -> Result<()> {
    let bed = Bed::new()?;
    let events = Events::of(&bed.node)?;
    bed.run(&["--detach"], "ended", &["bash", "-c", "exit 42"])?;
    events.wait_for("/tasks/exit", "ended")?;
    kill(&bed.node, bed.shims()?[0])?;
    // containerd tells the end again, as it hears it from `delete`.
    let told = events.wait_for("/tasks/exit", "ended")?;
    ensure!(told["exit_status"] == 42, "{told}");
    bed.wait_listed("ended", "ABSENT")
}
