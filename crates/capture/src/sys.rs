//! The system calls that no safe crate has: a prefaulted mapping handed out in parts, memory of other processes, and
//! PAGEMAP_SCAN. Unsafe because they deal in raw addresses; everything exported is safe.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use godwit_types::PageRange;

/// Anonymous memory of this process, writable, never moved until dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping is plain memory; who may touch which part is ruled by `Part`.
unsafe impl Send for Mapping {}
// SAFETY: a shared reference gives no access to the memory; see `Part`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `length` bytes (a multiple of the page size, not 0), asks for huge pages and makes the first `present` of them present.
    pub(crate) fn prefaulted(length: usize, present: usize) -> io::Result<Self> {
        let (prot, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), length, prot, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(at.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mapping = Self { start, length };
        let present = present.min(length);
        mapping.advise(libc::MADV_HUGEPAGE, length).or_else(ignore_unsupported)?;
        match mapping.advise(libc::MADV_POPULATE_WRITE, present) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => mapping.touch(present),
            result => result?,
        }
        Ok(mapping)
    }

    /// About the first `length` bytes, which are not more than all.
    fn advise(&self, advice: i32, length: usize) -> io::Result<()> {
        loop {
            // SAFETY: the range is within this mapping; the advices used do not change contents.
            let rc = unsafe { libc::madvise(self.start.as_ptr().cast(), length, advice) };
            match rc {
                0 => return Ok(()),
                _ => match io::Error::last_os_error() {
                    e if e.kind() == io::ErrorKind::Interrupted => {}
                    e => return Err(e),
                },
            }
        }
    }

    /// For kernels before 5.14: one write for each page.
    fn touch(&self, present: usize) {
        for at in (0..present).step_by(4096) {
            // SAFETY: `at` is inside the mapping, and nobody else knows it yet.
            unsafe { self.start.as_ptr().add(at).write_volatile(0) };
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }
}

fn ignore_unsupported(e: io::Error) -> io::Result<()> {
    if e.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(e) }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `prefaulted` made; every `Part` holds an `Arc` of it, so none is left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// A part of a mapping that nobody else has.
#[derive(Debug)]
pub(crate) struct Part {
    mapping: Arc<Mapping>,
    offset: usize,
    length: usize,
}

impl Part {
    /// The bytes from `offset` on.
    ///
    /// # Safety
    /// They lie within the mapping, and no other part that is alive shares a byte with them.
    unsafe fn new(mapping: Arc<Mapping>, offset: usize, length: usize) -> Self {
        Self { mapping, offset, length }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: in bounds and initialised (zeros by the kernel); only this part may write, through `&mut self`.
        unsafe {
            std::slice::from_raw_parts(self.mapping.start.as_ptr().add(self.offset), self.length)
        }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: in bounds, initialised, and exclusive: parts are disjoint and this one is borrowed mutably.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.mapping.start.as_ptr().add(self.offset),
                self.length,
            )
        }
    }
}

/// Hands out a mapping from its front, each byte once.
#[derive(Debug)]
pub(crate) struct Splitter {
    mapping: Arc<Mapping>,
    next: std::sync::Mutex<usize>,
}

impl Splitter {
    pub(crate) fn new(mapping: Mapping) -> Self {
        Self { mapping: Arc::new(mapping), next: std::sync::Mutex::new(0) }
    }

    pub(crate) fn len(&self) -> usize {
        self.mapping.len()
    }

    pub(crate) fn left(&self) -> usize {
        let next = self.next.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.mapping.len() - *next
    }

    /// The next `length` bytes, or `None` if so many are not left.
    pub(crate) fn take(&self, length: usize) -> Option<Part> {
        let mut next = self.next.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let offset = *next;
        let end = offset.checked_add(length).filter(|end| *end <= self.mapping.len())?;
        *next = end;
        // SAFETY: `offset..end` lies within the mapping, and `next` only grows: no other part has these bytes.
        Some(unsafe { Part::new(Arc::clone(&self.mapping), offset, length) })
    }
}

/// At most so many ranges in one call (the kernel's UIO_MAXIOV).
pub(crate) const MAX_RANGES: usize = 1024;

/// Reads these ranges of another process, one behind the other, into `out`, which is as long as they are together.
/// Gives the bytes read; less than asked for if a page on the way cannot be read.
pub(crate) fn read_process(pid: i32, ranges: &[PageRange], out: &mut [u8]) -> io::Result<usize> {
    let remote: Vec<libc::iovec> = ranges
        .iter()
        .take(MAX_RANGES)
        .map(|r| libc::iovec {
            iov_base: r.first.address() as *mut libc::c_void,
            iov_len: r.bytes().0 as usize,
        })
        .collect();
    let local = libc::iovec { iov_base: out.as_mut_ptr().cast(), iov_len: out.len() };
    // SAFETY: the kernel writes at most `out.len()` bytes to `out`; remote addresses are only read, in another process.
    let n = unsafe {
        libc::process_vm_readv(pid, &local, 1, remote.as_ptr(), remote.len() as libc::c_ulong, 0)
    };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}

/// Category bits of PAGEMAP_SCAN (`include/uapi/linux/fs.h`, Linux 6.7).
pub(crate) const PAGE_IS_FILE: u64 = 1 << 2;
pub(crate) const PAGE_IS_PRESENT: u64 = 1 << 3;
pub(crate) const PAGE_IS_SWAPPED: u64 = 1 << 4;
pub(crate) const PAGE_IS_PFNZERO: u64 = 1 << 5;

/// `struct page_region`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Region {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) categories: u64,
}

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Debug, Default)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;

/// Pages between two addresses that are present or swapped, and neither the shared zero page nor, if `anonymous_only`,
/// pages of a file. Fills `regions`; gives how many were filled and the address to go on from.
pub(crate) fn scan_present(
    pagemap: BorrowedFd<'_>,
    (start, end): (u64, u64),
    anonymous_only: bool,
    regions: &mut [Region],
) -> io::Result<(usize, u64)> {
    let inverted = PAGE_IS_PFNZERO | if anonymous_only { PAGE_IS_FILE } else { 0 };
    let mut arg = ScanArg {
        size: size_of::<ScanArg>() as u64,
        start,
        end,
        vec: regions.as_mut_ptr() as u64,
        vec_len: regions.len() as u64,
        category_inverted: inverted,
        category_mask: inverted,
        category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
        return_mask: PAGE_IS_PRESENT,
        ..ScanArg::default()
    };
    // SAFETY: `arg` has the kernel's layout and size; the kernel writes at most `vec_len` regions to `regions`.
    let n = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &mut arg) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok((n as usize, arg.walk_end)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_types::PageNumber;

    #[test]
    fn parts_are_disjoint_and_end_with_the_mapping() {
        let splitter = Splitter::new(Mapping::prefaulted(3 * 4096, 4096).unwrap());
        let mut a = splitter.take(4096).unwrap();
        let mut b = splitter.take(8192).unwrap();
        a.bytes_mut().fill(1);
        b.bytes_mut().fill(2);
        assert!(a.bytes().iter().all(|x| *x == 1) && b.bytes().iter().all(|x| *x == 2));
        assert!(splitter.take(1).is_none());
        assert_eq!((splitter.left(), splitter.len()), (0, 3 * 4096));
        drop(splitter);
        assert_eq!(b.bytes()[8191], 2);
    }

    #[test]
    fn memory_of_a_process_is_read_up_to_the_first_page_that_is_not_there() {
        let mut mine =
            Splitter::new(Mapping::prefaulted(4 * 4096, 4 * 4096).unwrap()).take(4 * 4096).unwrap();
        mine.bytes_mut().fill(7);
        let first = PageNumber::of_address(mine.bytes().as_ptr() as u64);
        let good = PageRange::new(first, 4);
        let bad = PageRange::new(PageNumber(1), 1);
        let mut out = vec![0; 5 * 4096];
        let pid = std::process::id() as i32;
        assert_eq!(read_process(pid, &[good, bad], &mut out).unwrap(), 4 * 4096);
        assert!(out[..4 * 4096].iter().all(|b| *b == 7));
        assert!(read_process(pid, &[bad], &mut out[..4096]).is_err());
    }
}
