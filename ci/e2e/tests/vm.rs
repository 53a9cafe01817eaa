//! What users really run: a stock Debian with systemd and cgroup v2, in a virtual machine. The installer makes the agent a service of
//! systemd, and a container moves.
//!
//! `make vm-test` runs all of it; `make test` only what is not ignored: everything takes ten times as long in there.

#[path = "vm/full.rs"]
mod full;
#[path = "vm/kit.rs"]
mod kit;

use anyhow::{Result, ensure};
use godwit_e2e::release::Release;
use godwit_lab::default_bin_dir;

use crate::kit::{Bed, Counter};

#[test]
fn a_stock_machine_is_installed_a_container_moves_and_all_is_taken_off() -> Result<()> {
    let bed = Bed::up(&Release::whole(&default_bin_dir()))?;
    let before = bed.snapshot()?;
    bed.install(&[])?;
    let unit = bed.vm.sh("systemctl is-active godwit-agent; systemctl is-enabled godwit-agent")?;
    ensure!(unit == "active\nenabled\n", "{unit}");
    let again = bed.install(&[])?;
    ensure!(!again.contains("write") && !again.contains("restart"), "{again}");

    let web = Counter::new("web");
    web.run(&bed)?;
    let at = web.wait_beyond(&bed, 3)?;
    let point = web.checkpoint(&bed, &["--stop"])?;
    web.remove(&bed)?;
    web.restore(&bed, &point)?;
    web.wait_beyond(&bed, at)?;

    let refused = bed.refused(&["--revert"])?;
    ensure!(refused.contains("container web in namespace default"), "{refused}");
    web.remove(&bed)?;
    bed.install(&["--revert"])?;
    bed.is_as(&before)?;
    let left =
        bed.vm.sh("systemctl is-active containerd; systemctl cat godwit-agent 2>&1 || true")?;
    ensure!(left.starts_with("active\n") && left.contains("No files found"), "{left}");
    bed.runs_plain_containers()
}
