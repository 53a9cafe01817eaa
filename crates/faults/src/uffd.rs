//! One userfaultfd: what can be read from it and what the kernel answers, in words.
//!
//! Owns the meaning of errno values (`fs/userfaultfd.c`, `mm/userfaultfd.c`), not what to do about them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use godwit_types::{PAGE_SIZE, PageNumber, PageRange};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::{FaultsError, sys};

/// What a process did. Addresses are in bytes, as the kernel gives them.
#[derive(Debug)]
pub enum Event {
    /// A thread waits for this page. Told once: somebody must place it, or wake the thread.
    Fault {
        /// Where.
        address: u64,
    },
    /// The process has forked; the child waits with the parent until this was read.
    Fork {
        /// The child's own userfaultfd, with the same registrations.
        child: OwnedFd,
    },
    /// A mapping has been moved.
    Remap {
        /// Where it was.
        from: u64,
        /// Where it is.
        to: u64,
        /// How long it was.
        len: u64,
    },
    /// Pages are about to be discarded (MADV_DONTNEED and its like); it happens after this was read.
    Remove {
        /// First byte.
        start: u64,
        /// Byte after the last one.
        end: u64,
    },
    /// Mappings are gone.
    Unmap {
        /// First byte.
        start: u64,
        /// Byte after the last one.
        end: u64,
    },
    /// An event that we did not ask for.
    Unknown {
        /// Its number.
        number: u8,
    },
}

/// Why placing stopped.
#[derive(Debug)]
pub enum Stop {
    /// There is a page already.
    Exists,
    /// The process is changing its mappings: read its events, then try again.
    Changing,
    /// No mapping that is registered holds the whole range.
    Unmapped,
    /// Out of memory, in the process's cgroup or on the node.
    NoMemory,
    /// The process, or its address space, is gone.
    Gone,
    /// Anything else.
    Failed(io::Error),
}

impl Stop {
    fn of(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::EXIST) => Self::Exists,
            Some(Errno::AGAIN | Errno::INTR) => Self::Changing,
            Some(Errno::NOENT) => Self::Unmapped,
            Some(Errno::NOMEM) => Self::NoMemory,
            Some(Errno::SRCH) => Self::Gone,
            _ => Self::Failed(error),
        }
    }
}

/// Whether a mapping is registered at a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    /// It is.
    Registered,
    /// Nothing that is registered is there.
    Absent,
    /// The process is changing its mappings: not known now.
    Changing,
    /// The process is gone.
    Gone,
}

/// A userfaultfd of some process.
#[derive(Debug)]
pub struct Uffd {
    fd: OwnedFd,
}

impl Uffd {
    /// Takes a userfaultfd whose API is negotiated and makes it non-blocking (its duplicates too).
    ///
    /// # Errors
    /// [`FaultsError::Os`].
    pub fn from_fd(fd: OwnedFd) -> Result<Self, FaultsError> {
        let set = rustix::fs::fcntl_getfl(&fd)
            .and_then(|flags| rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK));
        set.map_err(|e| FaultsError::os("making a userfaultfd non-blocking")(e.into()))?;
        Ok(Self { fd })
    }

    /// Adds what has happened since the last read, up to 64 events; nothing if nothing has. **Reading consumes**: the process goes on.
    ///
    /// # Errors
    /// The kernel's; EMFILE when there is no room for a child's descriptor (the event stays).
    pub fn read(&self, into: &mut Vec<Event>) -> io::Result<()> {
        sys::read(self.as_fd(), into)
    }

    /// Places whole pages from `first` on and wakes who waits there. Returns how many were placed, and why not all.
    pub fn copy(&self, first: PageNumber, pages: &[u8]) -> (u64, Option<Stop>) {
        stopped(sys::copy(self.as_fd(), first.address(), pages))
    }

    /// Places the page of zeros in a range and wakes who waits there.
    pub fn zero(&self, range: PageRange) -> (u64, Option<Stop>) {
        stopped(sys::zero(self.as_fd(), range.first.address(), range.bytes().0))
    }

    /// Lets who waits in this range try again.
    pub fn wake(&self, range: PageRange) {
        // It fails on malformed ranges only; a thread that does not wait is no failure.
        let _ = sys::wake(self.as_fd(), range.first.address(), range.bytes().0);
    }

    /// Whether a mapping that is registered holds this page. Changes nothing: the kernel looks for the mapping before it finds out
    /// that it cannot read what it shall copy. Any answer but [`Probed::Changing`] also says that all events were read *and* that the
    /// threads which caused them have gone on.
    #[must_use]
    pub fn probe(&self, page: PageNumber) -> Probed {
        match stopped(sys::copy_nothing(self.as_fd(), page.address())).1 {
            Some(Stop::Unmapped) => Probed::Absent,
            Some(Stop::Changing) => Probed::Changing,
            Some(Stop::Gone) => Probed::Gone,
            // EFAULT: our unreadable page. EEXIST: a huge page is there. ENOMEM: comes after the mapping was found.
            Some(Stop::Exists | Stop::NoMemory | Stop::Failed(_)) | None => Probed::Registered,
        }
    }
}

/// Whether the process of a userfaultfd that nobody serves is alive.
#[must_use]
pub fn is_alive(uffd: impl AsFd) -> bool {
    let answer = stopped(sys::copy_nothing(uffd.as_fd(), 1 << 32)).1;
    !matches!(answer, Some(Stop::Gone))
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn stopped(placed: sys::Placed) -> (u64, Option<Stop>) {
    (placed.bytes / PAGE_SIZE, placed.stopped.map(Stop::of))
}
