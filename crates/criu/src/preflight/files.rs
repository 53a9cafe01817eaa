//! Open files and mappings that CRIU cannot save.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use super::Refusal;

/// Anonymous inodes that CRIU knows.
const KNOWN_ANONYMOUS: &[&str] = &[
    "anon_inode:[eventfd]",
    "anon_inode:[eventpoll]",
    "anon_inode:inotify",
    "anon_inode:[fanotify]",
    "anon_inode:[signalfd]",
    "anon_inode:[timerfd]",
    "anon_inode:[pidfd]",
    "anon_inode:bpf-map",
];
/// `<linux/major.h>`: memory devices, terminals, consoles, pseudo terminals.
const MEM: u32 = 1;
const TTY: [u32; 4] = [4, 5, 136, 137];
const MISC: u32 = 10;
/// `/dev/net/tun` and `/dev/fuse`.
const TUN_MINOR: u32 = 200;
const FUSE_MINOR: u32 = 229;

pub(super) fn check(pid: u32) -> Vec<Refusal> {
    let mut refusals = open_files(pid);
    for refusal in mappings(pid) {
        if !refusals.contains(&refusal) {
            refusals.push(refusal);
        }
    }
    refusals
}

fn open_files(pid: u32) -> Vec<Refusal> {
    let Ok(dir) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let mut refusals = Vec::new();
    for fd in dir.flatten() {
        let Some(refusal) = open_file(pid, &fd.path()) else { continue };
        if !refusals.contains(&refusal) {
            refusals.push(refusal);
        }
    }
    refusals
}

fn open_file(pid: u32, fd: &Path) -> Option<Refusal> {
    let link = fs::read_link(fd).ok()?;
    let link = link.to_string_lossy();
    if link.starts_with("anon_inode:") {
        return anonymous(pid, &link);
    }
    let meta = fs::metadata(fd).ok()?;
    let kind = meta.file_type();
    let device = kind.is_char_device() || kind.is_block_device();
    if !device {
        return None;
    }
    let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    device_refusal(pid, &link, kind.is_block_device(), major, minor)
}

fn anonymous(pid: u32, link: &str) -> Option<Refusal> {
    match link {
        "anon_inode:[io_uring]" => Some(Refusal::IoUring { pid }),
        "anon_inode:[userfaultfd]" => Some(Refusal::Userfaultfd { pid }),
        known if KNOWN_ANONYMOUS.contains(&known) => None,
        other => Some(Refusal::UnsupportedFile { pid, what: other.to_owned() }),
    }
}

fn device_refusal(pid: u32, path: &str, block: bool, major: u32, minor: u32) -> Option<Refusal> {
    let known = major == MEM || TTY.contains(&major) || (major == MISC && minor == TUN_MINOR);
    match (block, major, minor) {
        (false, MISC, FUSE_MINOR) => Some(Refusal::FuseDaemon { pid }),
        (false, ..) if known => None,
        _ => Some(Refusal::Device { pid, path: path.to_owned() }),
    }
}

fn mappings(pid: u32) -> Vec<Refusal> {
    let maps = fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
    of_maps(pid, &String::from_utf8_lossy(&maps))
}

/// `7f…-7f… rw-s 00000000 00:0f 123   /dev/dri/card0`
fn of_maps(pid: u32, maps: &str) -> Vec<Refusal> {
    let names: BTreeSet<&str> = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .filter(|name| name.starts_with("/dev/") || name.starts_with("anon_inode:"))
        .collect();
    let refusal = |name: &str| {
        if name.starts_with("anon_inode:") {
            return anonymous(pid, name);
        }
        let harmless = name.starts_with("/dev/shm/") || name.starts_with("/dev/zero");
        (!harmless).then(|| Refusal::Device { pid, path: name.to_owned() })
    };
    names.into_iter().filter_map(refusal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_kinds_of_open_files_are_named() {
        assert_eq!(anonymous(1, "anon_inode:[io_uring]"), Some(Refusal::IoUring { pid: 1 }));
        let uffd = anonymous(1, "anon_inode:[userfaultfd]");
        assert_eq!(uffd, Some(Refusal::Userfaultfd { pid: 1 }));
        assert_eq!(anonymous(1, "anon_inode:[eventpoll]"), None);
        assert!(matches!(
            anonymous(1, "anon_inode:[perf_event]"),
            Some(Refusal::UnsupportedFile { .. })
        ));
    }

    #[test]
    fn devices_are_told_apart() {
        assert_eq!(device_refusal(1, "/dev/null", false, 1, 3), None);
        assert_eq!(device_refusal(1, "/dev/pts/0", false, 136, 0), None);
        let fuse = device_refusal(1, "/dev/fuse", false, 10, 229);
        assert_eq!(fuse, Some(Refusal::FuseDaemon { pid: 1 }));
        assert!(device_refusal(1, "/dev/nvidia0", false, 195, 0).is_some());
        assert!(device_refusal(1, "/dev/ram0", true, 1, 0).is_some());
    }

    #[test]
    fn mapped_devices_and_rings_are_found() {
        let maps = "\
7f00-7f01 rw-s 00000000 00:0f 123                        /dev/dri/card0
7f01-7f02 rw-s 00000000 00:0f 124                        anon_inode:[io_uring]
7f02-7f03 rw-s 00000000 00:15 5                          /dev/shm/x (deleted)
7f03-7f04 rw-s 00000000 00:01 6                          /dev/zero (deleted)
7f04-7f05 r-xp 00000000 08:01 7                          /usr/bin/x
";
        let found = of_maps(9, maps);
        assert_eq!(found.len(), 2);
        assert!(found.contains(&Refusal::IoUring { pid: 9 }));
        assert!(found.contains(&Refusal::Device { pid: 9, path: "/dev/dri/card0".into() }));
    }

    #[test]
    fn an_open_device_of_a_real_process_is_found() {
        // A loop device's control node: a device that no container's state can follow.
        let Ok(_device) = fs::File::open("/dev/loop-control") else {
            panic!("this test needs /dev/loop-control");
        };
        let refusals = check(std::process::id());
        let is =
            |r: &Refusal| matches!(r, Refusal::Device { path, .. } if path == "/dev/loop-control");
        assert!(refusals.iter().any(is), "{refusals:?}");
    }
}
