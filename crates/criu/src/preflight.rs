//! What cannot be checkpointed, found before anything is stopped.
//!
//! Owns the named refusals that can be seen in `/proc` and in the spec ([`check`]). It looks once, while the container
//! runs: CRIU may still meet something new a moment later, and its own error then says so. Those of store, memory,
//! compatibility and volumes are the engine's.

mod files;
mod host;
mod process;
mod unix;

use std::collections::{BTreeMap, BTreeSet};

use godwit_types::{Bytes, Code};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::namespaces::{namespace, own_interface, path_of};

/// A reason why a container cannot be checkpointed now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An io_uring instance.
    #[error(
        "process {pid} uses io_uring, which cannot be saved; configure the program to do without it"
    )]
    IoUring {
        /// The process, in the node's pid namespace.
        pid: u32,
    },
    /// A userfaultfd.
    #[error(
        "process {pid} uses userfaultfd, which cannot be saved; configure the program to do without it"
    )]
    Userfaultfd {
        /// The process.
        pid: u32,
    },
    /// An open file of another kind that CRIU does not know.
    #[error("process {pid} has {what} open, which cannot be saved; close it first")]
    UnsupportedFile {
        /// The process.
        pid: u32,
        /// `anon_inode:[perf_event]`
        what: String,
    },
    /// An open or mapped device.
    #[error("process {pid} uses the device {path}, whose state cannot be saved; close it first")]
    Device {
        /// The process.
        pid: u32,
        /// Its name in the container.
        path: String,
    },
    /// A FUSE daemon inside the container.
    #[error("process {pid} serves a FUSE file system, which cannot be saved; unmount it first")]
    FuseDaemon {
        /// The process.
        pid: u32,
    },
    /// A debugger or tracer.
    #[error("process {pid} is traced by process {tracer}; detach the debugger or tracer first")]
    Traced {
        /// The process.
        pid: u32,
        /// Who traces it.
        tracer: u32,
    },
    /// A process that was stopped: CRIU waits for it without end.
    #[error("process {pid} is stopped (SIGSTOP, SIGTSTP); continue it first (kill -CONT)")]
    Stopped {
        /// The process.
        pid: u32,
    },
    /// A process that did not grow out of the container's init: an exec session.
    #[error("process {pid} ({command}) was started by exec; wait for it to end")]
    ExecSession {
        /// The process.
        pid: u32,
        /// Its name.
        command: String,
    },
    /// A process of another user, of an agent that lacks a capability: CRIU may not ask the kernel for its limits (`prlimit(2)`).
    #[error(
        "process {pid} runs as another user or group than the agent, which lacks CAP_SYS_RESOURCE: without it CRIU may not read the limits of such a process; start the agent with this capability"
    )]
    AnotherUser {
        /// The process.
        pid: u32,
    },
    /// A process in a namespace of its own.
    #[error(
        "process {pid} made a {kind} namespace of its own inside the container, which cannot be saved; end it first"
    )]
    NestedNamespace {
        /// The process.
        pid: u32,
        /// `mnt`, `net`, `pid`, `user`
        kind: &'static str,
    },
    /// A stream connection to a unix socket outside the container.
    #[error(
        "process {pid} is connected to the unix socket {peer} of a process outside the container; close it first"
    )]
    ExternalUnixPeer {
        /// The process.
        pid: u32,
        /// The peer's name, or its number.
        peer: String,
    },
    /// A process that does not react to signals: the cgroup may not freeze.
    #[error(
        "process {pid} waits in the kernel ({wchan}) and cannot be frozen; try again when it is done"
    )]
    Uninterruptible {
        /// The process.
        pid: u32,
        /// Where in the kernel.
        wchan: String,
    },
    /// Too much in files that have no name any more.
    #[error(
        "files that were deleted while processes have them open hold {held}, and at most {limit} are taken along: close some, or raise ghost_limit in agent.toml"
    )]
    DeletedFiles {
        /// In all of them.
        held: Bytes,
        /// See `ghost_limit`.
        limit: Bytes,
    },
    /// A terminal.
    #[error("the container has a terminal, whose other end cannot follow; start it without a tty")]
    Terminal,
    /// The node's pid namespace, or that of another container.
    #[error(
        "the container shares its pid namespace (hostPID or shareProcessNamespace); its pids could not be had again elsewhere; give it one of its own"
    )]
    SharedPid,
    /// The node's network.
    #[error(
        "the container uses the node's network (hostNetwork); its connections and ports belong to this node; give it a network of its own"
    )]
    HostNetwork,
    /// An interface in a network namespace of the container's own.
    #[error(
        "the container's own network namespace has the interface {interface}, which could not be plugged in again elsewhere; give it a network namespace by path (ctr run --with-ns network:/run/netns/NAME)"
    )]
    OwnInterface {
        /// `eth0`
        interface: String,
    },
    /// The node's IPC namespace.
    #[error(
        "the container uses the node's IPC namespace (hostIPC), whose objects belong to this node; give it one of its own"
    )]
    HostIpc,
    /// A user namespace.
    #[error(
        "the container has a user namespace (hostUsers: false), which is not supported yet; run it without one"
    )]
    UserNamespace,
}

impl Refusal {
    /// What a caller may do about it: some refusals go away by themselves.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::ExecSession { .. } | Self::Uninterruptible { .. } => Code::Unavailable,
            _ => Code::Refused,
        }
    }
}

/// A container to look at.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its init, in our pid namespace.
    pub init: u32,
    /// All processes of its cgroup, init among them, in our pid namespace.
    pub pids: &'a [u32],
    /// Its spec.
    pub spec: &'a Spec,
    /// Most bytes of deleted files that are taken along.
    pub ghost_limit: Bytes,
}

/// Every reason against a checkpoint. A process that ends while it is looked at is no reason.
#[must_use]
pub fn check(subject: Subject<'_>) -> Vec<Refusal> {
    let mut refusals = of_spec(subject.spec);
    for refusal in host::check(subject.init) {
        if !refusals.contains(&refusal) {
            refusals.push(refusal);
        }
    }
    // The node's own network has many, and is a reason already.
    if !refusals.contains(&Refusal::HostNetwork)
        && let Ok(Some(interface)) = own_interface(subject.init, subject.spec)
    {
        refusals.push(Refusal::OwnInterface { interface });
    }
    let members: BTreeSet<u32> = subject.pids.iter().copied().collect();
    for pid in &members {
        refusals.extend(process::check(*pid, subject.init, &members));
        refusals.extend(files::check(*pid));
    }
    refusals.extend(unix::check(subject.init, &members));
    let (held, limit) = (deleted_files(subject.pids), subject.ghost_limit);
    if held > limit {
        refusals.push(Refusal::DeletedFiles { held, limit });
    }
    refusals
}

/// What regular files hold that have no name any more and that these processes have open or mapped: each is counted once. CRIU copies
/// them into its images while the processes are frozen. Memory that is only called a file (memfd, System V, shared) is none.
#[must_use]
pub fn deleted_files(pids: &[u32]) -> Bytes {
    let found: BTreeMap<_, _> = pids.iter().flat_map(|pid| files::deleted(*pid)).collect();
    Bytes(found.values().fold(0, |all: u64, file| all.saturating_add(*file)))
}

/// Whatever these processes have open or mapped that has no name and could be had by others as well: deleted files, memfds, shared memory.
/// By device and inode; what the kernel calls it. System V segments are the IPC namespace's.
#[must_use]
pub fn nameless_files(pids: impl IntoIterator<Item = u32>) -> BTreeMap<(u64, u64), String> {
    pids.into_iter().flat_map(files::nameless).collect()
}

/// Reasons in the spec alone.
#[must_use]
pub fn of_spec(spec: &Spec) -> Vec<Refusal> {
    let missing = |typ| namespace(spec, typ).is_none();
    let terminal = spec.process().as_ref().and_then(|p| p.terminal()).unwrap_or(false);
    let shared_pid =
        missing(LinuxNamespaceType::Pid) || path_of(spec, LinuxNamespaceType::Pid).is_some();
    [
        (terminal, Refusal::Terminal),
        (shared_pid, Refusal::SharedPid),
        (missing(LinuxNamespaceType::Network), Refusal::HostNetwork),
        (missing(LinuxNamespaceType::Ipc), Refusal::HostIpc),
        (!missing(LinuxNamespaceType::User), Refusal::UserNamespace),
    ]
    .into_iter()
    .filter_map(|(applies, refusal)| applies.then_some(refusal))
    .collect()
}

/// Processes that wait uninterruptibly right now: the reason of a freeze that timed out.
#[must_use]
pub fn uninterruptible(pids: &[u32]) -> Vec<Refusal> {
    pids.iter().filter_map(|pid| process::uninterruptible(*pid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(namespaces: &str, terminal: bool) -> Spec {
        serde_json::from_str(&format!(
            r#"{{"ociVersion":"1.2.0","process":{{"cwd":"/","user":{{"uid":0,"gid":0}},"terminal":{terminal}}},
                "linux":{{"namespaces":[{namespaces}]}}}}"#
        ))
        .unwrap()
    }

    const PRIVATE: &str = r#"{"type":"pid"},{"type":"network","path":"/n"},{"type":"ipc"}"#;

    #[test]
    fn a_spec_of_an_ordinary_pod_passes_and_shared_namespaces_are_named() {
        assert_eq!(of_spec(&spec(PRIVATE, false)), []);
        assert_eq!(
            of_spec(&spec(r#"{"type":"pid","path":"/p"},{"type":"user"}"#, true)),
            [
                Refusal::Terminal,
                Refusal::SharedPid,
                Refusal::HostNetwork,
                Refusal::HostIpc,
                Refusal::UserNamespace
            ]
        );
    }

    #[test]
    fn this_process_can_be_looked_at() {
        let pid = std::process::id();
        let spec = spec(PRIVATE, false);
        let ghost_limit = Bytes(u64::MAX);
        let refusals = check(Subject { init: pid, pids: &[pid], spec: &spec, ghost_limit });
        let exec = refusals.iter().any(|r| matches!(r, Refusal::ExecSession { .. }));
        assert!(!exec, "{refusals:?}");
    }
}
