//! What users really run: a stock Debian with systemd and cgroup v2, in a virtual machine. The installer makes the agent a service of
//! systemd, and a container moves.
//!
//! `make vm-test` runs all of it; `make test` only what is not ignored: everything takes ten times as long in there.

#[path = "vm/full.rs"]
mod full;
#[path = "vm/killed.rs"]
mod killed;
#[path = "vm/kit.rs"]
mod kit;
#[path = "vm/kubelet.rs"]
mod kubelet;
#[path = "vm/pod.rs"]
mod pod;

use anyhow::{Result, ensure};
use godwit_e2e::release::Release;
use godwit_lab::default_bin_dir;

use crate::kit::{Bed, Counter};

/// Where a kubelet would have its configuration.
const KUBELET: &str = "/root/kubelet.yaml";

#[test]
fn a_stock_machine_is_installed_a_container_moves_and_all_is_taken_off() -> Result<()> {
    let bed = Bed::up(&Release::whole(&default_bin_dir()))?;
    let before = bed.snapshot()?;
    let kubelet = ["--kubelet-config", KUBELET];
    let own = "kind: KubeletConfiguration\nmaxPods: 60\n";
    bed.vm.sh(&format!("printf '{own}' >{KUBELET}"))?;
    bed.install(&kubelet)?;
    let unit = bed.vm.sh("systemctl is-active godwit-agent; systemctl is-enabled godwit-agent")?;
    ensure!(unit == "active\nenabled\n", "{unit}");
    // The installer has asked containerd by way of its socket, which has started it.
    let proxy = bed.vm.sh(
        "systemctl is-active godwit-cri-proxy.socket godwit-cri-proxy; systemctl is-enabled godwit-cri-proxy.socket",
    )?;
    ensure!(proxy == "active\nactive\nenabled\n", "{proxy}");
    let endpoint = bed.vm.sh(&format!("grep containerRuntimeEndpoint {KUBELET}"))?;
    ensure!(endpoint == "containerRuntimeEndpoint: unix:///run/godwit/cri.sock\n", "{endpoint}");
    let again = bed.install(&kubelet)?;
    ensure!(!again.contains("write") && !again.contains("restart"), "{again}");
    let checks = bed.vm.sh("godwit doctor")?;
    let of_node = ["CRIU check", "agent's rights", "security modules", "netfilter"];
    let of_release = ["units", "programs", "runtime", "CRI proxy", "agent", "store"];
    for check in of_node.iter().chain(&of_release) {
        let is_good = |line: &str| line.starts_with(&format!("good      {check}  "));
        ensure!(checks.lines().any(is_good), "{check}: {checks}");
    }
    // An emulated machine may be slow.
    let stop = "systemctl stop godwit-agent && ! godwit doctor &&
        sed -i 's/^freeze_deadline.*/freeze_deadline = \"5min\"/' /etc/godwit/agent.toml && systemctl start godwit-agent";
    let checks = bed.vm.sh(stop)?;
    ensure!(checks.contains("`systemctl start godwit-agent`"), "{checks}");

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
    ensure!(bed.vm.sh(&format!("cat {KUBELET}"))? == own, "not given back");
    bed.nothing_is_left()?;
    bed.runs_plain_containers()
}
