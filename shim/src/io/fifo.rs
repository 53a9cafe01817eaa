//! containerd's FIFOs.

use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use super::fd::AsyncPipe;
use crate::error::{Error, Result};

/// How long a client may take to open the reading end of a FIFO that it named; containerd's runc shim: the same.
const READER_TIMEOUT: Duration = Duration::from_secs(30);

/// A FIFO that we write. Our own reading end stays open, so that a reader that leaves (containerd restarts) neither
/// breaks the pipe nor loses what is in it.
#[derive(Debug)]
pub struct FifoWriter {
    /// The writing end.
    pub pipe: AsyncPipe,
    _reader: OwnedFd,
}

/// Whether the path is a FIFO.
///
/// # Errors
/// It is not there.
pub fn is_fifo(path: &Path) -> Result<bool> {
    let meta = std::fs::metadata(path).map_err(Error::io(format!("look at {}", path.display())))?;
    Ok(meta.file_type().is_fifo())
}

/// Opens the FIFO that feeds a process: its reading end, and a writing end of ours that holds off the end of file.
///
/// # Errors
/// It is not there or is no FIFO.
pub fn open_stdin(path: &str) -> Result<Option<(AsyncPipe, OwnedFd)>> {
    if path.is_empty() {
        return Ok(None);
    }
    let path = Path::new(path);
    if !is_fifo(path)? {
        return Err(Error::Invalid(format!("stdin {} is not a FIFO", path.display())));
    }
    let read = open_end(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    let keeper = open_end(path, OFlags::WRONLY | OFlags::NONBLOCK)?;
    Ok(Some((AsyncPipe::new(read)?, keeper)))
}

/// Opens a FIFO for writing. Waits until somebody has it open for reading: what is written and closed before that would
/// be lost.
///
/// # Errors
/// Nobody reads within [`READER_TIMEOUT`], or it cannot be opened.
pub async fn open_writer(path: &Path) -> Result<FifoWriter> {
    let write = match open(path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
    {
        Err(Errno::NXIO) => wait_for_reader(path).await?,
        other => other.map_err(Error::io(format!("open {} for writing", path.display())))?,
    };
    let reader = open_end(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    Ok(FifoWriter { pipe: AsyncPipe::new(write)?, _reader: reader })
}

async fn wait_for_reader(path: &Path) -> Result<OwnedFd> {
    let waiting = path.to_owned();
    let mut opening = tokio::task::spawn_blocking(move || open_end(&waiting, OFlags::WRONLY));
    if let Ok(joined) = tokio::time::timeout(READER_TIMEOUT, &mut opening).await {
        return joined.map_err(Error::io("wait for the reader of a FIFO"))?;
    }
    // Being a reader ourselves for a moment lets the blocked thread go.
    let _reader = open_end(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    drop(opening.await);
    Err(Error::Cancelled(format!("nobody opened {} for reading within 30 s", path.display())))
}

fn open_end(path: &Path, flags: OFlags) -> Result<OwnedFd> {
    open(path, flags | OFlags::CLOEXEC, Mode::empty())
        .map_err(Error::io(format!("open {}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use rustix::fs::{CWD, FileType, mknodat};

    use super::*;

    fn fifo(dir: &Path) -> std::path::PathBuf {
        let path = dir.join("f");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        path
    }

    #[tokio::test]
    async fn what_is_written_before_a_late_reader_is_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = fifo(dir.path());
        let late = path.clone();
        let reader = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            std::fs::File::open(late).unwrap().read_to_string(&mut text).unwrap();
            text
        });
        let writer = open_writer(&path).await.unwrap();
        writer.pipe.write_all(b"hello").await.unwrap();
        drop(writer);
        assert_eq!(reader.await.unwrap(), "hello");
    }

    #[tokio::test]
    async fn stdin_ends_only_when_our_own_writer_is_closed_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = fifo(dir.path());
        let (read, keeper) = open_stdin(path.to_str().unwrap()).unwrap().unwrap();
        std::fs::write(&path, "x").unwrap();
        let mut byte = [0; 8];
        assert_eq!(read.read(&mut byte).await.unwrap(), 1);
        assert_eq!(read.try_read(&mut byte).unwrap(), None, "the client is gone, we are not");
        drop(keeper);
        assert_eq!(read.read(&mut byte).await.unwrap(), 0);
    }
}
