//! A pipe, FIFO or pseudo terminal in the event loop.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{Error, Result};
use crate::sys;

/// A descriptor that is read or written without blocking the thread.
#[derive(Debug)]
pub struct AsyncPipe(AsyncFd<OwnedFd>);

impl AsyncPipe {
    /// Registers the descriptor and makes its open file description non-blocking (for a pipe: this end only).
    ///
    /// # Errors
    /// It cannot be polled (a regular file).
    pub fn new(fd: OwnedFd) -> Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true).map_err(Error::io("make a stream non-blocking"))?;
        sys::poll_fd(fd).map(Self).map_err(Error::io("poll a stream"))
    }

    /// Reads what is there, waiting for the first byte. 0 is the end, also of a terminal whose other side is closed.
    ///
    /// # Errors
    /// As the system call.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = |fd: &OwnedFd| retry(|| rustix::io::read(fd, &mut *buffer));
        end_of_terminal(self.0.async_io(Interest::READABLE, into_fn_mut(read)).await)
    }

    /// Reads what is there; `None` if there is nothing now.
    ///
    /// # Errors
    /// As the system call.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match end_of_terminal(retry(|| rustix::io::read(self.0.get_ref(), &mut *buffer))) {
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => Ok(None),
            other => other.map(Some),
        }
    }

    /// Writes everything, waiting for room.
    ///
    /// # Errors
    /// As the system call.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let write = |fd: &OwnedFd| retry(|| rustix::io::write(fd, bytes));
            let written = self.0.async_io(Interest::WRITABLE, write).await?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }
}

impl AsFd for AsyncPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

/// Fixes the closure's signature so that it may borrow its buffer mutably.
fn into_fn_mut<F: FnMut(&OwnedFd) -> io::Result<usize>>(f: F) -> F {
    f
}

fn retry(mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

fn end_of_terminal(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(why) if why.raw_os_error() == Some(Errno::IO.raw_os_error()) => Ok(0),
        other => other,
    }
}
