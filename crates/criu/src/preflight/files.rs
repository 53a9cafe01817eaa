//! Open files and mappings that CRIU cannot save.

use std::collections::{BTreeMap, BTreeSet};
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
/// `/dev/zero`, whose mappings are memory without a file.
const ZERO: (u32, u32) = (MEM, 5);
const TTY: [u32; 4] = [4, 5, 136, 137];
const MISC: u32 = 10;
/// `/dev/net/tun` and `/dev/fuse`.
const TUN_MINOR: u32 = 200;
const FUSE_MINOR: u32 = 229;

pub(super) fn check(pid: u32) -> Vec<Refusal> {
    let mut refusals = open_files(pid);
    for refusal in mapped_files(pid) {
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

fn mapped_files(pid: u32) -> Vec<Refusal> {
    let maps = fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
    let maps = String::from_utf8_lossy(&maps);
    let refusal = |mapping: Mapping<'_>| {
        if mapping.name.starts_with("anon_inode:") {
            return anonymous(pid, mapping.name);
        }
        let meta = mapped_file(pid, mapping.place)?;
        let kind = meta.file_type();
        let number = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        let device = kind.is_block_device() || (kind.is_char_device() && number != ZERO);
        device.then(|| Refusal::Device { pid, path: mapping.name.to_owned() })
    };
    of_maps(&maps).into_iter().filter_map(refusal).collect()
}

/// Names under which the kernel shows memory that is no file of anybody: its pages go with the memory.
const MEMORY: &[&str] = &["/memfd:", "/SYSV", "/dev/zero (deleted)", "/anon_hugepage"];

/// Every file without a name that the process has open or mapped, memory among them, by device and inode; what it was called.
pub(super) fn nameless(pid: u32) -> BTreeMap<(u64, u64), String> {
    let of = |name: &str, file: Option<fs::Metadata>| {
        let file = file.filter(|file| file.nlink() == 0)?;
        Some(((file.dev(), file.ino()), name.trim_end_matches(DELETED).to_owned()))
    };
    let is_one = |name: &str| name.ends_with(DELETED) && !name.starts_with("/SYSV");
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let open = fds.filter_map(|fd| {
        let name = fs::read_link(fd.path()).ok()?;
        let name = name.to_string_lossy();
        is_one(&name).then(|| of(&name, fs::metadata(fd.path()).ok()))?
    });
    let maps = fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
    let maps = String::from_utf8_lossy(&maps);
    let mapped = of_maps(&maps).into_iter().filter(|mapping| is_one(mapping.name));
    let mapped = mapped.filter_map(|m| of(m.name, mapped_file(pid, m.place)));
    open.chain(mapped).collect()
}

/// How the kernel marks the name of what has none (any more).
const DELETED: &str = " (deleted)";

/// Regular files without a name that the process has open or mapped, by device and inode, with the bytes that they take.
pub(super) fn deleted(pid: u32) -> BTreeMap<(u64, u64), u64> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let open = fds.filter_map(|fd| {
        let name = fs::read_link(fd.path()).ok()?;
        deleted_file(&name.to_string_lossy(), || fs::metadata(fd.path()).ok())
    });
    let maps = fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
    let maps = String::from_utf8_lossy(&maps);
    let mapped = of_maps(&maps).into_iter();
    let mapped = mapped.filter_map(|m| deleted_file(m.name, || mapped_file(pid, m.place)));
    open.chain(mapped).collect()
}

/// Other names of the same file may be left.
fn deleted_file(
    name: &str,
    file: impl FnOnce() -> Option<fs::Metadata>,
) -> Option<((u64, u64), u64)> {
    if !name.ends_with(DELETED) || MEMORY.iter().any(|memory| name.starts_with(memory)) {
        return None;
    }
    let file = file().filter(|file| file.is_file() && file.nlink() == 0)?;
    // `st_blocks` counts 512 bytes, whatever the file system does: holes hold nothing.
    Some(((file.dev(), file.ino()), file.blocks().saturating_mul(512)))
}

fn mapped_file(pid: u32, place: &str) -> Option<fs::Metadata> {
    fs::metadata(format!("/proc/{pid}/map_files/{place}")).ok()
}

/// A mapped file.
#[derive(Debug, PartialEq, Eq)]
struct Mapping<'a> {
    /// Its addresses, as `map_files` names it too.
    place: &'a str,
    name: &'a str,
}

/// Every mapped file once. Its name belongs to what it is: most anonymous inodes are one inode.
/// `7f…-7f… rw-s 00000000 00:0f 123   /dev/dri/card0`
fn of_maps(maps: &str) -> Vec<Mapping<'_>> {
    let mut seen = BTreeSet::new();
    let first_of_file = |line| {
        let (place, file, name) = parse_mapping(line)?;
        seen.insert((file, name)).then_some(Mapping { place, name })
    };
    maps.lines().filter_map(first_of_file).collect()
}

/// Place, device with inode, name (which may have spaces); `None` for memory without a file.
fn parse_mapping(line: &str) -> Option<(&str, (&str, &str), &str)> {
    let mut fields = line.splitn(6, ' ');
    let place = fields.next()?;
    let (device, inode) = (fields.nth(2)?, fields.next()?);
    let name = fields.next()?.trim_start();
    (inode != "0").then_some((place, (device, inode), name))
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
    fn every_mapped_file_is_looked_at_once() {
        let maps = "\
7f00-7f01 rw-s 00000000 00:0f 123                        /dev/dri/card 0
7f01-7f02 rw-s 00001000 00:0f 123                        /dev/dri/card 0
7f02-7f03 rw-p 00000000 00:00 0
7f03-7f04 rw-p 00000000 00:00 0                          [stack]
7f04-7f05 rw-s 00000000 00:0e 124                        anon_inode:[eventfd]
7f05-7f06 rw-s 00000000 00:0e 124                        anon_inode:[perf_event]
7f06-7f07 rw-s 00000000 00:0e 124                        anon_inode:[perf_event]
";
        let mapping = |place, name| Mapping { place, name };
        assert_eq!(
            of_maps(maps),
            [
                mapping("7f00-7f01", "/dev/dri/card 0"),
                mapping("7f04-7f05", "anon_inode:[eventfd]"),
                mapping("7f05-7f06", "anon_inode:[perf_event]")
            ]
        );
    }

    #[test]
    fn files_that_this_process_has_mapped_are_no_devices() {
        let pid = std::process::id();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let program = std::env::current_exe().unwrap();
        let files = of_maps(&maps);
        let own = files.iter().find(|file| Path::new(file.name) == program).unwrap();
        assert!(mapped_file(pid, own.place).unwrap().is_file());
        assert_eq!(mapped_files(pid), []);
    }

    /// What is counted of this file in a process.
    fn counted(pid: u32, meta: &fs::Metadata) -> Option<u64> {
        deleted(pid).get(&(meta.dev(), meta.ino())).copied()
    }

    #[test]
    fn an_open_file_without_any_name_counts_with_what_it_holds() {
        const MIB: usize = 1 << 20;
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let (path, other) = (dir.path().join("name"), dir.path().join("other"));
        fs::write(&path, vec![7; MIB]).unwrap();
        let open = fs::File::options().write(true).open(&path).unwrap();
        // A hole, which holds nothing.
        open.set_len(64 * MIB as u64).unwrap();
        let (pid, meta) = (std::process::id(), open.metadata().unwrap());
        assert_eq!(counted(pid, &meta), None);
        fs::hard_link(&path, &other).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(counted(pid, &meta), None, "it has another name");
        fs::remove_file(&other).unwrap();
        let _again = open.try_clone().unwrap();
        assert_eq!(counted(pid, &meta), Some(MIB as u64));

        let memory = rustix::fs::memfd_create("memory", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let memory = fs::File::from(memory);
        memory.set_len(MIB as u64).unwrap();
        let meta = memory.metadata().unwrap();
        assert_eq!((meta.nlink(), counted(pid, &meta)), (0, None), "it goes with the memory");
        // Both could be had by others.
        for (file, called) in [(&open, path.to_str().unwrap()), (&memory, "/memfd:memory")] {
            let meta = file.metadata().unwrap();
            let found = nameless(pid).remove(&(meta.dev(), meta.ino()));
            assert_eq!(found.as_deref(), Some(called));
        }
    }

    #[test]
    fn a_mapped_file_without_a_name_counts_too() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("sleep");
        fs::copy("/bin/sleep", &program).unwrap();
        let mut child = std::process::Command::new(&program).arg("1000").spawn().unwrap();
        let (meta, maps) = (fs::metadata(&program).unwrap(), format!("/proc/{}/maps", child.id()));
        // Whoever has executed it is told so before it is mapped.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !fs::read_to_string(&maps).unwrap().contains("/sleep") {
            assert!(std::time::Instant::now() < until, "it is never mapped");
            std::thread::yield_now();
        }
        let before = counted(child.id(), &meta);
        fs::remove_file(&program).unwrap();
        let after = counted(child.id(), &meta);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((before, after), (None, Some(meta.blocks() * 512)));
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
