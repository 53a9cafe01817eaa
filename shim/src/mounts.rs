//! The root file system of a container: containerd hands over mounts, the shim makes them in the bundle and takes them
//! away again.

pub mod idmap;
pub mod options;

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};

use crate::error::{Error, Result};
use crate::reaper::Reaper;
use crate::sys;
use idmap::Copy;
use options::Parsed;

/// The kernel takes one page of options; 512 bytes are left for the rest, as containerd does.
const OPTIONS_LIMIT: usize = 4096 - 512;
/// How long a mount may stay busy before it is detached: a process that is just dying holds it for an instant.
const BUSY: (u32, Duration) = (50, Duration::from_millis(20));
/// `MS_BIND`, `MS_REMOUNT` (linux/mount.h), which the library keeps to itself.
const BIND: MountFlags = MountFlags::from_bits_retain(4096);
const REMOUNT: MountFlags = MountFlags::from_bits_retain(32);

/// One mount, as containerd describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mount {
    /// File system type.
    pub kind: String,
    /// Device or path.
    pub source: String,
    /// Path below the root; empty: the root itself.
    pub target: String,
    /// As in fstab.
    pub options: Vec<String>,
}

impl From<containerd_shim_protos::types::mount::Mount> for Mount {
    fn from(mount: containerd_shim_protos::types::mount::Mount) -> Self {
        Self {
            kind: mount.type_,
            source: mount.source,
            target: mount.target,
            options: mount.options,
        }
    }
}

/// Makes the mounts in their order at `root`, which must exist. On failure those made are taken away again.
///
/// # Errors
/// The kernel refuses one, or it needs what we do not do.
pub async fn mount_all(mounts: &[Mount], root: &Path, reaper: &Reaper) -> Result<()> {
    for one in mounts {
        if let Err(why) = mount_one(one, root, reaper).await {
            let _ = unmount_all(root).await;
            return Err(why);
        }
    }
    Ok(())
}

/// Takes away every mount at and below `root`, the last one first. Nothing mounted is fine.
///
/// # Errors
/// The kernel refuses to detach one.
pub async fn unmount_all(root: &Path) -> Result<()> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(Error::io("read the mount table"))?;
    let root = std::fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
    for point in points_below(&table, &root) {
        unmount_one(&point).await?;
    }
    Ok(())
}

async fn unmount_one(point: &Path) -> Result<()> {
    for _ in 0..BUSY.0 {
        match unmount(point, UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) => tokio::time::sleep(BUSY.1).await,
            Err(why) => return Err(Error::io(format!("unmount {}", point.display()))(why)),
        }
    }
    unmount(point, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
        .map_err(Error::io(format!("detach {}", point.display())))
}

async fn mount_one(one: &Mount, root: &Path, reaper: &Reaper) -> Result<()> {
    let target = target(root, &one.target)?;
    let mut parsed = options::parse(&one.options)?;
    if one.kind.starts_with("fuse.") || one.kind.starts_with("fuse3.") || parsed.needs_helper {
        if parsed.ids.is_some() {
            return Err(Error::Refused(format!(
                "a {} root file system cannot have mapped ids: take another snapshotter for pods with a user namespace",
                one.kind
            )));
        }
        return by_mount_program(one, &target, reaper).await;
    }
    let attempt = format!("mount {} at {}", one.kind, target.display());
    let users = parsed.ids.take().map(|ids| ids.namespace(reaper)).transpose()?;
    let maps_lower = users.is_some() && one.kind == "overlay";
    let shorten = maps_lower || parsed.data.len() >= OPTIONS_LIMIT;
    let mut base = if shorten { options::shorten_lowerdirs(&mut parsed.data) } else { None };
    if parsed.data.len() >= OPTIONS_LIMIT {
        return Err(Error::Refused(format!("{attempt}: its options are longer than a page")));
    }
    if let (true, Some(users)) = (maps_lower, &users) {
        base = Some(map_lower(base, &target, users)?);
    }
    let call = Call::new(one, &parsed, target.clone())?;
    match base {
        None => call.run(),
        Some(base) => sys::run_in_directory(&base, move || call.run()),
    }
    .map_err(Error::io(attempt))?;
    match users {
        Some(users) if !maps_lower => {
            let all = parsed.flags.contains(options::RECURSIVE);
            let what = if all { Copy::WithThoseBelow } else { Copy::Alone };
            idmap::mount_mapped(&target, &target, &users, what)
        }
        _ => Ok(()),
    }
}

/// An overlay shows the ids of its layers as they are: the layers are mapped. Their directory is put where the overlay will cover it,
/// and goes with it. Where they are then.
fn map_lower(base: Option<PathBuf>, target: &Path, users: &OwnedFd) -> Result<PathBuf> {
    let none = || {
        let what = format!("{}: its layers have no directory in common", target.display());
        Error::Refused(format!("map the ids of {what}"))
    };
    idmap::mount_mapped(&base.ok_or_else(none)?, target, users, Copy::Alone)?;
    Ok(target.to_owned())
}

/// The system calls of one mount.
struct Call {
    kind: String,
    source: String,
    target: PathBuf,
    flags: MountFlags,
    propagation: MountPropagationFlags,
    data: CString,
}

impl Call {
    fn new(one: &Mount, parsed: &Parsed, target: PathBuf) -> Result<Self> {
        let data = CString::new(parsed.data.clone())
            .map_err(|_| Error::Invalid("mount options contain a zero byte".into()))?;
        Ok(Self {
            kind: one.kind.clone(),
            source: one.source.clone(),
            target,
            flags: parsed.flags,
            propagation: parsed.propagation,
            data,
        })
    }

    fn run(&self) -> std::io::Result<()> {
        let data = (!self.data.is_empty()).then_some(self.data.as_c_str());
        if !self.flags.contains(REMOUNT) || data.is_some() {
            mount(&self.source, &self.target, &self.kind, self.flags, data)?;
        }
        if !self.propagation.is_empty() {
            mount_change(&self.target, self.propagation)?;
        }
        // The kernel ignores read-only when it makes a bind; it heeds it when it changes one.
        if self.flags.contains(BIND | MountFlags::RDONLY) {
            mount("", &self.target, "", self.flags | REMOUNT, None)?;
        }
        Ok(())
    }
}

/// FUSE and loop devices need what mount(8) and its helpers know.
async fn by_mount_program(one: &Mount, target: &Path, reaper: &Reaper) -> Result<()> {
    let mut command = Command::new("mount");
    command.arg("-t").arg(&one.kind);
    if !one.options.is_empty() {
        command.arg("-o").arg(one.options.join(","));
    }
    command.arg(&one.source).arg(target);
    let attempt = format!("mount(8) {} at {}", one.kind, target.display());
    let child = reaper.spawn(&mut command).map_err(Error::io(attempt.clone()))?;
    match child.wait().await.status {
        0 => Ok(()),
        status => Err(Error::Refused(format!("{attempt} ended with status {status}"))),
    }
}

/// A path below the root, without steps upwards.
fn target(root: &Path, below: &str) -> Result<PathBuf> {
    let below = Path::new(below.trim_start_matches('/'));
    let upwards = below.components().any(|part| part == std::path::Component::ParentDir);
    if upwards {
        return Err(Error::Invalid(format!("mount target {} leaves the root", below.display())));
    }
    Ok(root.join(below))
}

/// Mount points at and below `root`, the last made first.
fn points_below(mountinfo: &str, root: &Path) -> Vec<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let mut points: Vec<PathBuf> = points.filter(|point| point.starts_with(root)).collect();
    points.reverse();
    points
}

/// mountinfo writes blanks and the like as `\040`.
fn unescape(text: &str) -> PathBuf {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                plain.push(char::from(byte));
                plain.push_str(part.get(3..).unwrap_or_default());
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    PathBuf::from(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_mounted_last_below_the_root_goes_first() {
        let table = "\
1 0 0:1 / / rw - ext4 d rw
2 1 0:2 / /b/rootfs rw - overlay o rw
3 2 0:3 / /b/rootfs/a\\040b rw - tmpfs t rw
4 1 0:4 / /b/rootfs2 rw - tmpfs t rw
";
        let points = points_below(table, Path::new("/b/rootfs"));
        assert_eq!(points, [PathBuf::from("/b/rootfs/a b"), PathBuf::from("/b/rootfs")]);
    }

    #[test]
    fn a_target_that_leaves_the_root_is_refused() {
        assert_eq!(target(Path::new("/r"), "/a/b").unwrap(), PathBuf::from("/r/a/b"));
        assert_eq!(target(Path::new("/r"), "").unwrap(), PathBuf::from("/r/"));
        assert!(target(Path::new("/r"), "a/../../b").is_err());
    }
}
