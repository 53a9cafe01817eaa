//! Reading one regular file: only where it has data, only what has changed is handed on.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use godwit_image::Digest;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, SeekFrom, Statx, StatxFlags, openat, seek, statx,
};
use rustix::io::{Errno, pread};

use super::contents::Contents;
use crate::error::At as _;
use crate::index::limits::{MAX_CHUNK, MAX_FILE};
use crate::{Chunk, FilesError, Halt};

/// A file that is open for reading.
pub(super) struct Reading {
    fd: OwnedFd,
    /// What it was when it was opened.
    pub(super) stat: Statx,
}

impl Reading {
    /// Opens it if the name still stands for this regular file; else `None`. Nothing else is ever opened: a container
    /// that swaps in a pipe or a device finds its name pinned and looked at first.
    pub(super) fn open(
        dir: BorrowedFd<'_>,
        name: &[u8],
        ino: u64,
        path: &Path,
    ) -> Result<Option<Self>, FilesError> {
        let pin = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let pinned = match openat(dir, name, pin, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.at("open", path)?,
        };
        let stat =
            statx(&pinned, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).at("look at", path)?;
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        if kind != FileType::RegularFile || stat.stx_ino != ino {
            return Ok(None);
        }
        let again = PathBuf::from(format!("/proc/self/fd/{}", pinned.as_raw_fd()));
        let flags = OFlags::RDONLY | OFlags::NOATIME | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = openat(rustix::fs::CWD, &again, flags, Mode::empty()).at("open", path)?;
        Ok(Some(Self { fd, stat }))
    }

    /// Reads all data. Chunks that `known` has with the same digest are taken from it; the rest goes to `contents`.
    /// `None`: it became shorter meanwhile.
    pub(super) fn chunks(
        &self,
        known: &[Chunk],
        contents: &mut Contents,
        path: &Path,
        halt: &Halt,
    ) -> Result<Option<Vec<Chunk>>, FilesError> {
        let size = self.stat.stx_size;
        if size > MAX_FILE {
            let why = "it is larger than 16 TiB";
            return Err(FilesError::Unsupported { path: path.to_owned(), why });
        }
        let (mut out, mut buffer, mut at) = (Vec::new(), vec![0; MAX_CHUNK], 0);
        while let Some((start, end)) = self.data(at, size).at("find the data of", path)? {
            at = start;
            while at < end {
                halt.check()?;
                // Cut on the raster, so that the same bytes are the same chunk next time.
                let stop = end.min((at / MAX_CHUNK as u64 + 1) * MAX_CHUNK as u64);
                let bytes = &mut buffer[..(stop - at) as usize];
                if !self.fill(bytes, at).at("read", path)? {
                    return Ok(None);
                }
                contents.count_read(bytes.len() as u64);
                out.push(chunk(at, bytes, known, contents)?);
                at = stop;
            }
        }
        Ok(Some(out))
    }

    /// The next range of data from `at` on.
    fn data(&self, at: u64, size: u64) -> Result<Option<(u64, u64)>, Errno> {
        if at >= size {
            return Ok(None);
        }
        let start = match seek(&self.fd, SeekFrom::Data(at)) {
            Ok(start) if start < size => start,
            Ok(_) | Err(Errno::NXIO) => return Ok(None),
            Err(e) => return Err(e),
        };
        match seek(&self.fd, SeekFrom::Hole(start)) {
            Ok(end) if end > start => Ok(Some((start, end.min(size)))),
            Ok(_) | Err(Errno::NXIO) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether the file had so many bytes there.
    fn fill(&self, bytes: &mut [u8], at: u64) -> Result<bool, Errno> {
        let mut done = 0;
        while done < bytes.len() {
            match pread(&self.fd, &mut bytes[done..], at + done as u64) {
                Ok(0) => return Ok(false),
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// Whether anything has happened to it since it was opened.
    pub(super) fn has_changed(&self, path: &Path) -> Result<bool, FilesError> {
        let now = statx(self.fd.as_fd(), "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
            .at("look at", path)?;
        let of = |s: &Statx| {
            let (c, m) = (s.stx_ctime, s.stx_mtime);
            (s.stx_size, c.tv_sec, c.tv_nsec, m.tv_sec, m.tv_nsec)
        };
        Ok(of(&now) != of(&self.stat))
    }
}

fn chunk(
    offset: u64,
    bytes: &[u8],
    known: &[Chunk],
    contents: &mut Contents,
) -> Result<Chunk, FilesError> {
    let digest = cut(&Digest::of(bytes));
    let length = bytes.len() as u32;
    let same = known.binary_search_by_key(&offset, |c| c.offset).ok().and_then(|i| known.get(i));
    if let Some(same) = same.filter(|c| c.length == length && c.digest == digest) {
        return Ok(*same);
    }
    let (frame, at) = contents.add(bytes)?;
    Ok(Chunk { offset, length, frame, at, digest })
}

/// The first 16 bytes of a digest.
pub(crate) fn cut(digest: &Digest) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&digest.0[..16]);
    out
}
