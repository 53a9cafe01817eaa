//! The cgroup of a container: where it is, who is in it, killing everyone in it, its numbers. Freezing belongs to
//! operations (`freezer`) and to runc (Pause); this file only ever thaws what it has killed.

mod numbers;
pub mod v1;
pub mod v2;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use rustix::process::{Pid, Signal, kill_process};

use crate::events::event::pack;

/// Passes over a cgroup before its killing is given up as hopeless: each pass kills whatever was forked meanwhile.
const KILL_PASSES: usize = 64;

/// The cgroup of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cgroup {
    /// One directory per controller.
    V1(v1::Group),
    /// One directory.
    V2(v2::Group),
}

impl Cgroup {
    /// The cgroup that a process is in, as our mounts show it.
    ///
    /// # Errors
    /// The process is gone or no hierarchy is mounted.
    pub fn of_pid(pid: u32) -> io::Result<Self> {
        let membership = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        if unified() {
            v2::Group::find(&membership, &mounts).map(Self::V2)
        } else {
            v1::Group::find(&membership, &mounts).map(Self::V1)
        }
        .ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("no cgroup of process {pid}"))
        })
    }

    /// From the directories in runc's state, by controller; the v2 one has no name.
    #[must_use]
    pub fn of_paths(mut paths: BTreeMap<String, PathBuf>) -> Option<Self> {
        match paths.remove("") {
            Some(dir) => Some(Self::V2(v2::Group::at(dir))),
            None => (!paths.is_empty()).then(|| Self::V1(v1::Group::at(paths))),
        }
    }

    /// The directories of the freezer: the one to freeze, thaw and read (v1: of the freezer controller).
    #[must_use]
    pub fn freezer_dir(&self) -> Option<&Path> {
        match self {
            Self::V1(group) => group.controller("freezer"),
            Self::V2(group) => Some(group.dir()),
        }
    }

    /// The directory in which its processes are listed.
    #[must_use]
    pub fn home(&self) -> Option<PathBuf> {
        self.process_dir().map(Path::to_owned)
    }

    /// Whether it is a v2 cgroup.
    #[must_use]
    pub fn is_v2(&self) -> bool {
        matches!(self, Self::V2(_))
    }

    /// Every process in it and in its sub-cgroups. Empty if it is gone.
    #[must_use]
    pub fn pids(&self) -> BTreeSet<u32> {
        let mut pids = BTreeSet::new();
        if let Some(dir) = self.process_dir() {
            collect_pids(dir, &mut pids);
        }
        pids
    }

    /// Whether nobody is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pids().is_empty()
    }

    /// Sends SIGKILL to everyone in it, and only then thaws it so that they can die. No instruction of theirs is
    /// executed after this began, frozen or not. Returns before they are gone. A v2 cgroup kills the frozen too, but is thawed
    /// all the same: runc calls a container paused for as long as its cgroup is frozen, and does not delete it.
    ///
    /// # Errors
    /// It still gains processes after many passes.
    pub fn kill(&self) -> io::Result<()> {
        match self {
            Self::V2(group) if group.kill()? => {}
            _ => self.kill_each()?,
        }
        match self {
            Self::V1(group) => group.thaw(),
            Self::V2(group) => group.thaw(),
        }
    }

    /// Its numbers as containerd's metrics message of its version, packed. What the kernel does not have is left out.
    #[must_use]
    pub fn stats(&self) -> Any {
        match self {
            Self::V1(group) => pack(&v1::stats::read(group)),
            Self::V2(group) => pack(&v2::stats::read(group)),
        }
    }

    fn kill_each(&self) -> io::Result<()> {
        let mut killed = BTreeSet::new();
        for _ in 0..KILL_PASSES {
            let fresh: Vec<u32> = self.pids().difference(&killed).copied().collect();
            if fresh.is_empty() {
                return Ok(());
            }
            fresh.iter().for_each(|pid| kill_one(*pid));
            killed.extend(fresh);
        }
        Err(io::Error::other("the cgroup keeps gaining processes while it is killed"))
    }

    fn process_dir(&self) -> Option<&Path> {
        match self {
            Self::V1(group) => group.processes(),
            Self::V2(group) => Some(group.dir()),
        }
    }
}

/// Whether the machine (or this namespace) has the unified hierarchy at `/sys/fs/cgroup`.
#[must_use]
pub fn unified() -> bool {
    const CGROUP2_MAGIC: i64 = 0x6367_7270;
    rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|fs| fs.f_type == CGROUP2_MAGIC)
}

/// Puts a process into an existing cgroup, named by its path from the root of every hierarchy.
///
/// # Errors
/// It does not exist or refuses the process.
pub fn join(path: &str, pid: u32) -> io::Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let kind = if unified() { "cgroup2" } else { "cgroup" };
    let path = format!("/{}", path.trim_start_matches('/'));
    let dirs: Vec<PathBuf> = mount_lines(&mounts)
        .filter(|mount| mount.kind == kind)
        .filter_map(|mount| below_mount(mount.point, mount.root, &path))
        .filter(|dir| dir.is_dir())
        .collect();
    if dirs.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    dirs.iter().try_for_each(|dir| std::fs::write(dir.join("cgroup.procs"), pid.to_string()))
}

/// Whether somebody is in the cgroup of this directory, or below it.
#[must_use]
pub fn is_inhabited(dir: &Path) -> bool {
    let mut pids = BTreeSet::new();
    collect_pids(dir, &mut pids);
    !pids.is_empty()
}

fn collect_pids(dir: &Path, pids: &mut BTreeSet<u32>) {
    // A threaded cgroup of v2 refuses to list processes; its parent has them.
    let listed = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    pids.extend(listed.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != 0));
    for child in children(dir) {
        collect_pids(&child, pids);
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let is_dir = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries.flatten().filter(is_dir).map(|entry| entry.path()).collect()
}

fn kill_one(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may be gone already: that is what we want.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Where a hierarchy is mounted: the mount point whose root is an ancestor of `path`, with the rest appended.
fn below_mount(point: &str, root: &str, path: &str) -> Option<PathBuf> {
    let rest = if root == "/" { path } else { path.strip_prefix(root)? };
    Some(Path::new(point).join(rest.trim_start_matches('/')))
}

/// One line of mountinfo: root, mount point, file system, super options.
struct MountLine<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

fn mount_lines(mountinfo: &str) -> impl Iterator<Item = MountLine<'_>> {
    mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let mut fields = right.split(' ');
        let (kind, _, options) = (fields.next()?, fields.next()?, fields.next()?);
        Some(MountLine { root, point, kind, options })
    })
}
