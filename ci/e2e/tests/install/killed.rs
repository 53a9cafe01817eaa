//! The installer dies after every step, at every write, before every change, on the way there and on the way back. Each time
//! containerd's configuration can be read, after steps containerd is started with it and runs a container; then the same command goes on.

use anyhow::{Result, ensure};
use godwit_lab::AgentOptions;

use crate::kit::{Bed, DEBIAN};

/// More deaths than there are steps mean that it does not get on.
const MOST: usize = 100;
const RUNC: &str = "io.containerd.runc.v2";

/// Runs the installer, which dies each time at the same site, until it does not. How often it died.
pub(crate) fn dies(
    bed: &Bed,
    site: &str,
    words: &[&str],
    after: impl Fn() -> Result<()>,
) -> Result<usize> {
    for deaths in 0..MOST {
        let ended = bed.killed_at(site, words)?;
        after()?;
        if !ended.died() {
            return Ok(deaths);
        }
    }
    anyhow::bail!("it does not get on");
}

#[test]
fn an_installer_that_dies_after_any_step_leaves_a_working_runtime_and_goes_on() -> Result<()> {
    let bed = Bed::up(DEBIAN)?;
    let before = bed.snapshot()?;
    let works = || {
        bed.restart_containerd()?;
        bed.runs_containers(RUNC)
    };
    let deaths = dies(&bed, "install.step", &[], works)?;
    ensure!(deaths > 10, "only {deaths} steps");
    bed.node.start_agent(&AgentOptions::default())?;
    bed.install(&[])?.done()?.says("has loaded the runtime")?;
    bed.runs_containers("io.containerd.godwit.v2")?;

    bed.node.kill_agent()?;
    let deaths = dies(&bed, "install.step", &["--revert"], works)?;
    ensure!(deaths > 10, "only {deaths} steps");
    bed.reverted(&[])?;
    bed.is_as(&before)?;
    bed.done();
    Ok(())
}

#[test]
fn an_installer_that_dies_at_any_write_leaves_a_readable_configuration_and_is_undone() -> Result<()>
{
    let bed = Bed::up(DEBIAN)?;
    let before = bed.snapshot()?;
    let reads = || bed.node.sh("containerd config dump >/dev/null").map(drop).map_err(Into::into);
    for write in 1.. {
        let ended = bed.killed_at(&format!("install.written:{write}"), &[])?;
        reads()?;
        if !ended.died() {
            ensure!(write > 20, "only {write} writes");
            break;
        }
        bed.install(&["--revert"])?.done()?;
        bed.is_as(&before)?;
    }
    // The second of a run: the one before it is made by the next run.
    let deaths = dies(&bed, "install.written:2", &["--revert"], reads)?;
    ensure!(deaths > 10, "only {deaths} writes");
    bed.is_as(&before)?;
    bed.done();
    Ok(())
}

#[test]
fn an_installer_that_dies_before_any_change_goes_on() -> Result<()> {
    let bed = Bed::up(DEBIAN)?;
    let before = bed.snapshot()?;
    let deaths = dies(&bed, "install.noted:2", &[], || Ok(()))?;
    ensure!(deaths > 5, "only {deaths} changes");
    bed.restart_containerd()?;
    bed.runs_containers("io.containerd.godwit.v2")?;
    bed.reverted(&[])?;
    bed.is_as(&before)?;
    bed.done();
    Ok(())
}
