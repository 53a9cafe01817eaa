//! One walk over an upper directory. The container that owns it may be running and hostile: each directory is opened from
//! the root on without following anything, one at a time, and nothing but directories and regular files is opened.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Statx, StatxFlags, StatxTimestamp, readlinkat, statx};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::baseline::Baseline;
use super::contents::Contents;
use super::read::Reading;
use crate::error::At as _;
use crate::index::limits::{MAX_ENTRIES, MAX_PATH};
use crate::upper::open_below;
use crate::xattr::{Notes, of_upper};
use crate::{
    Chunk, Device, Entry, FilesError, Halt, Inode, MappedFiles, Node, Seen, Time, Upper, What,
    Xattr,
};

/// Two ticks at 100 Hz, the slowest clock that Linux is built with.
const TWO_TICKS: i64 = 20_000_000;

/// A change before this time was before a round that begins now. Taken *before* dirty pages are written: a page that was
/// written through a mapping after it has moved the file's time beyond it.
pub(super) fn before_round() -> Time {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    let nanos = now.tv_nsec - TWO_TICKS;
    match nanos < 0 {
        true => Time { seconds: now.tv_sec - 1, nanos: (nanos + 1_000_000_000) as u32 },
        false => Time { seconds: now.tv_sec, nanos: nanos as u32 },
    }
}

pub(super) fn time(stamp: StatxTimestamp) -> Time {
    Time { seconds: stamp.tv_sec, nanos: stamp.tv_nsec }
}

/// See the module.
pub(super) struct Walk<'a> {
    upper: &'a Upper,
    baseline: &'a Baseline<'a>,
    contents: &'a mut Contents,
    halt: &'a Halt,
    since: Time,
    frozen: bool,
    mapped: MappedFiles,
    /// Inodes with several names.
    shared: HashMap<u64, Option<Box<Inode>>>,
    names: u64,
}

/// A name, and what it stands for until all of them are known.
struct Found {
    name: Vec<u8>,
    node: FoundNode,
}

enum FoundNode {
    Whiteout,
    /// One of several names of this inode.
    Shared(u64),
    Inode(Box<Inode>),
    /// With its number among the directories.
    Directory(Box<Inode>, usize),
}

/// A directory that is being read.
struct Here<'p> {
    dir: BorrowedFd<'p>,
    path: &'p Path,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        upper: &'a Upper,
        baseline: &'a Baseline<'a>,
        contents: &'a mut Contents,
        halt: &'a Halt,
        since: Time,
    ) -> Self {
        let (mapped, shared) = (MappedFiles::default(), HashMap::new());
        Self { upper, baseline, contents, halt, since, frozen: false, mapped, shared, names: 0 }
    }

    /// Nothing may change during this walk, and these files are read whatever their times say.
    pub(super) fn frozen(mut self, mapped: &MappedFiles) -> Self {
        self.frozen = true;
        self.mapped = mapped.clone();
        self
    }

    /// All names, in the order of the index.
    pub(super) fn run(mut self) -> Result<Vec<Entry>, FilesError> {
        let root = self.root()?;
        let mut paths = vec![PathBuf::new()];
        let mut found: Vec<Vec<Found>> = Vec::new();
        while let Some(path) = paths.get(found.len()).cloned() {
            let names = match open_below(self.upper.as_fd(), &path) {
                Ok(dir) => self.directory(&Here { dir: dir.as_fd(), path: &path }, &mut paths)?,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) if !self.frozen => {
                    Vec::new()
                }
                Err(e) => return Err(FilesError::io("open", &path, e)),
            };
            found.push(names);
        }
        self.flatten(root, found)
    }

    fn root(&mut self) -> Result<Box<Inode>, FilesError> {
        let here = Here { dir: self.upper.as_fd(), path: Path::new("") };
        let flags = AtFlags::EMPTY_PATH;
        let stat =
            statx(here.dir, "", flags, StatxFlags::BASIC_STATS).at("look at", self.upper.path())?;
        let (xattrs, notes) = self.attributes(&here, b".", here.path, &stat)?;
        let what = What::Directory { opaque: notes.opaque };
        Ok(Box::new(self.inode(&stat, xattrs, what)))
    }

    fn directory(
        &mut self,
        here: &Here<'_>,
        paths: &mut Vec<PathBuf>,
    ) -> Result<Vec<Found>, FilesError> {
        let mut out = Vec::new();
        for name in names(here)? {
            self.halt.check()?;
            let path = here.path.join(OsStr::from_bytes(&name));
            if path.as_os_str().len() > MAX_PATH {
                let why = "its path is longer than 4095 bytes";
                return Err(FilesError::Unsupported { path, why });
            }
            let Some(node) = self.name(here, &name, &path, paths.len())? else { continue };
            self.names += 1;
            if self.names >= MAX_ENTRIES {
                return Err(FilesError::TooMany { what: "names", limit: MAX_ENTRIES });
            }
            if matches!(node, FoundNode::Directory(..)) {
                paths.push(path);
            }
            out.push(Found { name, node });
        }
        Ok(out)
    }

    /// What a name stands for; `None` if it has just gone.
    fn name(
        &mut self,
        here: &Here<'_>,
        name: &[u8],
        path: &Path,
        next_directory: usize,
    ) -> Result<Option<FoundNode>, FilesError> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = match statx(here.dir, name, flags, StatxFlags::BASIC_STATS) {
            Err(Errno::NOENT) => return self.gone(path),
            other => other.at("look at", path)?,
        };
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        let device = (stat.stx_rdev_major, stat.stx_rdev_minor);
        if kind == FileType::CharacterDevice && device == (0, 0) {
            return Ok(Some(FoundNode::Whiteout));
        }
        let several = kind != FileType::Directory && stat.stx_nlink > 1;
        if several && self.shared.contains_key(&stat.stx_ino) {
            return Ok(Some(FoundNode::Shared(stat.stx_ino)));
        }
        match self.look(here, name, path, kind, &stat) {
            // Between two looks a name may go, or stand for something else.
            Err(e @ (FilesError::Io { .. } | FilesError::Unsupported { .. })) => {
                let now = statx(here.dir, name, flags, StatxFlags::BASIC_STATS);
                let is_it = now.is_ok_and(|now| is_same(&stat, &now));
                if is_it && (self.frozen || !may_be_of_another(&e)) {
                    Err(e)
                } else {
                    self.gone(path)
                }
            }
            Err(e) => Err(e),
            Ok(None) => Ok(Some(FoundNode::Whiteout)),
            Ok(Some(inode)) if kind == FileType::Directory => {
                Ok(Some(FoundNode::Directory(inode, next_directory)))
            }
            Ok(Some(inode)) if several => {
                self.shared.insert(stat.stx_ino, Some(inode));
                Ok(Some(FoundNode::Shared(stat.stx_ino)))
            }
            Ok(Some(inode)) => Ok(Some(FoundNode::Inode(inode))),
        }
    }

    fn gone<T>(&self, path: &Path) -> Result<Option<T>, FilesError> {
        match self.frozen {
            true => Err(FilesError::Changed { path: path.to_owned() }),
            false => Ok(None),
        }
    }

    /// All of an inode; `None` for a file that stands for a whiteout.
    fn look(
        &mut self,
        here: &Here<'_>,
        name: &[u8],
        path: &Path,
        kind: FileType,
        stat: &Statx,
    ) -> Result<Option<Box<Inode>>, FilesError> {
        let (xattrs, notes) = self.attributes(here, name, path, stat)?;
        let what = match kind {
            FileType::Directory => What::Directory { opaque: notes.opaque },
            FileType::RegularFile if notes.whiteout && stat.stx_size == 0 => return Ok(None),
            FileType::RegularFile => return self.file(here, name, path, stat, xattrs).map(Some),
            FileType::Symlink => {
                let target = readlinkat(here.dir, name, Vec::new()).at("read the link", path)?;
                What::Symlink { target: target.into_bytes() }
            }
            FileType::CharacterDevice | FileType::BlockDevice => What::Device(Device {
                block: kind == FileType::BlockDevice,
                major: stat.stx_rdev_major,
                minor: stat.stx_rdev_minor,
            }),
            FileType::Fifo => What::Fifo,
            FileType::Socket => What::Socket,
            FileType::Unknown => {
                let why = "its type is not known";
                return Err(FilesError::Unsupported { path: path.to_owned(), why });
            }
        };
        Ok(Some(Box::new(self.inode(stat, xattrs, what))))
    }

    /// Extended attributes and notes: as found before, where nothing has changed.
    fn attributes(
        &self,
        here: &Here<'_>,
        name: &[u8],
        path: &Path,
        stat: &Statx,
    ) -> Result<(Vec<Xattr>, Notes), FilesError> {
        if let Some(found) = self.unchanged(stat, path) {
            let opaque = matches!(found.what, What::Directory { opaque: true });
            return Ok((found.xattrs.clone(), Notes { opaque, whiteout: false }));
        }
        let way = PathBuf::from(format!("/proc/self/fd/{}", here.dir.as_raw_fd()));
        of_upper(&way.join(OsStr::from_bytes(name)), path, self.upper.marks())
    }

    fn unchanged(&self, stat: &Statx, path: &Path) -> Option<&'a Inode> {
        let found = self.baseline.find(stat.stx_ino, path)?;
        self.baseline.is_unchanged(found, stat).then_some(found)
    }

    fn file(
        &mut self,
        here: &Here<'_>,
        name: &[u8],
        path: &Path,
        stat: &Statx,
        xattrs: Vec<Xattr>,
    ) -> Result<Box<Inode>, FilesError> {
        let must_read = self.mapped.contains(stat) || self.upper.silent_mappings();
        if let Some(found) = self.unchanged(stat, path).filter(|_| !must_read) {
            return Ok(Box::new(self.inode(stat, xattrs, found.what.clone())));
        }
        let known: &[Chunk] = match self.baseline.find(stat.stx_ino, path).map(|i| &i.what) {
            Some(What::File { chunks, .. }) => chunks,
            _ => &[],
        };
        let changed = || FilesError::Changed { path: path.to_owned() };
        let Some(reading) = Reading::open(here.dir, name, stat.stx_ino, path)? else {
            // Another file has this name by now: the freeze will see which.
            return if self.frozen { Err(changed()) } else { Ok(self.unread(stat, xattrs)) };
        };
        let chunks = reading.chunks(known, self.contents, path, self.halt)?;
        if self.frozen && (chunks.is_none() || reading.has_changed(path)?) {
            return Err(changed());
        }
        let Some(chunks) = chunks else { return Ok(self.unread(stat, xattrs)) };
        let what = What::File { size: reading.stat.stx_size, chunks };
        let mut inode = self.inode(&reading.stat, xattrs, what);
        inode.seen.settled &= !self.mapped.contains(stat);
        Ok(Box::new(inode))
    }

    /// A file that could not be read while the container ran. It is never believed later.
    fn unread(&self, stat: &Statx, xattrs: Vec<Xattr>) -> Box<Inode> {
        let mut inode = self.inode(stat, xattrs, What::File { size: 0, chunks: Vec::new() });
        inode.seen.settled = false;
        Box::new(inode)
    }

    fn inode(&self, stat: &Statx, xattrs: Vec<Xattr>, what: What) -> Inode {
        let changed = time(stat.stx_ctime);
        Inode {
            mode: stat.stx_mode & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            accessed: time(stat.stx_atime),
            modified: time(stat.stx_mtime),
            xattrs,
            what,
            seen: Seen { ino: stat.stx_ino, changed, settled: changed < self.since },
        }
    }

    /// Puts each directory before what is in it; the first name of an inode carries it.
    fn flatten(
        &mut self,
        root: Box<Inode>,
        mut found: Vec<Vec<Found>>,
    ) -> Result<Vec<Entry>, FilesError> {
        let mut out = vec![Entry { depth: 0, name: Vec::new(), node: Node::Inode(root) }];
        let mut links: HashMap<u64, u32> = HashMap::new();
        let mut take =
            |at: usize| found.get_mut(at).map(std::mem::take).unwrap_or_default().into_iter();
        let mut way = vec![take(0)];
        while let Some(names) = way.last_mut() {
            let Some(next) = names.next() else {
                way.pop();
                continue;
            };
            let depth = way.len() as u16;
            let number = out.len() as u32;
            let node = match next.node {
                FoundNode::Whiteout => Node::Whiteout,
                FoundNode::Inode(inode) => Node::Inode(inode),
                FoundNode::Directory(inode, at) => {
                    way.push(take(at));
                    Node::Inode(inode)
                }
                FoundNode::Shared(ino) => match self.shared.get_mut(&ino).and_then(Option::take) {
                    Some(inode) => {
                        links.insert(ino, number);
                        Node::Inode(inode)
                    }
                    None => Node::Link(links.get(&ino).copied().unwrap_or(0)),
                },
            };
            out.push(Entry { depth, name: next.name, node });
        }
        Ok(out)
    }
}

/// Whether a name stands for what it stood for: a number is given to the next inode as soon as its inode has gone.
fn is_same(before: &Statx, now: &Statx) -> bool {
    let of = |s: &Statx| (s.stx_ino, s.stx_mode, s.stx_ctime.tv_sec, s.stx_ctime.tv_nsec);
    of(before) == of(now)
}

/// Whether this can be about something else that had the name for a moment: what it is about now cannot be known.
fn may_be_of_another(error: &FilesError) -> bool {
    let FilesError::Io { source, .. } = error else { return false };
    let errno = Errno::from_io_error(source);
    matches!(errno, Some(Errno::NOENT | Errno::INVAL | Errno::NOTDIR | Errno::LOOP))
}

/// The names in a directory, ascending.
fn names(here: &Here<'_>) -> Result<Vec<Vec<u8>>, FilesError> {
    let mut out = Vec::new();
    for item in Dir::read_from(here.dir).at("list", here.path)? {
        let item = item.at("list", here.path)?;
        let name = item.file_name().to_bytes();
        if name != b"." && name != b".." {
            out.push(name.to_vec());
        }
        if out.len() as u64 > MAX_ENTRIES {
            return Err(FilesError::TooMany { what: "names", limit: MAX_ENTRIES });
        }
    }
    out.sort_unstable();
    // A directory that changes while it is listed may show a name twice.
    out.dedup();
    Ok(out)
}
