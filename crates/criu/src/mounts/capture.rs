//! The contents of a container's temporary file systems.
//!
//! Owns the walk of a *hostile* tree: paths are resolved inside the container's root without following a link, depth,
//! number and bytes are bounded. Read-only ones are captured before the freeze, the others while the dump session is at
//! post-dump: CRIU makes names for deleted files there that the restore needs.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use godwit_criu_rpc::relay_plan::{CONTENTS_FILE, Entry, EntryKind, Extent, RawPath, Xattr};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat};

use super::{MountPlan, Role};
use crate::Error;

mod xattr;

/// Limits of what is captured of all temporary file systems of one container.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of file content.
    pub bytes: u64,
    /// Number of files.
    pub entries: usize,
    /// Bytes of extended attributes.
    pub xattrs: usize,
    /// Depth of directories.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // The content travels with the checkpoint's small parts; containerd's /dev/shm holds 64 MiB.
        Self { bytes: 256 << 20, entries: 200_000, xattrs: 4 << 20, depth: 64 }
    }
}

/// Collects contents in an image directory.
#[derive(Debug)]
pub struct Capture {
    contents: File,
    written: u64,
    entries: usize,
    xattrs: usize,
    limits: Limits,
    path: PathBuf,
}

impl Capture {
    /// Begins the contents file of an image directory.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn begin(images: &Path, limits: Limits) -> Result<Self, Error> {
        let path = images.join(CONTENTS_FILE);
        let contents =
            File::create(&path).map_err(Error::io(format!("create {}", path.display())))?;
        Ok(Self { contents, written: 0, entries: 0, xattrs: 0, limits, path })
    }

    /// Captures the read-only ones: before the freeze. What the others hold by now must be within the limits, too.
    ///
    /// # Errors
    /// [`Error::Refused`] beyond the limits, [`Error::Io`].
    pub fn static_parts(&mut self, pid: u32, plan: &mut MountPlan) -> Result<(), Error> {
        self.all(pid, plan, true)?;
        self.foresee(pid, plan)
    }

    /// Captures those that can be written: while the dump session is at post-dump.
    ///
    /// # Errors
    /// [`Error::Refused`] beyond the limits, [`Error::Io`].
    pub fn frozen_parts(&mut self, pid: u32, plan: &mut MountPlan) -> Result<(), Error> {
        self.all(pid, plan, false)
    }

    fn all(&mut self, pid: u32, plan: &mut MountPlan, read_only: bool) -> Result<(), Error> {
        let root = open_root(pid)?;
        for mount in plan.mounts.iter_mut().filter(|m| m.read_only == read_only) {
            if let Role::Tmpfs { entries } = &mut mount.role {
                *entries = self.tree(root.as_fd(), mount.mountpoint.as_path())?;
            }
        }
        Ok(())
    }

    fn foresee(&self, pid: u32, plan: &MountPlan) -> Result<(), Error> {
        let root = open_root(pid)?;
        let mut held = self.written;
        for mount in plan.mounts.iter().filter(|m| !m.read_only) {
            if let Role::Tmpfs { .. } = mount.role {
                let path = mount.mountpoint.as_path();
                let io = Error::sys(format!("look at {}", path.display()));
                let dir = open_inside(root.as_fd(), path).map_err(io)?;
                held = held.saturating_add(used(&dir));
                if held > self.limits.bytes {
                    return Err(self.too_many_bytes(path.display()));
                }
            }
        }
        Ok(())
    }

    fn too_many_bytes(&self, path: impl std::fmt::Display) -> Error {
        Error::Refused(format!(
            "the container's temporary file systems hold more than {} MiB with {path}, which is too much for a checkpoint: put large files into a volume",
            self.limits.bytes >> 20
        ))
    }

    fn tree(&mut self, root: BorrowedFd<'_>, mountpoint: &Path) -> Result<Vec<Entry>, Error> {
        let name = mountpoint.display().to_string();
        let io = |errno: rustix::io::Errno| Error::sys(format!("read {name}"))(errno);
        let dir = open_inside(root, mountpoint).map_err(io)?;
        let stat = rustix::fs::fstat(&dir).map_err(io)?;
        let mut walk = Walk {
            capture: self,
            device: stat.st_dev,
            links: HashMap::new(),
            out: Vec::new(),
            name,
        };
        let xattrs = walk.xattrs(&dir, c".", Path::new(""))?;
        walk.out.push(Entry { xattrs, ..entry(PathBuf::new(), &stat, EntryKind::Dir) });
        walk.directory(dir, Path::new(""), 0)?;
        Ok(walk.out)
    }

    fn copy(&mut self, file: &OwnedFd, size: u64) -> std::io::Result<Vec<Extent>> {
        let mut extents = Vec::new();
        let mut offset = 0;
        while offset < size {
            let Some((start, end)) = next_data(file, offset, size)? else { break };
            let at = self.written;
            self.append(file, start, end)?;
            extents.push(Extent { offset: start, len: end - start, at });
            offset = end;
        }
        Ok(extents)
    }

    fn append(&mut self, file: &OwnedFd, mut start: u64, end: u64) -> std::io::Result<()> {
        let mut buffer = vec![0; 256 << 10];
        while start < end {
            let want = usize::try_from(end - start).unwrap_or(usize::MAX).min(buffer.len());
            let got = rustix::io::pread(file, &mut buffer[..want], start)?;
            // Cut while we read: the rest is zeros. Cannot happen to a frozen or read-only file.
            let got = if got == 0 {
                buffer[..want].fill(0);
                want
            } else {
                got
            };
            self.contents.write_all(&buffer[..got])?;
            start += got as u64;
            self.written += got as u64;
        }
        Ok(())
    }
}

struct Walk<'a> {
    capture: &'a mut Capture,
    device: u64,
    links: HashMap<u64, RawPath>,
    out: Vec<Entry>,
    name: String,
}

impl Walk<'_> {
    fn directory(&mut self, dir: OwnedFd, path: &Path, depth: usize) -> Result<(), Error> {
        if depth > self.capture.limits.depth {
            return Err(self.too_much("nests directories too deeply"));
        }
        let io = self.io(path);
        let mut names = Vec::new();
        for item in rustix::fs::Dir::read_from(&dir).map_err(&io)? {
            let item = item.map_err(&io)?;
            let bytes = item.file_name().to_bytes();
            if bytes != b"." && bytes != b".." {
                names.push(item.file_name().to_owned());
            }
        }
        names.sort();
        for name in names {
            use std::os::unix::ffi::OsStrExt as _;
            let child = path.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
            self.child(&dir, &name, child, depth)?;
        }
        Ok(())
    }

    fn child(
        &mut self,
        dir: &OwnedFd,
        name: &std::ffi::CStr,
        path: PathBuf,
        depth: usize,
    ) -> Result<(), Error> {
        self.capture.entries += 1;
        if self.capture.entries > self.capture.limits.entries {
            return Err(self.too_much("holds too many files"));
        }
        let io = self.io(&path);
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(&io)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if stat.st_dev != self.device {
            // Another mount is here: it needs something to be mounted on.
            let empty = EntryKind::File { size: 0, extents: Vec::new() };
            let kind = if kind == FileType::Directory { EntryKind::Dir } else { empty };
            self.out.push(Entry { mode: 0o755, uid: 0, gid: 0, ..entry(path, &stat, kind) });
            return Ok(());
        }
        let xattrs = self.xattrs(dir, name, &path)?;
        if kind == FileType::Directory {
            self.out.push(Entry { xattrs, ..entry(path.clone(), &stat, EntryKind::Dir) });
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner = rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(&io)?;
            return self.directory(inner, &path, depth + 1);
        }
        if stat.st_nlink > 1 {
            if let Some(to) = self.links.get(&stat.st_ino) {
                let kind = EntryKind::HardLink { to: to.clone() };
                self.out.push(entry(path, &stat, kind));
                return Ok(());
            }
            self.links.insert(stat.st_ino, RawPath(path.clone()));
        }
        let kind = self.leaf(dir, name, &path, &stat, kind)?;
        self.out.push(Entry { xattrs, ..entry(path, &stat, kind) });
        Ok(())
    }

    /// The attributes that belong to a file.
    fn xattrs(
        &mut self,
        dir: &OwnedFd,
        name: &std::ffi::CStr,
        path: &Path,
    ) -> Result<Vec<Xattr>, Error> {
        let found = xattr::kept(dir.as_fd(), name).map_err(self.io(path))?;
        self.capture.xattrs += found.iter().map(|x| x.name.len() + x.value.len()).sum::<usize>();
        if self.capture.xattrs > self.capture.limits.xattrs {
            return Err(self.too_much("has too many extended attributes"));
        }
        Ok(found)
    }

    fn leaf(
        &mut self,
        dir: &OwnedFd,
        name: &std::ffi::CStr,
        path: &Path,
        stat: &Stat,
        kind: FileType,
    ) -> Result<EntryKind, Error> {
        let io = self.io(path);
        let major = rustix::fs::major(stat.st_rdev);
        let minor = rustix::fs::minor(stat.st_rdev);
        Ok(match kind {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(dir, name, Vec::new()).map_err(&io)?;
                use std::os::unix::ffi::OsStrExt as _;
                let target = std::ffi::OsStr::from_bytes(target.to_bytes());
                EntryKind::Symlink { target: RawPath::from(target) }
            }
            FileType::Fifo => EntryKind::Fifo,
            FileType::Socket => EntryKind::Socket,
            FileType::CharacterDevice => EntryKind::CharDevice { major, minor },
            FileType::BlockDevice => EntryKind::BlockDevice { major, minor },
            _ => self.file(dir, name, path, stat)?,
        })
    }

    fn file(
        &mut self,
        dir: &OwnedFd,
        name: &std::ffi::CStr,
        path: &Path,
        stat: &Stat,
    ) -> Result<EntryKind, Error> {
        // `st_blocks` counts 512 bytes; a hostile sparse file costs nothing.
        let held = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        if self.capture.written.saturating_add(held) > self.capture.limits.bytes {
            return Err(self.capture.too_many_bytes(&self.name));
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(self.io(path))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let action =
            format!("copy {}/{} to {}", self.name, path.display(), self.capture.path.display());
        let extents = self.capture.copy(&file, size).map_err(Error::io(action))?;
        Ok(EntryKind::File { size, extents })
    }

    fn io(&self, path: &Path) -> impl Fn(rustix::io::Errno) -> Error + use<> {
        let action = format!("read {}/{}", self.name, path.display());
        move |errno| Error::sys(action.clone())(errno)
    }

    fn too_much(&self, what: &str) -> Error {
        Error::Refused(format!("the temporary file system {} {what} for a checkpoint", self.name))
    }
}

fn entry(path: PathBuf, stat: &Stat, kind: EntryKind) -> Entry {
    Entry {
        path: RawPath(path),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        xattrs: Vec::new(),
        kind,
    }
}

/// The next run of data at or after `offset`; `None` when only a hole is left.
fn next_data(file: &OwnedFd, offset: u64, size: u64) -> std::io::Result<Option<(u64, u64)>> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Err(rustix::io::Errno::NXIO) => return Ok(None),
        other => other?,
    };
    let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
    Ok((start < size).then_some((start, end.min(size))))
}

/// The bytes that a tmpfs holds; 0 of one without a limit, which does not count them.
fn used(dir: &OwnedFd) -> u64 {
    let Ok(stat) = rustix::fs::fstatfs(dir) else { return 0 };
    let unit = u64::try_from(stat.f_bsize).unwrap_or(0);
    stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(unit)
}

fn open_root(pid: u32) -> Result<OwnedFd, Error> {
    let path = format!("/proc/{pid}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(&path, flags, Mode::empty()).map_err(Error::sys(format!("open {path}")))
}

/// Opens a directory of the container; links on the way are refused, `..` cannot leave it.
fn open_inside(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use rustix::fs::XattrFlags;

    use super::*;

    fn capture(dir: &Path, limits: Limits) -> (Result<Vec<Entry>, Error>, Vec<u8>) {
        let images = tempfile::tempdir().unwrap();
        let mut capture = Capture::begin(images.path(), limits).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open("/", flags, Mode::empty()).unwrap();
        let entries = capture.tree(root.as_fd(), dir);
        (entries, std::fs::read(images.path().join(CONTENTS_FILE)).unwrap())
    }

    #[test]
    fn files_links_modes_and_holes_are_captured() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("d")).unwrap();
        std::fs::write(at("d/file"), b"content").unwrap();
        std::fs::set_permissions(at("d/file"), std::fs::Permissions::from_mode(0o640)).unwrap();
        std::fs::hard_link(at("d/file"), at("e")).unwrap();
        let flags = XattrFlags::empty();
        rustix::fs::setxattr(at("d/file"), "trusted.a", b"1", flags).unwrap();
        rustix::fs::setxattr(at("d"), "trusted.b", b"", flags).unwrap();
        std::os::unix::fs::symlink("../nowhere", at("link")).unwrap();
        let sparse = File::create(at("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        std::os::unix::fs::FileExt::write_at(&sparse, b"x", 1 << 30).unwrap();
        let (entries, contents) = capture(dir.path(), Limits::default());
        let entries = entries.unwrap();
        let of = |path: &str| entries.iter().find(|e| e.path == RawPath::from(path)).unwrap();
        assert_eq!(of("").mode, std::fs::metadata(dir.path()).unwrap().mode() & 0o7777);
        assert_eq!(of("d/file").mode, 0o640);
        let xattr = |name: &str, value: &[u8]| Xattr { name: name.into(), value: value.into() };
        assert_eq!(of("d/file").xattrs, [xattr("trusted.a", b"1")]);
        assert_eq!(of("d").xattrs, [xattr("trusted.b", b"")]);
        let EntryKind::File { size: 7, extents } = &of("d/file").kind else { panic!() };
        let at = usize::try_from(extents[0].at).unwrap();
        assert_eq!(&contents[at..at + 7], b"content");
        assert_eq!(of("e").kind, EntryKind::HardLink { to: RawPath::from("d/file") });
        assert_eq!(of("link").kind, EntryKind::Symlink { target: RawPath::from("../nowhere") });
        let EntryKind::File { size, extents } = &of("sparse").kind else { panic!() };
        assert_eq!((*size, extents.len()), (1 << 40, 1));
        assert!(extents[0].len <= 4 << 20, "a hole was copied: {extents:?}");
    }

    #[test]
    fn a_tree_beyond_the_limits_is_refused() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::write(dir.path().join("a"), vec![1; 8192]).unwrap();
        std::fs::create_dir_all(dir.path().join("x/y/z")).unwrap();
        let long = vec![1; 256];
        rustix::fs::setxattr(dir.path().join("a"), "trusted.a", &long, XattrFlags::empty())
            .unwrap();
        for limits in [
            Limits { bytes: 4096, ..Limits::default() },
            Limits { entries: 2, ..Limits::default() },
            Limits { xattrs: 200, ..Limits::default() },
            Limits { depth: 1, ..Limits::default() },
        ] {
            let (entries, _) = capture(dir.path(), limits);
            assert!(matches!(entries, Err(Error::Refused(_))), "{limits:?}");
        }
    }

    #[test]
    fn a_link_on_the_way_is_not_followed() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
        assert!(matches!(
            capture(&dir.path().join("out"), Limits::default()).0,
            Err(Error::Io { .. })
        ));
    }
}
