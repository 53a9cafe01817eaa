//! What a process does to its own mappings, and the userfaultfd that CRIU would have made for it.
//!
//! Unsafe, because that is the point: memory changes under the program, by system calls and by another process. Every access to it is
//! volatile and by address; no reference to it exists.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

pub(crate) const PAGE: u64 = 4096;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
/// FORK, REMAP, REMOVE, UNMAP: what CRIU asks for.
const FEATURES: u64 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6;

fn checked(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A userfaultfd of this process, as CRIU opens it.
pub(crate) fn userfaultfd() -> io::Result<OwnedFd> {
    // SAFETY: one integer in, one descriptor out.
    let number = checked(unsafe {
        libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK)
    })?;
    // SAFETY: the kernel has just made it for us.
    let fd = unsafe { OwnedFd::from_raw_fd(number as i32) };
    let mut arg = Api { api: 0xAA, features: FEATURES, ioctls: 0 };
    // SAFETY: the struct is UFFDIO_API's.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, &raw mut arg) }.into())?;
    Ok(fd)
}

/// Registers pages for missing faults.
pub(crate) fn register(fd: &OwnedFd, address: u64, pages: u64) -> io::Result<()> {
    let mut arg = Register { start: address, len: pages * PAGE, mode: 1, ioctls: 0 };
    // SAFETY: the struct is UFFDIO_REGISTER's.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_REGISTER, &raw mut arg) }.into())?;
    Ok(())
}

/// Maps fresh private memory where the kernel likes; without access if `reserved`.
pub(crate) fn map(pages: u64, reserved: bool) -> io::Result<u64> {
    let access = if reserved { libc::PROT_NONE } else { libc::PROT_READ | libc::PROT_WRITE };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let length = (pages * PAGE) as usize;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), length, access, flags, -1, 0) };
    if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(at as u64) }
}

/// Unmaps pages of [`map`].
pub(crate) fn unmap(address: u64, pages: u64) -> io::Result<()> {
    // SAFETY: the caller owns these pages and has no references to them: nobody has.
    checked(unsafe { libc::munmap(address as *mut _, (pages * PAGE) as usize) }.into())?;
    Ok(())
}

/// Moves pages to `target`, which is replaced, or to where the kernel finds room for `new_pages`.
pub(crate) fn remap(
    address: u64,
    pages: u64,
    new_pages: u64,
    target: Option<u64>,
) -> io::Result<u64> {
    let (old, new) = ((pages * PAGE) as usize, (new_pages * PAGE) as usize);
    let fixed = if target.is_some() { libc::MREMAP_FIXED } else { 0 };
    let flags = libc::MREMAP_MAYMOVE | fixed;
    let target = target.unwrap_or(0) as *mut libc::c_void;
    // SAFETY: the caller owns both ranges and has no references to them: nobody has.
    let at = unsafe { libc::mremap(address as *mut _, old, new, flags, target) };
    if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(at as u64) }
}

/// Discards the contents of pages: they read as zeros afterwards.
pub(crate) fn discard(address: u64, pages: u64) -> io::Result<()> {
    let length = (pages * PAGE) as usize;
    // SAFETY: the caller owns these pages; their contents are read by volatile loads only.
    checked(unsafe { libc::madvise(address as *mut _, length, libc::MADV_DONTNEED) }.into())?;
    Ok(())
}

/// Reads a word.
pub(crate) fn load(address: u64) -> u64 {
    // SAFETY: the caller's own mapped, aligned memory; it may change, hence volatile.
    unsafe { (address as *const u64).read_volatile() }
}

/// Writes a word.
pub(crate) fn store(address: u64, word: u64) {
    // SAFETY: the caller's own mapped, aligned, writable memory.
    unsafe { (address as *mut u64).write_volatile(word) }
}

/// Forks. `None` in the child, which must not allocate and must end with [`exit_now`].
pub(crate) fn fork() -> io::Result<Option<i32>> {
    // SAFETY: the child only loads, stores and makes system calls.
    let pid = checked(unsafe { libc::fork() }.into())?;
    Ok((pid != 0).then_some(pid as i32))
}

/// Ends this process at once.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: runs nothing of this process any more.
    unsafe { libc::_exit(code) }
}

/// Waits for a child; its exit code, or 128 + the signal.
pub(crate) fn wait(pid: i32) -> io::Result<i32> {
    let mut status = 0;
    // SAFETY: `status` is ours.
    while let Err(error) = checked(unsafe { libc::waitpid(pid, &raw mut status, 0) }.into()) {
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let exited = libc::WIFEXITED(status);
    Ok(if exited { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) })
}
