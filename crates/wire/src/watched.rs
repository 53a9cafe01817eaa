//! A descriptor in tokio's reactor: pidfds, sockets of other protocols, event files.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys::register;

/// A descriptor whose readiness can be awaited. Closed when dropped.
#[derive(Debug)]
pub struct Watched(AsyncFd<OwnedFd>);

impl Watched {
    /// Registers a descriptor with the current runtime. It is not made non-blocking: calls of [`Watched::ready`] must not block.
    ///
    /// # Errors
    /// It cannot be polled (a regular file).
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        register(fd).map(Self)
    }

    /// Waits until it is readable: for a pidfd, until the process is over. Cancel safe.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn readable(&self) -> io::Result<()> {
        // The readiness is kept: asking again returns at once.
        self.0.readable().await.map(|mut guard| guard.retain_ready())
    }

    /// Repeats a non-blocking call until it does not say `WouldBlock`. Cancel safe if the call is.
    ///
    /// # Errors
    /// What the call says.
    pub async fn ready<T>(
        &self,
        interest: Interest,
        mut call: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        self.0.async_io(interest, |fd| call(fd.as_fd())).await
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pidfd_is_readable_when_its_process_is_over() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("runtime").block_on(async {
            let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
            let pid = rustix::process::Pid::from_child(&child);
            let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
            let watched = Watched::new(pidfd.expect("pidfd")).expect("register");
            let soon = std::time::Duration::from_millis(20);
            assert!(tokio::time::timeout(soon, watched.readable()).await.is_err());
            child.kill().expect("kill");
            watched.readable().await.expect("over");
            watched.readable().await.expect("still over");
            child.wait().expect("reap");
        });
    }
}
