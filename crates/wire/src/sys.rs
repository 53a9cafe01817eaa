//! The one unsafe call of this crate: registering a descriptor with tokio's reactor.
#![allow(unsafe_code)] // tokio 1.54 made registration unsafe: it trusts that the descriptor stays open and the same.

use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the current runtime's reactor, for reading and writing.
///
/// # Errors
/// What epoll says; the descriptor is closed then.
pub(crate) fn register(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` owns a valid descriptor, and `AsyncFd` neither closes nor replaces it before it deregisters it.
    unsafe { AsyncFd::register(fd) }.map_err(Into::into)
}
