//! The host check: what a node must have, each fault with its cure. Pure: facts in, findings out.

use godwit_types::names;

use crate::containerd::config::is_ours;
use crate::host::{Cgroups, Containerd, Host, Version, bin, version};
use crate::kubelet::{Endpoint, Facts};
use crate::programs::SHIM;

/// PAGEMAP_SCAN finds the pages of a process; without it memory cannot be read before the freeze.
const OLDEST_KERNEL: Version = (6, 7);
/// The first with shims that tell what they are, and with configuration version 3.
const OLDEST_CONTAINERD: Version = (2, 0);
/// The first whose restore takes what we hand it.
const OLDEST_RUNC: Version = (1, 1);
/// Kept free beside the release: records, fences, and room for somebody else.
const SPARE: u64 = 64 << 20;

/// What one check has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub subject: &'static str,
    /// How it is.
    pub verdict: Verdict,
}

/// How it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Good; what it is.
    Good(String),
    /// Godwit can be installed, or works, but something will not work: what, and what to do.
    Limited(String),
    /// Godwit cannot be installed, or does not work: why, and what to do.
    Bad(String),
    /// It could not be looked at: why not. No fault by itself.
    Unknown(String),
}

use Verdict::{Bad, Good, Limited};

impl Verdict {
    /// The word for it, for people and programs.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Good(_) => "good",
            Self::Limited(_) => "limited",
            Self::Bad(_) => "bad",
            Self::Unknown(_) => "unknown",
        }
    }

    /// What was seen and what to do.
    #[must_use]
    pub fn told(&self) -> &str {
        match self {
            Self::Good(told) | Self::Limited(told) | Self::Bad(told) | Self::Unknown(told) => told,
        }
    }
}

/// All findings of a node that a release is to be installed on.
#[must_use]
pub fn findings(host: &Host) -> Vec<Finding> {
    let mut findings = of_node(host);
    findings.push(Finding { subject: "release", verdict: release(host) });
    findings
}

/// Findings about the node itself, whatever is installed there.
#[must_use]
pub fn of_node(host: &Host) -> Vec<Finding> {
    let mut findings = vec![
        Finding { subject: "machine", verdict: machine(host) },
        Finding { subject: "kernel", verdict: kernel(host) },
        Finding { subject: "control groups", verdict: cgroups(host) },
        Finding { subject: "machine id", verdict: machine_id(host) },
        Finding { subject: "CRIU", verdict: criu(host) },
    ];
    match &host.containerd {
        Err(why) => findings.push(Finding { subject: "containerd", verdict: Bad(why.clone()) }),
        Ok(containerd) => findings.extend([
            Finding { subject: "containerd", verdict: containerd_version(containerd) },
            Finding { subject: "configuration", verdict: configuration(containerd) },
            Finding { subject: "runtime name", verdict: conflict(containerd) },
            Finding { subject: "shim", verdict: shim(containerd) },
            Finding { subject: "runc", verdict: runc(containerd) },
        ]),
    }
    if let Some(why) = &host.agent_fault {
        findings.push(Finding { subject: "agent.toml", verdict: Bad(why.clone()) });
    }
    if let Some(facts) = &host.kubelet {
        findings.push(Finding { subject: "kubelet", verdict: kubelet(facts) });
    }
    findings
}

fn machine(host: &Host) -> Verdict {
    match host.machine.as_str() {
        "x86_64" => Good("x86_64".to_owned()),
        other => Bad(format!("this machine is {other}; Godwit runs on x86_64 only")),
    }
}

fn kernel(host: &Host) -> Verdict {
    match version(&host.kernel) {
        Some(found) if found >= OLDEST_KERNEL => Good(host.kernel.clone()),
        _ => Bad(format!(
            "the kernel is {}; Godwit needs Linux {}.{} or later: boot a newer one",
            host.kernel, OLDEST_KERNEL.0, OLDEST_KERNEL.1
        )),
    }
}

fn cgroups(host: &Host) -> Verdict {
    match host.cgroups {
        Cgroups::Unified => Good("version 2".to_owned()),
        Cgroups::Freezer => Good("version 1, with its freezer".to_owned()),
        Cgroups::None => Bad(
            "/sys/fs/cgroup has neither version 2 nor the freezer of version 1: containers cannot be frozen. Boot with \
             systemd.unified_cgroup_hierarchy=1"
                .to_owned(),
        ),
    }
}

fn machine_id(host: &Host) -> Verdict {
    match host.has_machine_id {
        true => Good("is there".to_owned()),
        false => Bad(format!(
            "{} is empty; stores tell nodes apart by it: run systemd-machine-id-setup",
            names::MACHINE_ID
        )),
    }
}

fn criu(host: &Host) -> Verdict {
    let path = host.criu.display();
    match &host.criu_answers {
        Err(why) => Bad(format!(
            "{path} cannot be used ({why}): install CRIU 4.1 or later, there or where `criu` in {} says",
            names::AGENT_CONFIG
        )),
        Ok(probe) if !probe.lazy_pages => Limited(format!(
            "{path} says that this kernel has no userfaultfd that it can use: containers can be checkpointed here, restores will \
             be refused. Take a kernel with CONFIG_USERFAULTFD"
        )),
        Ok(probe) => Good(format!("{path}, version {}", probe.version)),
    }
}

fn release(host: &Host) -> Verdict {
    if let [dir, ..] = host.read_only.as_slice() {
        return Bad(format!(
            "{} cannot be written: its file system is mounted for reading. Godwit needs a node whose /usr/local, /usr/libexec and /etc \
             can be written",
            dir.display()
        ));
    }
    match &host.release {
        Err(why) => Bad(why.clone()),
        Ok(release) if host.free < release.bytes + SPARE => Bad(format!(
            "the release needs {} MiB, and {} MiB are free where it goes: make room, or choose another place by --prefix",
            (release.bytes + SPARE) >> 20,
            host.free >> 20
        )),
        Ok(release) => Good(format!("{}, {} MiB", release.id, release.bytes >> 20)),
    }
}

fn containerd_version(containerd: &Containerd) -> Verdict {
    match version(&containerd.version) {
        Some(found) if found >= OLDEST_CONTAINERD => Good(containerd.version.clone()),
        _ => Bad(format!(
            "containerd is {}; Godwit needs {}.{} or later: upgrade it",
            containerd.version, OLDEST_CONTAINERD.0, OLDEST_CONTAINERD.1
        )),
    }
}

fn configuration(containerd: &Containerd) -> Verdict {
    match &containerd.config_fault {
        None => Good(containerd.daemon.config.display().to_string()),
        Some(why) => Bad(why.clone()),
    }
}

fn conflict(containerd: &Containerd) -> Verdict {
    let name = names::RUNTIME_HANDLER;
    match containerd.ours.as_deref() {
        None => Good(format!("`{name}` is free")),
        Some(starter) if is_ours(starter) => Good(format!("`{name}` is ours")),
        Some(other) => Bad(format!(
            "containerd's configuration has another runtime `{name}`, {other}: rename it there, or take it out"
        )),
    }
}

fn shim(containerd: &Containerd) -> Verdict {
    let path = &containerd.daemon.path;
    let place = bin().join(SHIM);
    if !path.split(':').any(|dir| std::path::Path::new(dir) == bin()) {
        return Bad(format!(
            "containerd does not look for shims in {}: add it to PATH in its unit (Environment=PATH=…; now {path})",
            bin().display()
        ));
    }
    match &containerd.shim {
        Some(found) if *found != place => {
            Bad(format!("containerd finds another shim first, {}: remove it", found.display()))
        }
        _ => Good(place.display().to_string()),
    }
}

fn runc(containerd: &Containerd) -> Verdict {
    match containerd.runc.as_deref() {
        Some(said) if version(said).is_some_and(|found| found >= OLDEST_RUNC) => {
            Good(said.to_owned())
        }
        Some(said) => Bad(format!(
            "runc says `{said}`; Godwit needs {}.{} or later: upgrade it",
            OLDEST_RUNC.0, OLDEST_RUNC.1
        )),
        None => Bad(format!(
            "containerd finds no runc in its PATH ({}): install runc (crun cannot restore)",
            containerd.daemon.path
        )),
    }
}

/// Whether its endpoint can be changed where we were told.
pub(crate) fn kubelet(facts: &Facts) -> Verdict {
    let path = facts.path.display();
    match &facts.endpoint {
        Err(why) => return Bad(why.clone()),
        Ok(Endpoint::Other(other)) => {
            return Bad(format!(
                "the kubelet's containers are somebody else's ({other}): name their containerd's socket by --containerd-socket"
            ));
        }
        Ok(Endpoint::Unsaid | Endpoint::Ours | Endpoint::Containerd) => {}
    }
    match &facts.flag {
        Some(flag) => Bad(format!(
            "the kubelet's command line says --container-runtime-endpoint={flag}, which goes before {path}: take it out there (kubeadm \
             has it in /var/lib/kubelet/kubeadm-flags.env) and restart the kubelet"
        )),
        None if !facts.is_read => Bad(format!(
            "the kubelet that runs does not read {path}: name what its command line says by --config or --config-dir"
        )),
        None => Good(facts.path.display().to_string()),
    }
}

#[cfg(test)]
mod tests;
