//! Signal dispositions, process attributes and shared memory.
//!
//! Unsafe, because `signal`, `mmap` of memory that another process writes, and taking over an inherited descriptor are.
#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags};
use rustix::process::{Resource, Rlimit};

/// What a manager of services sends to everything in its reach must not end a pager: only its pod may.
pub(crate) fn outlive_signals() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE] {
        // SAFETY: SIG_IGN runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// No core dump with other people's memory in it, room for descriptors, last in the line of the out-of-memory killer. All of it as
/// far as it is permitted.
pub(crate) fn harden() {
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = rustix::process::setrlimit(Resource::Nofile, raised);
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
}

/// Takes over the descriptor that the shim gave us by number.
///
/// # Errors
/// It is not open.
pub(crate) fn inherited(number: RawFd) -> Result<OwnedFd, std::io::Error> {
    // SAFETY: only looked at, and only for this call.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?;
    // SAFETY: it is open, came by exec for us alone, and this is called once for it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A shared mapping that we read and somebody else writes.
#[derive(Debug)]
pub(crate) struct Shared {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: plain memory; who may read which part when is the business of `slots`.
unsafe impl Send for Shared {}
// SAFETY: as above; nobody in this process writes.
unsafe impl Sync for Shared {}

impl Shared {
    /// Maps a file of `len` bytes.
    ///
    /// # Errors
    /// mmap's.
    pub(crate) fn map(fd: &OwnedFd, len: usize) -> Result<Self, std::io::Error> {
        let (protection, flags) = (ProtFlags::READ, MapFlags::SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice; the file is sealed against shrinking.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, protection, flags, fd, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(std::io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// Part of it; empty if it is not within.
    pub(crate) fn bytes(&self, from: usize, len: usize) -> &[u8] {
        if from.checked_add(len).is_none_or(|end| end > self.len) {
            return &[];
        }
        // SAFETY: within the mapping, which lives as long as `self`. By the protocol the agent does not touch a slot between its
        // `Ready` and our next `Need` for it; the bytes are only handed to the kernel, by address.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(from), len) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which no reference is left.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
