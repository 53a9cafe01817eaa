//! Who the processes are: ids, capabilities, `no_new_privs`, priority; and whether their filters are there ([`seccomp`]).

use std::collections::BTreeSet;

use godwit_criu_rpc::images::{Core, Creds, ThreadCore};
use oci_spec::runtime::{Capability, Process, Spec};

use super::{Refusal, lsm, seccomp};
use crate::Error;
use crate::images::ImageDir;
use crate::images::tasks::{self, Task};

/// Number of CAP_SETGID, CAP_SETUID, CAP_SYS_NICE in `<linux/capability.h>`.
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
const CAP_SYS_NICE: u32 = 23;

/// `SCHED_FIFO`, `SCHED_RR`, `SCHED_DEADLINE`.
const REAL_TIME: [u32; 3] = [1, 2, 6];

pub(super) fn check(images: &ImageDir, spec: &Spec, tasks: &[Task]) -> Result<Vec<Refusal>, Error> {
    let rules = Rules::of(spec);
    let mut chains = seccomp::Chains::read(images, spec)?;
    let mut refusals = Vec::new();
    // A zombie has no credentials that matter.
    for task in tasks.iter().filter(|t| !t.zombie) {
        // CRIU writes no filter for the other threads where all of them share the leader's: it restores those by TSYNC.
        let mut synced = false;
        for pid in &task.threads {
            let core = tasks::core(images, *pid)?;
            let thread = thread_core(*pid, &core)?;
            rules.thread(*pid, thread, &mut refusals)?;
            refusals.extend(chains.check(*pid, &core, thread, synced)?);
            if *pid == task.vpid {
                synced = chains.are_synced(thread);
            }
        }
    }
    Ok(refusals)
}

fn thread_core(pid: u32, core: &Core) -> Result<&ThreadCore, Error> {
    core.thread_core.as_ref().ok_or_else(|| missing(pid, "thread record"))
}

fn missing(pid: u32, what: &str) -> Error {
    Error::image(format!("core-{pid}.img"), format!("has no {what}"))
}

/// What the spec allows.
struct Rules {
    bounding: BTreeSet<u32>,
    no_new_privs: bool,
    /// Who everybody is and stays, if nobody can change it.
    users: Option<BTreeSet<u32>>,
    groups: Option<BTreeSet<u32>>,
    lsm: lsm::Confinement,
}

impl Rules {
    fn of(spec: &Spec) -> Self {
        let process = spec.process().as_ref();
        let bounding = process.map(bounding).unwrap_or_default();
        let no_new_privs = process.and_then(Process::no_new_privileges).unwrap_or(false);
        let fixed = |capability| no_new_privs && !bounding.contains(&capability);
        let user = process.map(Process::user);
        let users = user.filter(|_| fixed(CAP_SETUID)).map(|u| BTreeSet::from([u.uid()]));
        let groups = user.filter(|_| fixed(CAP_SETGID)).map(|u| {
            let more = u.additional_gids().as_deref().unwrap_or_default();
            more.iter().copied().chain([u.gid()]).collect()
        });
        Self { bounding, no_new_privs, users, groups, lsm: lsm::Confinement::of(spec) }
    }

    fn thread(&self, pid: u32, thread: &ThreadCore, out: &mut Vec<Refusal>) -> Result<(), Error> {
        let creds = thread.creds.as_ref().ok_or_else(|| missing(pid, "credentials"))?;
        self.capabilities(pid, creds, out);
        self.ids(pid, creds, out);
        if self.no_new_privs && creds.no_new_privs != Some(1) {
            out.push(Refusal::NoNewPrivs { pid });
        }
        out.extend(self.lsm.check(pid, creds.lsm_profile.as_deref()));
        let real_time = REAL_TIME.contains(&thread.sched_policy.unwrap_or(0));
        if (real_time || thread.sched_nice() < 0) && !self.bounding.contains(&CAP_SYS_NICE) {
            out.push(Refusal::Priority { pid });
        }
        Ok(())
    }

    fn capabilities(&self, pid: u32, creds: &Creds, out: &mut Vec<Refusal>) {
        let sets = [&creds.cap_inh, &creds.cap_prm, &creds.cap_eff, &creds.cap_bnd, &creds.cap_amb];
        let held: BTreeSet<u32> = sets.into_iter().flat_map(|words| bits(words)).collect();
        for number in held.difference(&self.bounding) {
            out.push(Refusal::Capability { pid, capability: capability_name(*number) });
        }
    }

    fn ids(&self, pid: u32, creds: &Creds, out: &mut Vec<Refusal>) {
        let users = [creds.uid, creds.euid, creds.suid, creds.fsuid];
        let mut groups = vec![creds.gid, creds.egid, creds.sgid, creds.fsgid];
        groups.extend(&creds.groups);
        for (what, ids, allowed) in
            [("user", users.to_vec(), &self.users), ("group", groups, &self.groups)]
        {
            let Some(allowed) = allowed else { continue };
            let foreign: BTreeSet<u32> =
                ids.into_iter().filter(|id| !allowed.contains(id)).collect();
            out.extend(foreign.into_iter().map(|id| Refusal::Id { pid, what, id }));
        }
    }
}

fn bounding(process: &Process) -> BTreeSet<u32> {
    let set = process.capabilities().as_ref().and_then(|c| c.bounding().as_ref());
    set.into_iter().flatten().map(|c| number(*c)).collect()
}

/// Capability sets are words of 32 bits, the lowest first.
fn bits(words: &[u32]) -> impl Iterator<Item = u32> + '_ {
    let word = |(i, w): (usize, &u32)| {
        let (base, w) = (u32::try_from(i * 32).unwrap_or(u32::MAX), *w);
        (0..32).filter(move |b| w & (1 << b) != 0).map(move |b| base.saturating_add(b))
    };
    words.iter().enumerate().flat_map(word)
}

/// By number, from 0 on (`<linux/capability.h>`).
const CAPABILITIES: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

fn number(capability: Capability) -> u32 {
    let found = CAPABILITIES.iter().position(|c| *c == capability);
    found.and_then(|n| u32::try_from(n).ok()).unwrap_or(u32::MAX)
}

fn capability_name(number: u32) -> String {
    let known = usize::try_from(number).ok().and_then(|n| CAPABILITIES.get(n));
    known.map_or_else(
        || format!("number {number}"),
        |c| format!("CAP_{}", c.to_string().to_uppercase()),
    )
}

/// Whether the spec grants this capability.
pub(super) fn grants(spec: &Spec, capability: Capability) -> bool {
    spec.process().as_ref().is_some_and(|p| bounding(p).contains(&number(capability)))
}

#[cfg(test)]
mod tests {
    use godwit_criu_rpc::image_file::Kind;
    use godwit_criu_rpc::images::{Seccomp, SeccompFilter, SeccompMode};

    use super::*;
    use crate::images::tasks::tests::{sample, write};

    fn spec(process: &str, linux: &str) -> Spec {
        serde_json::from_str(&format!(
            r#"{{"ociVersion":"1.2.0","process":{{"cwd":"/","user":{{"uid":1000,"gid":1000,"additionalGids":[5]}}{process}}},"linux":{{{linux}}}}}"#
        ))
        .unwrap()
    }

    fn creds() -> Creds {
        Creds {
            uid: 1000,
            euid: 1000,
            suid: 1000,
            fsuid: 1000,
            gid: 1000,
            egid: 1000,
            sgid: 1000,
            fsgid: 1000,
            groups: vec![5],
            no_new_privs: Some(1),
            ..Creds::default()
        }
    }

    fn of(creds: Creds, mode: SeccompMode, spec: &Spec) -> Vec<Refusal> {
        let (_dir, images) = sample();
        for thread in [1, 2] {
            let mut core = tasks::core(&images, thread).unwrap();
            core.thread_core = Some(ThreadCore {
                creds: Some(creds.clone()),
                seccomp_mode: Some(mode.into()),
                seccomp_filter: Some(0),
                ..ThreadCore::default()
            });
            write(&images, Kind::Core, &format!("core-{thread}.img"), &[core]);
        }
        // Returns 0: every call kills.
        let filter = SeccompFilter { filter: vec![6, 0, 0, 0, 0, 0, 0, 0], ..Default::default() };
        write(&images, Kind::Seccomp, "seccomp.img", &[Seccomp { seccomp_filters: vec![filter] }]);
        check(&images, spec, &tasks::read(&images).unwrap()).unwrap()
    }

    const STRICT: &str = r#","noNewPrivileges":true"#;
    const SECCOMP: &str = r#""seccomp":{"defaultAction":"SCMP_ACT_ERRNO"}"#;

    #[test]
    fn a_process_within_the_spec_passes() {
        assert_eq!(of(creds(), SeccompMode::Filter, &spec(STRICT, SECCOMP)), []);
    }

    #[test]
    fn more_than_the_spec_grants_is_refused_by_name() {
        let strict = spec(STRICT, SECCOMP);
        let root = Creds { euid: 0, ..creds() };
        assert_eq!(
            of(root, SeccompMode::Filter, &strict)[0],
            Refusal::Id { pid: 1, what: "user", id: 0 }
        );
        let groups = Creds { groups: vec![5, 0], ..creds() };
        assert!(of(groups, SeccompMode::Filter, &strict).len() == 2);
        let capable = Creds { cap_bnd: vec![0, 1 << 8], ..creds() };
        assert_eq!(
            of(capable, SeccompMode::Filter, &strict)[0],
            Refusal::Capability { pid: 1, capability: "CAP_CHECKPOINT_RESTORE".into() }
        );
        let privileged = Creds { no_new_privs: None, ..creds() };
        assert_eq!(of(privileged, SeccompMode::Filter, &strict)[0], Refusal::NoNewPrivs { pid: 1 });
        assert_eq!(of(creds(), SeccompMode::Disabled, &strict)[0], Refusal::Seccomp { pid: 1 });
    }

    #[test]
    fn where_ids_can_change_any_id_passes_and_granted_capabilities_do() {
        let caps = r#","capabilities":{"bounding":["CAP_SETUID","CAP_NET_BIND_SERVICE"]}"#;
        let creds = Creds { uid: 33, cap_eff: vec![1 << 10], cap_bnd: vec![1 << 7], ..creds() };
        assert_eq!(of(creds, SeccompMode::Disabled, &spec(caps, "")), []);
    }

    #[test]
    fn numbers_of_capabilities_are_the_kernels() {
        assert_eq!(number(Capability::SysNice), CAP_SYS_NICE);
        assert_eq!(number(Capability::Setuid), CAP_SETUID);
        assert_eq!(number(Capability::Setgid), CAP_SETGID);
        assert_eq!(capability_name(21), "CAP_SYS_ADMIN");
        assert_eq!(capability_name(63), "number 63");
    }
}
