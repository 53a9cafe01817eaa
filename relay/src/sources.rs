//! What CRIU mounts from outside: made here, in a mount namespace that nobody else sees.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use godwit_criu_rpc::relay_plan::{RawPath, RelayPlan, Source, SourceKind, decode_sources};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::MountFlags;

use crate::error::Error;
use crate::populate;

pub(crate) fn read(plan: &RelayPlan) -> Result<Vec<Source>, Error> {
    let path = &plan.sources;
    let bytes = std::fs::read(path).map_err(Error::io(format!("read {}", path.display())))?;
    Ok(decode_sources(&bytes)?)
}

/// Makes all sources; returns CRIU's `external` options for them.
pub(crate) fn make(plan: &RelayPlan, sources: &[Source]) -> Result<Vec<String>, Error> {
    let workspace = &plan.workspace;
    mount("tmpfs", workspace, "tmpfs", MountFlags::NOSUID, "mode=700")?;
    let mut external = Vec::with_capacity(sources.len());
    for (number, source) in sources.iter().enumerate() {
        let place = workspace.join(number.to_string());
        let at = make_one(plan, &source.kind, place)?;
        external.push(format!("mnt[{}]:{}", source.key, at.display()));
    }
    Ok(external)
}

/// Makes one and says where it is.
fn make_one(plan: &RelayPlan, kind: &SourceKind, place: PathBuf) -> Result<PathBuf, Error> {
    match kind {
        SourceKind::Tmpfs { data, flags, read_only, entries } => {
            let flags = MountFlags::from_bits_truncate(u32::try_from(*flags).unwrap_or(0));
            make_dir(&place)?;
            mount("tmpfs", &place, "tmpfs", flags, data)?;
            populate::fill(&place, entries, &Contents(&plan.contents))?;
            if *read_only {
                remount_read_only(&place, flags, data)?;
            }
        }
        SourceKind::Cgroup2 => {
            make_dir(&place)?;
            mount("cgroup", &place, "cgroup2", MountFlags::empty(), "")?;
        }
        SourceKind::CgroupV1 { data } => {
            make_dir(&place)?;
            mount("cgroup", &place, "cgroup", MountFlags::empty(), data)?;
        }
        SourceKind::CgroupOwn { hierarchy } => return own_cgroup(hierarchy),
        SourceKind::Inside { volume, inner } => bind_inside(volume, inner, &place)?,
    }
    Ok(place)
}

/// The file with captured bytes, opened when it is needed: many containers have none.
pub(crate) struct Contents<'a>(pub(crate) &'a Path);

impl Contents<'_> {
    pub(crate) fn open(&self) -> Result<File, Error> {
        File::open(self.0).map_err(Error::io(format!("open {}", self.0.display())))
    }
}

fn make_dir(path: &Path) -> Result<(), Error> {
    std::fs::create_dir(path).map_err(Error::io(format!("make {}", path.display())))
}

fn mount(
    source: &str,
    target: &Path,
    fs: &str,
    flags: MountFlags,
    data: &str,
) -> Result<(), Error> {
    let data = c_string(data)?;
    rustix::mount::mount(source, target, fs, flags, Some(data.as_c_str())).map_err(Error::sys(
        format!("mount {fs} ({}) on {}", data.to_string_lossy(), target.display()),
    ))
}

fn remount_read_only(target: &Path, flags: MountFlags, data: &str) -> Result<(), Error> {
    let data = c_string(data)?;
    rustix::mount::mount_remount(target, flags | MountFlags::RDONLY, data.as_c_str())
        .map_err(Error::sys(format!("make {} read-only", target.display())))
}

fn c_string(text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::Plan("the plan has a zero byte in an option".to_owned()))
}

/// Binds what is inside a volume, wherever its links point.
fn bind_inside(volume: &Path, inner: &RawPath, place: &Path) -> Result<(), Error> {
    let name = volume.join(inner.as_path());
    let io = |errno| Error::sys(format!("open {}", name.display()))(errno);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(volume, flags | OFlags::DIRECTORY, Mode::empty()).map_err(io)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let found = rustix::fs::openat2(root.as_fd(), inner.as_path(), flags, Mode::empty(), resolve)
        .map_err(io)?;
    let stat = rustix::fs::fstat(&found).map_err(io)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory {
        make_dir(place)?;
    } else {
        File::create(place).map_err(Error::io(format!("make {}", place.display())))?;
    }
    let link = format!("/proc/self/fd/{}", found.as_raw_fd());
    rustix::mount::mount_bind(link, place).map_err(Error::sys(format!("bind {}", name.display())))
}

/// The directory of our own cgroup (which is the container's by now) in this hierarchy.
fn own_cgroup(hierarchy: &str) -> Result<PathBuf, Error> {
    let read =
        |path: &str| std::fs::read_to_string(path).map_err(Error::io(format!("read {path}")));
    let missing = || Error::Plan(format!("this node has no cgroup hierarchy {hierarchy:?}"));
    let cgroups = read("/proc/self/cgroup")?;
    let own = path_in(&cgroups, hierarchy).ok_or_else(missing)?;
    let mounts = read("/proc/self/mountinfo")?;
    place_of(&mounts, hierarchy, own).ok_or_else(missing)
}

/// `4:cpu,cpuacct:/path`; the hierarchy of v2 has no name.
fn path_in<'a>(cgroups: &'a str, hierarchy: &str) -> Option<&'a Path> {
    cgroups.lines().find_map(|line| {
        let mut words = line.splitn(3, ':').skip(1);
        let same = words.next()? == hierarchy;
        same.then(|| words.next().map(Path::new)).flatten()
    })
}

fn place_of(mounts: &str, hierarchy: &str, own: &Path) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        let mut head = head.split(' ').skip(3);
        let (root, mountpoint) = (head.next()?, head.next()?);
        let mut tail = tail.split(' ');
        let (fs, options) = (tail.next()?, tail.nth(1)?);
        let named = |name: &str| options.split(',').any(|o| o == name);
        let here = if hierarchy.is_empty() {
            fs == "cgroup2"
        } else {
            fs == "cgroup" && hierarchy.split(',').all(named)
        };
        here.then_some(())?;
        Some(Path::new(mountpoint).join(own.strip_prefix(root).ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CGROUPS: &str = "5:cpu,cpuacct:/pod/c1\n1:name=systemd:/x\n0::/unified/c1\n";
    const MOUNTS: &str = "\
30 1 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
31 1 0:27 /x /sys/fs/cgroup/systemd rw master:1 - cgroup cgroup rw,xattr,name=systemd
32 1 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup rw
";

    #[test]
    fn the_containers_own_cgroup_is_found_in_each_hierarchy() {
        let of = |hierarchy: &str| place_of(MOUNTS, hierarchy, path_in(CGROUPS, hierarchy)?);
        assert_eq!(of("cpu,cpuacct"), Some("/sys/fs/cgroup/cpu,cpuacct/pod/c1".into()));
        assert_eq!(of("name=systemd"), Some("/sys/fs/cgroup/systemd/".into()));
        assert_eq!(of(""), Some("/sys/fs/cgroup/unified/unified/c1".into()));
        assert_eq!(of("memory"), None);
    }
}
