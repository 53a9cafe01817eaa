//! cgroup v2: one directory.

pub mod stats;

use std::io;
use std::path::{Path, PathBuf};

use super::{below_mount, mount_lines};

/// The directory of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    dir: PathBuf,
}

impl Group {
    /// From `/proc/<pid>/cgroup` and `/proc/self/mountinfo`.
    #[must_use]
    pub fn find(membership: &str, mountinfo: &str) -> Option<Self> {
        let path = membership.lines().find_map(|line| line.strip_prefix("0::"))?;
        mount_lines(mountinfo)
            .filter(|mount| mount.kind == "cgroup2")
            .find_map(|mount| below_mount(mount.point, mount.root, path))
            .map(|dir| Self { dir })
    }

    /// From its directory.
    #[must_use]
    pub fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Kills everyone at once; false if the kernel has no `cgroup.kill` (before 5.14).
    pub(super) fn kill(&self) -> io::Result<bool> {
        let file = self.dir.join("cgroup.kill");
        match std::fs::write(&file, "1") {
            Ok(()) => Ok(true),
            Err(_) if !self.dir.exists() => Ok(true),
            // No file can be made there: the kernel says that it is not permitted.
            Err(_) if !file.exists() => Ok(false),
            Err(why) => Err(why),
        }
    }

    pub(super) fn thaw(&self) -> io::Result<()> {
        match std::fs::write(self.dir.join("cgroup.freeze"), "0") {
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Cgroup;

    #[test]
    fn what_was_frozen_and_killed_is_not_frozen_any_more() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cgroup.freeze"), "1").unwrap();
        let cgroup = Cgroup::V2(Group::at(dir.path().to_owned()));
        cgroup.kill().unwrap();
        let read = |file: &str| std::fs::read_to_string(dir.path().join(file)).unwrap();
        assert_eq!((read("cgroup.kill").as_str(), read("cgroup.freeze").as_str()), ("1", "0"));
        let gone = Cgroup::V2(Group::at(dir.path().join("gone")));
        gone.kill().unwrap();
    }

    #[test]
    fn the_directory_is_below_the_unified_mount() {
        let mounts =
            "29 24 0:25 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let group = Group::find("0::/kubepods/pod1/c1\n", mounts).unwrap();
        assert_eq!(group.dir(), Path::new("/sys/fs/cgroup/kubepods/pod1/c1"));
        assert!(Group::find("4:freezer:/x\n", mounts).is_none());
    }
}
