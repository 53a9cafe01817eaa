//! Root file systems with mapped ids, for containers with a user namespace: the files stay as they are, and are seen as the
//! namespace's own. A map of a mount is given as a user namespace.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::error::{Error, Result};
use crate::reaper::Reaper;
use crate::sys;

/// The word that makes this program hold a namespace until its standard input ends.
pub const HOLD: &str = "hold";

/// Which ids are seen as which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMaps {
    /// As the kernel takes them in `uid_map`.
    uid: String,
    /// In `gid_map`.
    gid: String,
}

impl IdMaps {
    /// Reads containerd's options, such as `0:100000:65536`: inside, outside, how many; several by commas.
    ///
    /// # Errors
    /// One of the two is missing, or is no map.
    pub fn parse(uid: Option<&str>, gid: Option<&str>) -> Result<Option<Self>> {
        match (uid, gid) {
            (None, None) => Ok(None),
            (Some(uid), Some(gid)) => Ok(Some(Self { uid: lines(uid)?, gid: lines(gid)? })),
            _ => Err(Error::Invalid("a mount with uidmap needs a gidmap, and the reverse".into())),
        }
    }

    /// A user namespace with these maps; it is there for as long as the descriptor is.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn namespace(&self, reaper: &Reaper) -> Result<OwnedFd> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(HOLD).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        sys::in_new_user_namespace(&mut command);
        // It ends when its standard input does, which is ours alone.
        let (holder, _input) =
            reaper.spawn_with_input(&mut command).map_err(Error::io("make a user namespace"))?;
        let proc = Path::new("/proc").join(holder.pid().to_string());
        for (name, map) in [("uid_map", &self.uid), ("gid_map", &self.gid)] {
            let attempt = format!("write {} of a user namespace", name);
            fs::write(proc.join(name), map).map_err(Error::io(attempt))?;
        }
        let namespace = File::open(proc.join("ns/user"));
        Ok(namespace.map_err(Error::io("open a user namespace"))?.into())
    }
}

fn lines(option: &str) -> Result<String> {
    let mut lines = String::new();
    for map in option.split(',') {
        let numbers: Vec<u32> = map.split(':').filter_map(|word| word.parse().ok()).collect();
        match numbers[..] {
            [inside, outside, count] if map.split(':').count() == 3 => {
                // A String takes everything.
                let _ = writeln!(lines, "{inside} {outside} {count}");
            }
            _ => return Err(Error::Invalid(format!("{option:?} is no map of ids"))),
        }
    }
    Ok(lines)
}

/// Puts a copy of the mount at `source` over `target`, with the ids that the namespace maps.
///
/// # Errors
/// The file system cannot map ids, or the kernel cannot.
pub fn mount_mapped(source: &Path, target: &Path, users: &OwnedFd, all: Copy) -> Result<()> {
    let attempt = || format!("map the ids of {} at {}", source.display(), target.display());
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if all == Copy::WithThoseBelow {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let here = rustix::fs::CWD;
    let tree = open_tree(here, source, flags).map_err(Error::io(attempt()))?;
    sys::map_ids(&tree, users.as_fd(), all == Copy::WithThoseBelow)
        .map_err(Error::io(attempt()))?;
    move_mount(&tree, "", here, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(Error::io(attempt()))
}

/// What of a mount is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copy {
    /// It alone.
    Alone,
    /// It, and the mounts below it.
    WithThoseBelow,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_written_as_the_kernel_takes_them() {
        let maps = IdMaps::parse(Some("0:1000:1,1:100000:65535"), Some("0:5:1")).unwrap().unwrap();
        assert_eq!(
            (maps.uid.as_str(), maps.gid.as_str()),
            ("0 1000 1\n1 100000 65535\n", "0 5 1\n")
        );
        assert_eq!(IdMaps::parse(None, None).unwrap(), None);
    }

    #[test]
    fn what_is_no_map_is_refused() {
        for map in ["", "0:1", "0:1:2:3", "0:x:1", "-1:0:1", "0:1:2:"] {
            assert!(IdMaps::parse(Some(map), Some("0:0:1")).is_err(), "{map}");
        }
        assert!(IdMaps::parse(Some("0:0:1"), None).is_err());
    }
}
