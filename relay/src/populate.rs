//! The content of a new temporary file system. Every path is resolved beneath its root without following a link: the
//! entries come from a checkpoint.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use godwit_criu_rpc::relay_plan::{Entry, EntryKind, Extent, Xattr, is_kept};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};

use crate::error::Error;
use crate::sources::Contents;

/// How much is copied at once.
const CHUNK: usize = 256 << 10;

/// Makes the entries in the empty file system at `root`.
pub(crate) fn fill(root: &Path, entries: &[Entry], contents: &Contents<'_>) -> Result<(), Error> {
    let dir = open(root).map_err(Error::sys(format!("open {}", root.display())))?;
    let mut filler = Filler { root: dir, name: root, parent: None, contents: None };
    // Modes are as captured, whatever the caller's umask.
    let old = rustix::process::umask(Mode::empty());
    let made = filler.all(entries, contents);
    rustix::process::umask(old);
    made
}

struct Filler<'a> {
    root: OwnedFd,
    name: &'a Path,
    /// The directory of the last entry: most entries share theirs with the one before.
    parent: Option<(PathBuf, OwnedFd)>,
    contents: Option<File>,
}

impl Filler<'_> {
    fn all(&mut self, entries: &[Entry], contents: &Contents<'_>) -> Result<(), Error> {
        for entry in entries {
            let io = |errno| {
                let path = self.name.join(entry.path.as_path());
                Error::sys(format!("make {}", path.display()))(errno)
            };
            if needs_contents(entry) && self.contents.is_none() {
                self.contents = Some(contents.open()?);
            }
            self.one(entry).map_err(io)?;
        }
        // Making a file changes its directory's time: directories last, the deepest first.
        for entry in entries.iter().rev().filter(|e| e.kind == EntryKind::Dir) {
            let io = Error::sys(format!("set the time of {}", entry.path.as_path().display()));
            self.set_time(entry).map_err(io)?;
        }
        Ok(())
    }

    fn one(&mut self, entry: &Entry) -> rustix::io::Result<()> {
        let path = entry.path.as_path();
        let Some(name) = path.file_name() else { return self.set_owner(entry) };
        self.enter(path.parent().unwrap_or(Path::new("")))?;
        let mode = Mode::from_raw_mode(entry.mode & 0o7777);
        let Some((_, dir)) = &self.parent else { return Err(rustix::io::Errno::NOENT) };
        match &entry.kind {
            EntryKind::Dir => rustix::fs::mkdirat(dir, name, mode)?,
            EntryKind::Symlink { target } => {
                rustix::fs::symlinkat(target.as_path(), dir, name)?;
            }
            EntryKind::HardLink { to } => return self.link(to.as_path(), dir, name),
            EntryKind::File { size, extents } => self.file(dir, name, *size, extents)?,
            special => {
                let (kind, device) = node(special);
                rustix::fs::mknodat(dir, name, kind, mode, device)?;
            }
        }
        self.set_owner(entry)?;
        self.set_time(entry)
    }

    /// Makes `parent` the directory of the last entry.
    fn enter(&mut self, parent: &Path) -> rustix::io::Result<()> {
        if self.parent.as_ref().is_none_or(|(path, _)| path != parent) {
            let dir = if parent.as_os_str().is_empty() {
                self.beneath(Path::new("."))?
            } else {
                self.beneath(parent)?
            };
            self.parent = Some((parent.to_owned(), dir));
        }
        Ok(())
    }

    fn beneath(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat2(self.root.as_fd(), path, flags, Mode::empty(), resolve)
    }

    fn link(&self, to: &Path, dir: &OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
        let source = self.beneath(to)?;
        rustix::fs::linkat(&source, "", dir, name, AtFlags::EMPTY_PATH)
    }

    fn file(
        &self,
        dir: &OwnedFd,
        name: &OsStr,
        size: u64,
        extents: &[Extent],
    ) -> rustix::io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))?;
        rustix::fs::ftruncate(&file, size)?;
        let Some(contents) = &self.contents else { return Ok(()) };
        let file = File::from(file);
        extents.iter().try_for_each(|extent| copy(contents, &file, extent))
    }

    fn set_owner(&self, entry: &Entry) -> rustix::io::Result<()> {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        let (dir, name) = self.place(entry);
        rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        // After the owner: chown clears set-user-id and file capabilities.
        if !matches!(entry.kind, EntryKind::Symlink { .. }) {
            let mode = Mode::from_raw_mode(entry.mode & 0o7777);
            rustix::fs::chmodat(dir, name, mode, AtFlags::empty())?;
        }
        set_xattrs(dir, name, &entry.xattrs)
    }

    fn set_time(&self, entry: &Entry) -> rustix::io::Result<()> {
        let time = Timespec { tv_sec: entry.mtime.0, tv_nsec: i64::from(entry.mtime.1) };
        let times = Timestamps { last_access: time, last_modification: time };
        let path = entry.path.as_path();
        if entry.kind != EntryKind::Dir {
            let (dir, name) = self.place(entry);
            return rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW);
        }
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let dir = self.beneath(path)?;
        rustix::fs::utimensat(dir, "", &times, AtFlags::EMPTY_PATH)
    }

    /// The directory of the entry that was just made, and its name there.
    fn place<'e>(&self, entry: &'e Entry) -> (&OwnedFd, &'e OsStr) {
        match (&self.parent, entry.path.as_path().file_name()) {
            (Some((_, dir)), Some(name)) => (dir, name),
            _ => (&self.root, OsStr::new(".")),
        }
    }
}

fn set_xattrs(dir: &OwnedFd, name: &OsStr, xattrs: &[Xattr]) -> rustix::io::Result<()> {
    // The name was just made by us, in a file system that nobody else has.
    let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    for Xattr { name, value } in xattrs {
        if !is_kept(name) {
            return Err(rustix::io::Errno::PERM);
        }
        rustix::fs::lsetxattr(&path, name.as_str(), value, XattrFlags::empty())?;
    }
    Ok(())
}

fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

fn needs_contents(entry: &Entry) -> bool {
    matches!(&entry.kind, EntryKind::File { extents, .. } if !extents.is_empty())
}

fn node(kind: &EntryKind) -> (FileType, rustix::fs::Dev) {
    match kind {
        EntryKind::CharDevice { major, minor } => {
            (FileType::CharacterDevice, rustix::fs::makedev(*major, *minor))
        }
        EntryKind::BlockDevice { major, minor } => {
            (FileType::BlockDevice, rustix::fs::makedev(*major, *minor))
        }
        EntryKind::Socket => (FileType::Socket, 0),
        _ => (FileType::Fifo, 0),
    }
}

fn copy(from: &File, to: &File, extent: &Extent) -> rustix::io::Result<()> {
    let errno = |e: std::io::Error| {
        e.raw_os_error().map_or(rustix::io::Errno::IO, rustix::io::Errno::from_raw_os_error)
    };
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    while done < extent.len {
        let want = usize::try_from(extent.len - done).unwrap_or(CHUNK).min(CHUNK);
        from.read_exact_at(&mut buffer[..want], extent.at + done).map_err(errno)?;
        to.write_all_at(&buffer[..want], extent.offset + done).map_err(errno)?;
        done += want as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

    use godwit_criu_rpc::relay_plan::RawPath;

    use super::*;

    fn entry(path: &str, mode: u32, kind: EntryKind) -> Entry {
        let (path, xattrs) = (RawPath::from(path), Vec::new());
        Entry { path, mode, uid: 12, gid: 34, mtime: (1_000_000, 7), xattrs, kind }
    }

    fn filled(entries: &[Entry]) -> (tempfile::TempDir, Result<(), Error>) {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let contents = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(contents.path(), b"__hello").unwrap();
        let made = fill(dir.path(), entries, &Contents(contents.path()));
        (dir, made)
    }

    #[test]
    fn every_kind_of_file_is_made_as_it_was() {
        let extents = vec![Extent { offset: 4096, len: 5, at: 2 }];
        let (dir, made) = filled(&[
            entry("", 0o1777, EntryKind::Dir),
            entry("d", 0o711, EntryKind::Dir),
            entry("d/f", 0o4755, EntryKind::File { size: 10000, extents }),
            entry("d/h", 0o4755, EntryKind::HardLink { to: RawPath::from("d/f") }),
            entry("l", 0o777, EntryKind::Symlink { target: RawPath::from("/nowhere") }),
            entry("p", 0o622, EntryKind::Fifo),
            entry("null", 0o666, EntryKind::CharDevice { major: 1, minor: 3 }),
        ]);
        made.unwrap();
        let meta = |p: &str| std::fs::symlink_metadata(dir.path().join(p)).unwrap();
        assert_eq!(meta("").mode() & 0o7777, 0o1777);
        let file = meta("d/f");
        assert_eq!((file.mode() & 0o7777, file.uid(), file.gid()), (0o4755, 12, 34));
        assert_eq!(
            (file.len(), file.nlink(), file.mtime(), file.mtime_nsec()),
            (10000, 2, 1_000_000, 7)
        );
        assert_eq!(std::fs::read(dir.path().join("d/f")).unwrap()[4096..4102], *b"hello\0");
        assert_eq!((meta("d").mtime(), meta("d").mode() & 0o7777), (1_000_000, 0o711));
        assert_eq!(std::fs::read_link(dir.path().join("l")).unwrap(), Path::new("/nowhere"));
        assert!(meta("p").file_type().is_fifo());
        let null = meta("null");
        assert_eq!((null.rdev(), null.mode() & 0o7777), (rustix::fs::makedev(1, 3), 0o666));
    }

    #[test]
    fn attributes_are_those_of_a_file_and_no_others() {
        let cap = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let with = |name: &str, value: &[u8]| Entry {
            xattrs: vec![Xattr { name: name.into(), value: value.into() }],
            ..entry("f", 0o644, EntryKind::File { size: 0, extents: Vec::new() })
        };
        let (dir, made) = filled(&[with("security.capability", &cap)]);
        made.unwrap();
        let mut value = [0; 64];
        let got = rustix::fs::getxattr(dir.path().join("f"), "security.capability", &mut value);
        assert_eq!(&value[..got.unwrap()], cap);
        assert!(filled(&[with("security.selinux", b"x")]).1.is_err());
    }

    #[test]
    fn a_link_is_not_followed_to_the_outside() {
        let outside = tempfile::tempdir().unwrap();
        let (_dir, made) = filled(&[
            entry("", 0o755, EntryKind::Dir),
            entry("out", 0o777, EntryKind::Symlink { target: RawPath::from(outside.path()) }),
            entry("out/x", 0o644, EntryKind::File { size: 1, extents: Vec::new() }),
        ]);
        assert!(made.is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
