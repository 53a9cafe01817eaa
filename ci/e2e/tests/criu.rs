//! CRIU, runc and the relay on a node, without containerd: real processes go on where they were.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use godwit_lab::{CgroupView, Lab, LabOptions, default_bin_dir};

/// Runs a scenario of `criu_lab` in a fresh node.
fn scenario(name: &str, cgroup: CgroupView) -> Result<()> {
    let lab = Lab::up(&LabOptions::for_tests().nodes(&["n1"]).cgroup(cgroup))?;
    let node = lab.node("n1")?;
    let relay = default_bin_dir().join("godwit-relay");
    ensure!(relay.exists(), "{} is not built: `make build`", relay.display());
    node.put_program(&relay, "/opt/relay/criu")?;
    node.put_program(Path::new(env!("CARGO_BIN_EXE_criu_lab")), "/opt/criu_lab")?;
    let words = ["/opt/criu_lab", "scenario", name, "--relay", "/opt/relay"];
    let output = node.run(&words).with_context(|| format!("{name} on {cgroup:?}"))?;
    println!("{output}");
    Ok(())
}

#[test]
fn a_container_goes_on_in_another_pod_twice() -> Result<()> {
    scenario("goes-on", CgroupView::V1)?;
    scenario("goes-on", CgroupView::V2)
}

#[test]
fn a_container_with_namespaces_of_its_own_goes_on_with_new_ones() -> Result<()> {
    scenario("own-namespaces", CgroupView::V1)?;
    scenario("own-namespaces", CgroupView::V2)
}

#[test]
fn a_container_goes_on_before_its_memory_is_there() -> Result<()> {
    scenario("lazy", CgroupView::V1)?;
    scenario("lazy", CgroupView::V2)
}

#[test]
fn a_restore_that_is_refused_while_held_leaves_nothing_and_can_be_repeated() -> Result<()> {
    scenario("refused", CgroupView::V2)
}

#[test]
fn dumps_and_rolled_back_dumps_leave_the_container_running() -> Result<()> {
    scenario("leaves-running", CgroupView::V1)?;
    scenario("leaves-running", CgroupView::V2)
}
