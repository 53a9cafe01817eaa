//! cgroup v1: one directory per controller.

pub mod stats;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::{below_mount, mount_lines};

/// The directories of one container, by controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    dirs: BTreeMap<String, PathBuf>,
}

impl Group {
    /// From `/proc/<pid>/cgroup` and `/proc/self/mountinfo`.
    #[must_use]
    pub fn find(membership: &str, mountinfo: &str) -> Option<Self> {
        let mut dirs = BTreeMap::new();
        for line in membership.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            for controller in controllers.split(',').filter(|name| !name.is_empty()) {
                if let Some(dir) = mounted(mountinfo, controller, path) {
                    dirs.insert(controller.trim_start_matches("name=").to_owned(), dir);
                }
            }
        }
        (!dirs.is_empty()).then_some(Self { dirs })
    }

    /// From directories by controller.
    #[must_use]
    pub fn at(dirs: BTreeMap<String, PathBuf>) -> Self {
        Self { dirs }
    }

    /// The directory of a controller, if it is mounted here.
    #[must_use]
    pub fn controller(&self, name: &str) -> Option<&Path> {
        self.dirs.get(name).map(PathBuf::as_path)
    }

    /// The directory whose `cgroup.procs` lists the processes: runc uses the devices controller for that.
    #[must_use]
    pub fn processes(&self) -> Option<&Path> {
        ["devices", "freezer", "memory"]
            .iter()
            .find_map(|name| self.controller(name))
            .or_else(|| self.dirs.values().next().map(PathBuf::as_path))
    }

    pub(super) fn thaw(&self) -> io::Result<()> {
        let Some(dir) = self.controller("freezer") else { return Ok(()) };
        match std::fs::write(dir.join("freezer.state"), "THAWED") {
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

fn mounted(mountinfo: &str, controller: &str, path: &str) -> Option<PathBuf> {
    mount_lines(mountinfo)
        .filter(|mount| mount.kind == "cgroup" && mount.options.split(',').any(|o| o == controller))
        .find_map(|mount| below_mount(mount.point, mount.root, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 24 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
31 24 0:27 /lab/a /sys/fs/cgroup/freezer rw,relatime shared:3 - cgroup cgroup rw,freezer
32 24 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn directories_follow_the_root_of_their_mount() {
        let member = "5:memory:/default/c1\n4:freezer:/lab/a/default/c1\n0::/\n";
        let group = Group::find(member, MOUNTS).unwrap();
        assert_eq!(group.controller("memory"), Some(Path::new("/sys/fs/cgroup/memory/default/c1")));
        assert_eq!(
            group.controller("freezer"),
            Some(Path::new("/sys/fs/cgroup/freezer/default/c1"))
        );
        assert_eq!(group.controller("cpu"), None);
        assert_eq!(group.processes(), group.controller("freezer"));
    }
}
