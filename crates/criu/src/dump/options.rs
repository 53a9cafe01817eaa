//! The options of a dump. All that costs time inside the freeze is turned off: network lock, cgroup walk, archives of
//! tmpfs mounts, dumps of namespaces that CRIU is started in.

use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;

use godwit_criu_rpc::rpc::{CgroupMode, NetworkLock, Opts, PageServerInfo};

/// Largest deleted but open file that is kept, in bytes. CRIU copies it in the freeze; it becomes a part of the head.
pub const DEFAULT_GHOST_LIMIT: u32 = 512 << 20;

/// What happens to TCP connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpPolicy {
    /// Established ones are saved (they may still be closed at the restore: [`crate::images::inet`]); a connection that
    /// waits in `accept` refuses the dump.
    Keep,
    /// As [`TcpPolicy::Keep`], but connections that wait in `accept` are dropped.
    KeepEstablished,
}

/// What to dump, and how.
#[derive(Debug)]
pub struct DumpRequest {
    /// Pid of the container's init, in our pid namespace.
    pub pid: u32,
    /// Where CRIU writes its (small) images: on tmpfs.
    pub images: PathBuf,
    /// Where CRIU writes its log and statistics; may be the same.
    pub work: PathBuf,
    /// The container's root file system, as the spec names it.
    pub root: PathBuf,
    /// Directory of the container's freezer (v1) or cgroup (v2). **If it is given, the caller must freeze it itself
    /// between [`super::DumpSession::prepare`] and [`super::DumpSession::proceed`]** (else CRIU sleeps 100 ms); if it is
    /// not given, the caller must not freeze (else CRIU hangs).
    pub freeze_cgroup: Option<PathBuf>,
    /// External mounts and namespaces ([`crate::mounts`], [`crate::namespaces`]).
    pub external: Vec<String>,
    /// CRIU's end of a stream socket pair on which the caller serves pages; without it, memory is written to `images`.
    pub page_server: Option<OwnedFd>,
    /// What happens to TCP connections.
    pub tcp: TcpPolicy,
    /// Largest deleted but open file that is kept, in bytes.
    pub ghost_limit: u32,
    /// 1 errors, 2 warnings, 4 debug. More than 1 costs time inside the freeze.
    pub log_level: i32,
}

impl DumpRequest {
    /// A dump of the container with this init into this directory; fill in what is special.
    #[must_use]
    pub fn new(pid: u32, images: impl Into<PathBuf>, root: impl Into<PathBuf>) -> Self {
        let images = images.into();
        Self {
            pid,
            work: images.clone(),
            images,
            root: root.into(),
            freeze_cgroup: None,
            external: Vec::new(),
            page_server: None,
            tcp: TcpPolicy::KeepEstablished,
            ghost_limit: DEFAULT_GHOST_LIMIT,
            log_level: 1,
        }
    }

    pub(super) fn to_opts(&self, images: RawFd, work: RawFd, page_server: Option<RawFd>) -> Opts {
        Opts {
            images_dir_fd: images,
            work_dir_fd: Some(work),
            pid: i32::try_from(self.pid).ok(),
            root: Some(self.root.to_string_lossy().into_owned()),
            log_level: Some(self.log_level),
            log_file: Some(super::LOG_FILE.to_owned()),
            notify_scripts: Some(true),
            leave_running: Some(true),
            freeze_cgroup: self.freeze_cgroup.as_ref().map(|p| p.to_string_lossy().into_owned()),
            manage_cgroups_mode: Some(CgroupMode::Ignore.into()),
            network_lock: Some(NetworkLock::Skip.into()),
            tcp_established: Some(true),
            tcp_skip_in_flight: Some(self.tcp == TcpPolicy::KeepEstablished),
            ext_unix_sk: Some(true),
            file_locks: Some(true),
            link_remap: Some(true),
            orphan_pts_master: Some(true),
            ghost_limit: Some(self.ghost_limit),
            external: self.external.clone(),
            ps: page_server.map(|fd| PageServerInfo { fd: Some(fd), ..PageServerInfo::default() }),
            ..Opts::default()
        }
    }
}
