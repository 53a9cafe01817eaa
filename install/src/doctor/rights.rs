//! What kernel and security modules permit: CRIU's own look at the kernel, what the running agent may do, and who else has a say.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::netfilter;
use crate::check::{Finding, Verdict};
use crate::process::output;
use crate::{agent, error_chain, host};
use Verdict::{Bad, Good, Limited, Unknown};

/// Features of the kernel that CRIU can be asked for one by one, and what does not work without each.
const FEATURES: [(&str, &str); 6] = [
    ("pagemap_scan", "memory cannot be read while a container runs (Linux 6.7 has it)"),
    (
        "seccomp_filters",
        "containers with a seccomp filter cannot be checkpointed (CONFIG_SECCOMP_FILTER)",
    ),
    (
        "seccomp_suspend",
        "containers with a seccomp filter cannot be looked into (CONFIG_CHECKPOINT_RESTORE)",
    ),
    (
        "get_rseq_conf",
        "programs with a C library of 2022 or later cannot be checkpointed (CONFIG_RSEQ)",
    ),
    ("clone3_set_tid", "processes cannot be given their numbers back (CONFIG_CHECKPOINT_RESTORE)"),
    ("external_net_ns", "pods cannot be continued in the network of the new pod (CONFIG_NET_NS)"),
];
/// What the agent, and CRIU after it, cannot do without, by the numbers of `<linux/capability.h>`.
const NEEDED: [(u32, &str); 14] = [
    (0, "CHOWN"),
    (1, "DAC_OVERRIDE"),
    (2, "DAC_READ_SEARCH"),
    (3, "FOWNER"),
    (4, "FSETID"),
    (5, "KILL"),
    (6, "SETGID"),
    (7, "SETUID"),
    (8, "SETPCAP"),
    (12, "NET_ADMIN"),
    (18, "SYS_CHROOT"),
    (19, "SYS_PTRACE"),
    (21, "SYS_ADMIN"),
    (27, "MKNOD"),
];
const SYS_RESOURCE: u32 = 24;
const APPARMOR: &str = "/sys/module/apparmor/parameters/enabled";
const SELINUX: &str = "/sys/fs/selinux/enforce";
/// What to do about it.
const START: &str = "start it with all that root has (under systemd no CapabilityBoundingSet= and no SystemCallFilter= in its unit: \
                     `systemctl cat godwit-agent`; in a container: privileged)";

pub(super) fn examine(socket: &Path) -> Vec<Finding> {
    let criu = host::criu(None);
    let ask = |words: &[&str]| {
        let asked = output(Command::new(&criu).arg("check").args(words));
        asked.map(drop).map_err(|why| error_chain(&why))
    };
    let missing = FEATURES.iter().filter(|(name, _)| ask(&["--feature", name]).is_err());
    let pid = agent::pid(socket);
    vec![
        Finding {
            subject: "CRIU check",
            verdict: kernel(ask(&[]), &missing.copied().collect::<Vec<_>>()),
        },
        Finding { subject: "agent's rights", verdict: rights(pid.and_then(Rights::of)) },
        Finding { subject: "security modules", verdict: Modules::look(pid).verdict() },
        netfilter::examine(),
    ]
}

/// What CRIU says of this kernel, and which features it lacks.
fn kernel(check: Result<(), String>, missing: &[(&str, &str)]) -> Verdict {
    if let Err(why) = check {
        return Bad(format!(
            "this kernel lacks what CRIU cannot do without ({why}): take your distribution's kernel, or one with \
             CONFIG_CHECKPOINT_RESTORE"
        ));
    }
    let lacks = |(name, what): &(&str, &str)| format!("no {name}: {what}");
    match missing {
        [] => Good("this kernel has what CRIU is used for here".to_owned()),
        missing => Limited(format!(
            "{}. Take a kernel that has it, or a newer CRIU, which may know it",
            missing.iter().map(lacks).collect::<Vec<_>>().join("; ")
        )),
    }
}

/// What a process may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rights {
    /// Capabilities in effect, a bit each.
    effective: u64,
    /// A seccomp filter is upon it.
    filtered: bool,
}

impl Rights {
    fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
    }

    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim_start_matches(':').trim())
        };
        Some(Self {
            effective: u64::from_str_radix(field("CapEff")?, 16).ok()?,
            filtered: field("Seccomp").is_some_and(|mode| mode != "0"),
        })
    }

    fn has(self, capability: u32) -> bool {
        self.effective & (1 << capability) != 0
    }
}

fn rights(agent: Option<Rights>) -> Verdict {
    let Some(agent) = agent else { return Unknown("no agent runs".to_owned()) };
    let lacking: Vec<_> = NEEDED.iter().filter(|(number, _)| !agent.has(*number)).collect();
    if !lacking.is_empty() {
        let names: Vec<String> = lacking.iter().map(|(_, name)| format!("CAP_{name}")).collect();
        return Bad(format!("the agent lacks {}, and so does CRIU: {START}", names.join(", ")));
    }
    if agent.filtered {
        return Bad(format!(
            "the agent is under a seccomp filter, and so is CRIU, which cannot work under one: {START}"
        ));
    }
    match agent.has(SYS_RESOURCE) {
        true => Good("the agent may do what CRIU has to".to_owned()),
        false => Limited(format!(
            "the agent lacks CAP_SYS_RESOURCE: containers whose processes are not root's are not checkpointed, and under lack of memory \
             the kernel may end CRIU in the middle of a checkpoint: {START}"
        )),
    }
}

/// The security modules that can refuse what root may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Modules {
    apparmor: bool,
    /// Whether it refuses, or only tells; nothing where it is off.
    selinux: Option<bool>,
    /// What confines the agent.
    agent: Option<String>,
}

impl Modules {
    fn look(agent: Option<u32>) -> Self {
        let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let confined = |pid: u32| read(&format!("/proc/{pid}/attr/current"));
        Self {
            apparmor: read(APPARMOR).is_some_and(|on| on == "Y"),
            selinux: read(SELINUX).map(|on| on == "1"),
            agent: agent.and_then(confined).filter(|label| !label.is_empty()),
        }
    }

    fn verdict(&self) -> Verdict {
        match (&self.agent, self.selinux) {
            (Some(profile), _) if self.apparmor && profile != "unconfined" => Bad(format!(
                "AppArmor confines the agent, and CRIU with it, by the profile {profile}: take the agent out of it (`aa-status` lists \
                 who is in which)"
            )),
            (label, Some(true)) => Limited(format!(
                "SELinux is enforcing, which no release of Godwit was tried with (the agent is {}): what it denies is in `ausearch \
                 --message avc --comm criu`; permit that, or `setenforce 0` to see whether it is the cause",
                label.as_deref().unwrap_or("not labelled")
            )),
            (_, Some(false)) => Good("SELinux only tells".to_owned()),
            (_, None) if self.apparmor => Good(
                "AppArmor confines containers only; a profile that a pod names must be loaded on each node that may continue it".to_owned(),
            ),
            (_, None) => Good("neither AppArmor nor SELinux is on".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(verdict: &Verdict, word: &str, says: &str) {
        assert!(verdict.word() == word && verdict.told().contains(says), "{verdict:?}");
    }

    #[test]
    fn what_a_kernel_lacks_is_told_with_what_does_not_work() {
        is(&kernel(Ok(()), &[]), "good", "has what");
        is(&kernel(Err("no pagemap".to_owned()), &[]), "bad", "CONFIG_CHECKPOINT_RESTORE");
        is(&kernel(Ok(()), &FEATURES[..2]), "limited", "no seccomp_filters: containers with");
    }

    #[test]
    fn what_the_agent_may_not_do_is_named() {
        let all = Rights { effective: (1 << 41) - 1, filtered: false };
        let without = |number: u32| Rights { effective: all.effective & !(1 << number), ..all };
        is(&rights(Some(all)), "good", "may do");
        is(&rights(Some(without(SYS_RESOURCE))), "limited", "CAP_SYS_RESOURCE");
        is(&rights(Some(without(19))), "bad", "CAP_SYS_PTRACE,");
        is(&rights(Some(Rights { filtered: true, ..all })), "bad", "seccomp");
        is(&rights(None), "unknown", "no agent");
    }

    #[test]
    fn rights_are_read_as_the_kernel_writes_them() {
        let status = "Name:\tx\nCapInh:\t0000000000000000\nCapEff:\t000001fffeffffff\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        let read = Rights::parse(status).unwrap();
        assert!(read.filtered && read.has(21) && !read.has(SYS_RESOURCE));
        assert_eq!(Rights::parse("Name:\tx\n"), None);
        assert!(Rights::of(std::process::id()).is_some(), "this machine has a /proc");
    }

    #[test]
    fn a_security_module_that_has_a_say_is_named() {
        let none = Modules::default();
        is(&none.verdict(), "good", "neither");
        let apparmor = |profile: &str| Modules {
            apparmor: true,
            agent: Some(profile.to_owned()),
            ..Modules::default()
        };
        is(&apparmor("unconfined").verdict(), "good", "loaded on each node");
        is(&apparmor("agent (enforce)").verdict(), "bad", "aa-status");
        is(&Modules { selinux: Some(true), ..none.clone() }.verdict(), "limited", "ausearch");
        is(&Modules { selinux: Some(false), ..none }.verdict(), "good", "only tells");
    }
}
