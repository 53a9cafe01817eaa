//! Who is in a container's cgroup, and in the cgroups that the container has made below it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// Pids of a cgroup and of those below it, in our pid namespace. A cgroup that goes away meanwhile has none.
///
/// # Errors
/// It cannot be read.
pub(super) fn pids(cgroup: &Path) -> io::Result<BTreeSet<i32>> {
    let mut pids = own(cgroup)?;
    for child in children(cgroup) {
        pids.extend(unless_gone(self::pids(&child))?);
    }
    Ok(pids)
}

/// A cgroup below this one with somebody in it.
///
/// # Errors
/// One cannot be read.
pub(super) fn inhabited_below(cgroup: &Path) -> io::Result<Option<PathBuf>> {
    for child in children(cgroup) {
        if !unless_gone(own(&child))?.is_empty() {
            return Ok(Some(child));
        }
        if let Some(found) = inhabited_below(&child)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Pids of a cgroup itself.
///
/// # Errors
/// It cannot be read.
pub(super) fn own(cgroup: &Path) -> io::Result<BTreeSet<i32>> {
    let listed = std::fs::read_to_string(cgroup.join("cgroup.procs"));
    let text = match listed {
        // A threaded cgroup of v2 lists no processes.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            std::fs::read_to_string(cgroup.join("cgroup.threads"))
        }
        listed => listed,
    }?;
    // 0 is somebody outside of our pid namespace.
    Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect())
}

fn unless_gone(pids: io::Result<BTreeSet<i32>>) -> io::Result<BTreeSet<i32>> {
    match pids {
        Err(error) if is_gone(&error) => Ok(BTreeSet::new()),
        pids => pids,
    }
}

/// Its directory is gone, or was removed while its file was open.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

fn children(cgroup: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(cgroup).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroup(at: &Path, procs: &str) -> PathBuf {
        std::fs::create_dir_all(at).unwrap();
        std::fs::write(at.join("cgroup.procs"), procs).unwrap();
        at.to_owned()
    }

    #[test]
    fn nobody_hides_in_a_cgroup_below() {
        let dir = tempfile::tempdir().unwrap();
        let top = cgroup(&dir.path().join("web"), "1\n2\n");
        cgroup(&top.join("empty"), "");
        assert_eq!(pids(&top).unwrap(), BTreeSet::from([1, 2]));
        assert_eq!(inhabited_below(&top).unwrap(), None);
        let jobs = cgroup(&top.join("empty/jobs"), "7\n0\n");
        assert_eq!(pids(&top).unwrap(), BTreeSet::from([1, 2, 7]));
        assert_eq!(inhabited_below(&top).unwrap(), Some(jobs));
        assert!(pids(&dir.path().join("none")).is_err());
    }
}
