//! Things that cannot be saved.
#![allow(unsafe_code, reason = "system calls that no library has a safe form of")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use super::{Fork, fork, leave};

/// What keeps it: closed with this.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "only its life matters")] Option<OwnedFd>);

fn descriptor(result: libc::c_long) -> io::Result<Held> {
    let fd = RawFd::try_from(result).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(Held(Some(unsafe { OwnedFd::from_raw_fd(fd) })))
}

/// An io_uring instance.
///
/// # Errors
/// The kernel's.
pub fn io_uring() -> io::Result<Held> {
    // `struct io_uring_params`: 120 bytes, all zero for the defaults.
    let mut parameters = [0_u64; 15];
    // SAFETY: the kernel writes at most the size of its structure.
    descriptor(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) })
}

/// A userfaultfd for faults of user mode.
///
/// # Errors
/// The kernel's.
pub fn userfaultfd() -> io::Result<Held> {
    // 1: `UFFD_USER_MODE_ONLY`.
    // SAFETY: no memory is passed.
    descriptor(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | 1) })
}

/// A child that is traced by this process.
///
/// # Errors
/// The kernel's.
pub fn traced_child() -> io::Result<Held> {
    let child = child(|| Ok(()))?;
    // SAFETY: no memory is passed.
    if unsafe { libc::ptrace(libc::PTRACE_SEIZE, child, 0, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Held(None))
}

/// A child in a mount namespace of its own.
///
/// # Errors
/// The kernel's.
pub fn nested_child() -> io::Result<Held> {
    child(|| {
        // SAFETY: changes only the namespaces of this process, which has one thread.
        match unsafe { libc::unshare(libc::CLONE_NEWNS) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    })
    .map(|_| Held(None))
}

/// A child that has done something, told by a byte, and waits for ever.
fn child(first: impl FnOnce() -> io::Result<()>) -> io::Result<i32> {
    let (read, write) = rustix::pipe::pipe()?;
    match fork()? {
        Fork::Child => {
            let told = first().and_then(|()| Ok(rustix::io::write(&write, b"1")?));
            if told.is_err() {
                leave(1);
            }
            loop {
                std::thread::park();
            }
        }
        Fork::Parent(pid) => {
            drop(write);
            let mut byte = [0];
            if rustix::io::read(&read, &mut byte)? == 0 {
                return Err(io::Error::other("the child was refused"));
            }
            Ok(pid)
        }
    }
}
