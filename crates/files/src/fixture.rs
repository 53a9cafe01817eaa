//! For tests: a store of packs in memory, trees with everything that a file can be, and a look at them that shares no code
//! with what is tested.

mod change;
pub(crate) mod sys;

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use godwit_image::{
    FinishedPack, FrameDecoder, FrameRef, FrameSource, PackName, PackRegistry, PackSink, PackTable,
    SinkError,
};
use godwit_types::{Bytes, CheckpointId, Code};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, makedev, mknodat};

pub(crate) use change::{Change, change, changes};

use crate::{
    Application, Applied, Captured, Devices, FileIndex, FilesError, Halt, Layer, MappedFiles,
    Marks, Target, Upper, apply,
};

/// Packs in memory.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    packs: Mutex<BTreeMap<PackName, Vec<u8>>>,
    /// Refuse every pack.
    broken: bool,
}

impl Shelf {
    /// One that takes nothing.
    pub(crate) fn broken() -> Self {
        Self { broken: true, ..Self::default() }
    }
}

impl PackSink for Shelf {
    fn accept(&self, pack: FinishedPack) -> Result<(), SinkError> {
        if self.broken {
            return Err(SinkError::new(Code::Unavailable, "store a pack"));
        }
        self.packs.lock().unwrap().insert(pack.name, pack.bytes);
        Ok(())
    }
}

/// The frames of a pack table on a shelf; counts how many were read, and how many each time were asked for.
pub(crate) struct Reader {
    shelf: Arc<Shelf>,
    table: PackTable,
    pub(crate) reads: Mutex<usize>,
    pub(crate) asked: Mutex<Vec<usize>>,
}

impl FrameSource for Reader {
    fn frame(&self, frame: FrameRef) -> Result<Vec<u8>, SinkError> {
        *self.reads.lock().unwrap() += 1;
        let unknown = |_| SinkError::new(Code::Corrupt, "find a frame");
        let at = self.table.locate(frame).map_err(unknown)?;
        let range = at.frame.byte_range();
        let packs = self.shelf.packs.lock().unwrap();
        let stored = &packs[&at.pack.name][range.start as usize..range.end as usize];
        Ok(FrameDecoder::new().unwrap().decode(at.frame, stored).unwrap())
    }

    fn frames(&self, frames: &[FrameRef]) -> Result<Vec<Vec<u8>>, SinkError> {
        self.asked.lock().unwrap().push(frames.len());
        frames.iter().map(|frame| self.frame(*frame)).collect()
    }
}

/// A container's layer and the checkpoints of it.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    marks: Marks,
    pub(crate) shelf: Arc<Shelf>,
    packs: Option<Arc<PackRegistry>>,
    parent: Option<FileIndex>,
    checkpoints: u128,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("upper")).unwrap();
        let marks = Marks::Trusted;
        Self { dir, marks, shelf: Arc::default(), packs: None, parent: None, checkpoints: 0 }
    }

    /// Of a directory that is no part of an overlay.
    pub(crate) fn plain() -> Self {
        Self { marks: Marks::None, ..Self::new() }
    }

    pub(crate) fn upper(&self) -> PathBuf {
        self.dir.path().join("upper")
    }

    /// A new, empty directory.
    pub(crate) fn empty(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    }

    /// The layer, for the next checkpoint.
    pub(crate) fn layer(&mut self) -> Layer {
        self.checkpoints += 1;
        let table = self.packs.as_ref().map(|p| p.table()).unwrap_or_default();
        let packs = PackRegistry::new(CheckpointId::from(self.checkpoints), table);
        self.packs = Some(Arc::clone(&packs));
        let upper = Upper::open(&self.upper(), self.marks).unwrap();
        let sink: Arc<dyn PackSink> = Arc::<Shelf>::clone(&self.shelf);
        Layer::new(upper, packs, sink, Halt::never())
    }

    pub(crate) fn parent(&self) -> Option<&FileIndex> {
        self.parent.as_ref()
    }

    /// A checkpoint; `meanwhile` happens between the round and the freeze.
    pub(crate) fn checkpoint(&mut self, meanwhile: impl FnOnce()) -> Captured {
        self.try_checkpoint(Bytes(1 << 30), meanwhile).unwrap()
    }

    pub(crate) fn try_checkpoint(
        &mut self,
        budget: Bytes,
        meanwhile: impl FnOnce(),
    ) -> Result<Captured, FilesError> {
        let layer = self.layer();
        let scan = layer.scan(self.parent())?;
        meanwhile();
        let captured = layer.freeze(scan, &MappedFiles::default(), budget)?.finish()?;
        // As a later checkpoint and a restore get it.
        let index = FileIndex::decode(&captured.index.encode())?;
        assert_eq!(index, captured.index);
        index.check_frames(&self.packs.as_ref().unwrap().table())?;
        self.parent = Some(index);
        Ok(captured)
    }

    pub(crate) fn frames(&self) -> Reader {
        let table = self.packs.as_ref().map(|p| p.table()).unwrap_or_default();
        Reader {
            shelf: Arc::clone(&self.shelf),
            table,
            reads: Mutex::default(),
            asked: Mutex::default(),
        }
    }

    /// Applies an index to a directory.
    pub(crate) fn apply(
        &self,
        index: &FileIndex,
        root: &Path,
        target: Target,
    ) -> Result<Applied, FilesError> {
        let (frames, halt) = (self.frames(), Halt::never());
        let devices = Devices::Allow;
        apply(&Application { root, target, index, frames: &frames, devices, halt: &halt })
    }

    /// Applies an index to a new upper directory; what is there then.
    pub(crate) fn restored(&self, index: &FileIndex, name: &str) -> BTreeMap<PathBuf, Seen> {
        let root = self.empty(name);
        self.apply(index, &root, Target::Upper(Marks::Trusted)).unwrap();
        look(&root)
    }
}

/// What can be seen of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    device: u64,
    /// The first path of the same inode.
    first: PathBuf,
    contents: Vec<u8>,
    /// Where its data is, in pieces of 4 KiB.
    data: Vec<u64>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Everything below a directory, itself as the empty path.
pub(crate) fn look(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let (mut out, mut inodes) = (BTreeMap::new(), BTreeMap::new());
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        let full = if path.as_os_str().is_empty() { root.to_owned() } else { root.join(&path) };
        let meta = std::fs::symlink_metadata(&full).unwrap();
        let mut names: Vec<_> = match meta.is_dir() {
            true => std::fs::read_dir(&full)
                .unwrap()
                .map(|d| path.join(d.unwrap().file_name()))
                .collect(),
            false => Vec::new(),
        };
        names.sort();
        left.extend(names.into_iter().rev());
        let first = inodes.entry(meta.ino()).or_insert_with(|| path.clone()).clone();
        let whiteout = meta.rdev() == 0 && meta.mode() & 0o170_000 == 0o020_000;
        out.insert(
            path,
            seen(&full, &meta, if whiteout { PathBuf::new() } else { first }, whiteout),
        );
    }
    out
}

fn seen(full: &Path, meta: &std::fs::Metadata, first: PathBuf, whiteout: bool) -> Seen {
    if whiteout {
        // Only that it is one counts.
        let (owner, modified, xattrs) = ((0, 0), (0, 0), BTreeMap::new());
        let (mode, device) = (0o020_000, 0);
        return Seen {
            mode,
            owner,
            modified,
            device,
            first,
            contents: vec![],
            data: vec![],
            xattrs,
        };
    }
    let contents = match (meta.is_file(), meta.is_symlink()) {
        (true, _) => std::fs::read(full).unwrap(),
        (_, true) => std::fs::read_link(full).unwrap().as_os_str().as_bytes().to_vec(),
        _ => Vec::new(),
    };
    Seen {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        modified: (meta.mtime(), meta.mtime_nsec()),
        device: meta.rdev(),
        first,
        contents,
        data: if meta.is_file() { data_blocks(full) } else { Vec::new() },
        xattrs: xattrs(full),
    }
}

fn data_blocks(full: &Path) -> Vec<u64> {
    use rustix::fs::{SeekFrom, seek};
    let file = std::fs::File::open(full).unwrap();
    let (mut out, mut at) = (Vec::new(), 0);
    while let Ok(start) = seek(&file, SeekFrom::Data(at)) {
        at = seek(&file, SeekFrom::Hole(start)).unwrap();
        out.extend(start / 4096..at.div_ceil(4096));
    }
    out
}

pub(crate) fn xattrs(full: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0; 1 << 16];
    let n = rustix::fs::llistxattr(full, list.as_mut_slice()).unwrap();
    let names = list[..n].split(|b| *b == 0).filter(|n| !n.is_empty());
    let get = |name: &[u8]| {
        let mut value = vec![0; 1 << 16];
        let n = rustix::fs::lgetxattr(full, name, value.as_mut_slice()).unwrap();
        value.truncate(n);
        (name.to_vec(), value)
    };
    names.map(get).collect()
}

/// Bytes that do not compress, the same each time.
pub(crate) fn noise(seed: u64, n: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(n).collect()
}

pub(crate) fn node(path: &Path, kind: FileType, device: (u32, u32)) -> bool {
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), makedev(device.0, device.1)).is_ok()
}

pub(crate) fn whiteout(path: &Path) -> bool {
    node(path, FileType::CharacterDevice, (0, 0))
}

pub(crate) fn mark(path: &Path, name: &str, value: &[u8]) -> bool {
    lsetxattr(path, name, value, XattrFlags::empty()).is_ok()
}

/// A capability set as `setcap cap_net_bind_service+ep` writes it.
pub(crate) const NET_BIND: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
