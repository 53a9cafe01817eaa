//! Raw memory and processes: what the checks are about.
#![allow(unsafe_code, reason = "maps, moves and discards memory, forks")]

pub mod held;

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::mm::{Advice, MapFlags, MremapFlags, ProtFlags};

use crate::page::{PAGE, Words};

/// A region of private anonymous memory, one owner. A part of it may be away at another address.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    pages: usize,
    away: Option<Away>,
    /// Pages where one mapping of the kernel may end and another begin.
    seams: BTreeSet<usize>,
}

/// A run of pages that was moved by `mremap`; its own place is a hole.
#[derive(Debug)]
struct Away {
    pages: Range<usize>,
    base: NonNull<u8>,
}

// SAFETY: the region is owned like a Box<[u8]>; nothing in it belongs to a thread.
unsafe impl Send for Region {}

/// Held while there is a hole in a region, and by whoever lets the kernel choose a place: that must not be another thread's hole.
static HOLE: Mutex<()> = Mutex::new(());

fn hole() -> MutexGuard<'static, ()> {
    HOLE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Region {
    /// Maps `pages` pages; all read as zeros.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn map(pages: usize) -> io::Result<Self> {
        let base = map(None, pages * PAGE, MapFlags::PRIVATE)?;
        Ok(Self { base, pages, away: None, seams: BTreeSet::new() })
    }

    /// How many pages it has.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// One page. Panics when there is no such page, as an index does.
    #[must_use]
    pub fn page(&self, page: usize) -> &Words {
        // SAFETY: `at` points to a mapped, aligned page of ours; `&self` keeps writers out.
        unsafe { &*std::hint::black_box(self.at(page)) }
    }

    /// One page, to write. Panics when there is no such page, as an index does.
    pub fn page_mut(&mut self, page: usize) -> &mut Words {
        // SAFETY: `at` points to a mapped, aligned page of ours; `&mut self` makes us the only one.
        unsafe { &mut *std::hint::black_box(self.at(page)) }
    }

    fn at(&self, page: usize) -> *mut Words {
        assert!(page < self.pages, "page {page} of {}", self.pages);
        let (base, page) = match &self.away {
            Some(away) if away.pages.contains(&page) => (away.base, page - away.pages.start),
            _ => (self.base, page),
        };
        // SAFETY: within the mapping that `base` begins.
        unsafe { base.as_ptr().add(page * PAGE).cast() }
    }

    /// Gives pages back by `MADV_DONTNEED`; they read as zeros.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn discard(&mut self, pages: Range<usize>) -> io::Result<()> {
        self.bring_back()?;
        let (at, length) = self.place(&pages);
        // SAFETY: private pages of ours, no reference to them lives; anonymous memory stays valid and reads as zeros.
        unsafe { rustix::mm::madvise(at, length, Advice::LinuxDontNeed) }.map_err(Into::into)
    }

    /// Unmaps pages and maps fresh ones in their place; they read as zeros.
    ///
    /// # Errors
    /// When the kernel refuses. The region must not be used then.
    pub fn map_again(&mut self, pages: Range<usize>) -> io::Result<()> {
        self.bring_back()?;
        let (at, length) = self.place(&pages);
        let _hole = hole();
        // SAFETY: pages of ours without references to them.
        unsafe { rustix::mm::munmap(at, length) }?;
        self.seams.extend([pages.start, pages.end]);
        // Not FIXED: whatever else were mapped there would be destroyed.
        map(NonNull::new(at.cast()), length, MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE)
            .map(drop)
    }

    /// Moves pages to another address by `mremap`; they keep their contents and numbers. Only one run is away at a time. It
    /// ends where a mapping may end: what was mapped in a hole is not merged with its neighbours if userfaultfd watches
    /// only them, and `mremap` refuses what is more than one mapping.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn send_away(&mut self, pages: Range<usize>) -> io::Result<()> {
        self.bring_back()?;
        let seam = self.seams.range(pages.start + 1..).next();
        let pages = pages.start..seam.map_or(pages.end, |seam| pages.end.min(*seam));
        self.seams.extend([pages.start, pages.end]);
        let (at, length) = self.place(&pages);
        let _hole = hole();
        let target = map(None, length, MapFlags::PRIVATE)?;
        move_to(at, length, target)?;
        let hole =
            map(NonNull::new(at.cast()), length, MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE);
        self.away = Some(Away { pages, base: target });
        hole.map(drop)
    }

    /// Moves the pages that are away back to their place.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn bring_back(&mut self) -> io::Result<()> {
        let Some(away) = self.away.take() else { return Ok(()) };
        let (at, length) = self.place(&away.pages);
        let Some(home) = NonNull::new(at.cast()) else { return Ok(()) };
        move_to(away.base.as_ptr().cast(), length, home)
    }

    /// Address and length of a run of pages at home. Panics when it is not within the region, as an index does.
    fn place(&self, pages: &Range<usize>) -> (*mut std::ffi::c_void, usize) {
        assert!(pages.start <= pages.end && pages.end <= self.pages, "{pages:?} of {}", self.pages);
        // SAFETY: within the mapping, or one past it.
        let at = unsafe { self.base.as_ptr().add(pages.start * PAGE) };
        (at.cast(), pages.len() * PAGE)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let _ = self.bring_back();
        // SAFETY: the mapping is ours and ends here.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.pages * PAGE) };
    }
}

fn map(at: Option<NonNull<u8>>, length: usize, flags: MapFlags) -> io::Result<NonNull<u8>> {
    let hint = at.map_or(ptr::null_mut(), |at| at.as_ptr().cast());
    // SAFETY: a new mapping that replaces none (never plain FIXED).
    let base = unsafe {
        rustix::mm::mmap_anonymous(hint, length, ProtFlags::READ | ProtFlags::WRITE, flags)
    }?;
    NonNull::new(base.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// Moves `length` bytes from `at` over the mapping at `target`.
fn move_to(at: *mut std::ffi::c_void, length: usize, target: NonNull<u8>) -> io::Result<()> {
    // SAFETY: both runs are mappings of ours of this length; no reference to either lives.
    unsafe {
        rustix::mm::mremap_fixed(at, length, length, MremapFlags::MAYMOVE, target.as_ptr().cast())
    }?;
    Ok(())
}

/// Counters in memory that all processes forked after this share. Never unmapped.
///
/// # Errors
/// When the kernel refuses.
pub fn shared_counters(count: usize) -> io::Result<&'static [AtomicU64]> {
    let base = map(None, count * size_of::<AtomicU64>(), MapFlags::SHARED)?;
    // SAFETY: mapped for ever, zeroed, aligned to a page; atomics may be shared between processes.
    Ok(unsafe { std::slice::from_raw_parts(base.as_ptr().cast(), count) })
}

/// Which side of a fork this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// The parent, with the child's process id.
    Parent(i32),
    /// The child. Among threads it may only compute and [`leave`].
    Child,
}

/// Forks.
///
/// # Errors
/// When the kernel refuses.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: callers keep to what the variant `Child` allows.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// Ends this process at once: no destructors, no flushing, no locks.
pub fn leave(status: i32) -> ! {
    // SAFETY: takes no locks and runs no code of ours.
    unsafe { libc::_exit(status) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::Stamp;

    fn stamp(page: usize) -> Stamp {
        Stamp { seed: 9, page: page as u64, version: 1 }
    }

    fn filled() -> Region {
        let mut region = Region::map(16).unwrap();
        (0..16).for_each(|page| stamp(page).write(region.page_mut(page)));
        region
    }

    #[test]
    fn discarded_and_remapped_pages_are_zeros_and_their_neighbours_stay() {
        let mut region = filled();
        region.discard(2..4).unwrap();
        region.map_again(6..8).unwrap();
        for page in 0..16 {
            let version = u32::from(![2, 3, 6, 7].contains(&page));
            Stamp { version, ..stamp(page) }.check(region.page(page)).unwrap();
        }
    }

    #[test]
    fn moved_pages_keep_their_contents_on_the_way_and_back() {
        let mut region = filled();
        region.send_away(3..9).unwrap();
        (0..16).for_each(|page| stamp(page).check(region.page(page)).unwrap());
        Stamp { version: 2, ..stamp(5) }.write(region.page_mut(5));
        region.bring_back().unwrap();
        Stamp { version: 2, ..stamp(5) }.check(region.page(5)).unwrap();
        stamp(6).check(region.page(6)).unwrap();
    }

    #[test]
    fn a_child_sees_its_own_copy_and_shared_counters_are_shared() {
        use std::sync::atomic::Ordering::SeqCst;
        let counters = shared_counters(2).unwrap();
        match fork().unwrap() {
            Fork::Child => {
                counters[1].store(7, SeqCst);
                leave(5)
            }
            Fork::Parent(pid) => {
                let pid = rustix::process::Pid::from_raw(pid);
                let (_, status) =
                    rustix::process::waitpid(pid, rustix::process::WaitOptions::empty())
                        .unwrap()
                        .unwrap();
                assert_eq!(status.exit_status(), Some(5));
                assert_eq!(counters[1].load(SeqCst), 7);
            }
        }
    }
}
