//! Placing pages by the kernel's rules: what each refusal means for the next attempt.
//!
//! A copy must lie within one mapping that is registered, so it is halved where it does not; a page that is there is left alone and
//! its waiters are woken; a page whose mapping is gone needs nothing more.

use std::io;

use godwit_types::{PAGE_SIZE, PageNumber, PageRange};

use crate::uffd::{Stop, Uffd};

/// Why placing cannot go on now.
#[derive(Debug)]
pub(crate) enum Halt {
    /// Mappings are changing: read the events, try again.
    Changing,
    /// The cgroup or the node is full: try again later.
    NoMemory,
    /// The process is gone.
    Gone,
    /// Nothing that we know.
    Failed(io::Error),
}

/// What became of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Placed.
    Placed,
    /// Was there already.
    Existed,
    /// No mapping is there.
    Unmapped,
}

fn range(first: u64, count: u64) -> PageRange {
    PageRange::new(PageNumber(first), count)
}

/// Copies whole pages to `first` and after it; tells `settled` what became of each part.
pub(crate) fn copy(
    uffd: &Uffd,
    first: u64,
    pages: &[u8],
    mut settled: impl FnMut(u64, u64, Fate),
) -> Result<(), Halt> {
    let end = first + pages.len() as u64 / PAGE_SIZE;
    let (mut at, mut most) = (first, end - first);
    while at < end {
        let count = most.min(end - at);
        let from = ((at - first) * PAGE_SIZE) as usize;
        let (done, stop) =
            uffd.copy(PageNumber(at), &pages[from..from + (count * PAGE_SIZE) as usize]);
        if done > 0 {
            settled(at, done, Fate::Placed);
            at += done;
            most *= 2;
            continue;
        }
        match halted(stop)? {
            Stop::Unmapped if count > 1 => most = count / 2,
            stop => {
                uffd.wake(range(at, 1));
                let unmapped = matches!(stop, Stop::Unmapped);
                settled(at, 1, if unmapped { Fate::Unmapped } else { Fate::Existed });
                at += 1;
            }
        }
    }
    Ok(())
}

/// Places zeros at `first`, and at up to `count` pages from there on if that costs nothing.
pub(crate) fn zero(uffd: &Uffd, first: u64, count: u64) -> Result<(), Halt> {
    let mut count = count.max(1);
    loop {
        let (done, stop) = uffd.zero(range(first, count));
        if done > 0 {
            return Ok(());
        }
        match halted(stop)? {
            Stop::Unmapped if count > 1 => count = 1,
            _ => {
                uffd.wake(range(first, 1));
                return Ok(());
            }
        }
    }
}

/// [`Stop::Exists`] or [`Stop::Unmapped`]; everything else halts.
fn halted(stop: Option<Stop>) -> Result<Stop, Halt> {
    match stop {
        Some(stop @ (Stop::Exists | Stop::Unmapped)) => Ok(stop),
        Some(Stop::Changing) | None => Err(Halt::Changing),
        Some(Stop::NoMemory) => Err(Halt::NoMemory),
        Some(Stop::Gone) => Err(Halt::Gone),
        Some(Stop::Failed(error)) => Err(Halt::Failed(error)),
    }
}
