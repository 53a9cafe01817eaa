//! The userfaultfd system call, its ioctls and its messages, as `linux/userfaultfd.h` lays them out.
//!
//! Unsafe, because no crate in use covers them: `ioctl` with pointers to structs of the kernel's layout, `read` into such structs,
//! and descriptor numbers that arrive inside a message.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

use godwit_types::PAGE_SIZE;

use crate::uffd::Event;

const API: u64 = 0xAA;
const IOWR: u64 = 3 << 30;
const IOR: u64 = 2 << 30;

/// `_IOC` of an ioctl of type 0xAA on a struct of `size` bytes.
const fn request(direction: u64, number: u64, size: usize) -> u64 {
    direction | ((size as u64) << 16) | (API << 8) | number
}

const UFFDIO_WAKE: u64 = request(IOR, 0x02, size_of::<RangeArg>());
const UFFDIO_COPY: u64 = request(IOWR, 0x03, size_of::<CopyArg>());
const UFFDIO_ZEROPAGE: u64 = request(IOWR, 0x04, size_of::<ZeroArg>());

#[repr(C)]
struct RangeArg {
    start: u64,
    len: u64,
}

#[repr(C)]
struct CopyArg {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copy: i64,
}

#[repr(C)]
struct ZeroArg {
    range: RangeArg,
    mode: u64,
    zeropage: i64,
}

/// `struct uffd_msg`: event, padding, then a union of three words at most. Packed in the header, but every field is aligned.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Message {
    event: u8,
    reserved: [u8; 7],
    words: [u64; 3],
}

/// What a placing ioctl did: bytes done, and why it stopped before the end.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) bytes: u64,
    pub(crate) stopped: Option<io::Error>,
}

/// Runs one ioctl on a userfaultfd.
///
/// # Safety
/// `T` must be the struct that the kernel expects for `request`.
unsafe fn call<T>(fd: BorrowedFd<'_>, request: u64, arg: &mut T) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the call; `arg` is a valid, exclusive pointer to the struct that the caller
    // vouches for.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(arg)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn placed(result: io::Result<()>, len: u64, done: i64) -> Placed {
    let Err(error) = result else { return Placed { bytes: len, stopped: None } };
    // The kernel says EAGAIN and a positive number when it stopped half-way, a negative errno when it did nothing.
    Placed { bytes: u64::try_from(done).unwrap_or(0), stopped: Some(error) }
}

/// UFFDIO_COPY: whole pages to `address`, and wakes who waits there.
pub(crate) fn copy(fd: BorrowedFd<'_>, address: u64, pages: &[u8]) -> Placed {
    copy_from(fd, address, pages.as_ptr() as u64, pages.len() as u64)
}

/// UFFDIO_COPY from an address of ours that cannot be read: places nothing and tells whether it could have.
pub(crate) fn copy_nothing(fd: BorrowedFd<'_>, address: u64) -> Placed {
    match unreadable_page() {
        Some(source) => copy_from(fd, address, source, PAGE_SIZE),
        None => Placed { bytes: 0, stopped: Some(io::Error::from_raw_os_error(libc::EAGAIN)) },
    }
}

fn copy_from(fd: BorrowedFd<'_>, dst: u64, src: u64, len: u64) -> Placed {
    let mut arg = CopyArg { dst, src, len, mode: 0, copy: 0 };
    // SAFETY: the struct is UFFDIO_COPY's. The kernel reads `src` as user memory and fails with EFAULT where it cannot.
    let result = unsafe { call(fd, UFFDIO_COPY, &mut arg) };
    placed(result, len, arg.copy)
}

/// A page that we own and cannot read; made once. `None` if there is no address space left.
fn unreadable_page() -> Option<u64> {
    static PAGE: OnceLock<Option<u64>> = OnceLock::new();
    *PAGE.get_or_init(|| {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let size = PAGE_SIZE as usize;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_NONE, flags, -1, 0) };
        (at != libc::MAP_FAILED).then_some(at as u64)
    })
}

/// UFFDIO_ZEROPAGE on a range, and wakes who waits there.
pub(crate) fn zero(fd: BorrowedFd<'_>, address: u64, len: u64) -> Placed {
    let mut arg = ZeroArg { range: RangeArg { start: address, len }, mode: 0, zeropage: 0 };
    // SAFETY: the struct is UFFDIO_ZEROPAGE's.
    let result = unsafe { call(fd, UFFDIO_ZEROPAGE, &mut arg) };
    placed(result, len, arg.zeropage)
}

/// UFFDIO_WAKE: who waits in the range tries again.
pub(crate) fn wake(fd: BorrowedFd<'_>, address: u64, len: u64) -> io::Result<()> {
    // SAFETY: the struct is UFFDIO_WAKE's.
    unsafe { call(fd, UFFDIO_WAKE, &mut RangeArg { start: address, len }) }
}

/// Messages read at once: half a page on the stack.
const BATCH: usize = 64;

/// Reads what has happened; nothing if nothing has. Reading lets the process go on, and makes the descriptors of children.
pub(crate) fn read(fd: BorrowedFd<'_>, into: &mut Vec<Event>) -> io::Result<()> {
    let mut messages = [Message::default(); BATCH];
    let room = size_of_val(&messages);
    // SAFETY: the kernel writes at most `room` bytes to an exclusive array of plain integers of that size.
    let n = unsafe { libc::read(fd.as_raw_fd(), messages.as_mut_ptr().cast(), room) };
    if n < 0 {
        let error = io::Error::last_os_error();
        let none = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
        return if none { Ok(()) } else { Err(error) };
    }
    let count = n as usize / size_of::<Message>();
    into.extend(messages[..count].iter().map(event));
    Ok(())
}

fn event(message: &Message) -> Event {
    let [a, b, c] = message.words;
    match message.event {
        0x12 => Event::Fault { address: b },
        // SAFETY: `arg.fork.ufd` is the lower half of the first word (little endian): a descriptor that the kernel has just opened
        // for us and that nobody else owns.
        0x13 => Event::Fork { child: unsafe { OwnedFd::from_raw_fd(a as u32 as i32) } },
        0x14 => Event::Remap { from: a, to: b, len: c },
        0x15 => Event::Remove { start: a, end: b },
        0x16 => Event::Unmap { start: a, end: b },
        number => Event::Unknown { number },
    }
}

#[cfg(not(all(target_pointer_width = "64", target_endian = "little")))]
compile_error!("the layout of uffd_msg is written for 64-bit little-endian machines");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ioctl_numbers_are_those_of_the_header() {
        assert_eq!(UFFDIO_WAKE, 0x8010_aa02);
        assert_eq!(UFFDIO_COPY, 0xc028_aa03);
        assert_eq!(UFFDIO_ZEROPAGE, 0xc020_aa04);
        assert_eq!(size_of::<Message>(), 32);
    }
}
