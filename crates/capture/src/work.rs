//! Dividing work on an address space among threads: batches of whole digest blocks, taken one after the other.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use godwit_image::{BLOCK_PAGES, BlockNumber};
use godwit_types::{PageNumber, PageRange};

use crate::ranges::within;
use crate::{CaptureError, Stop};

/// Blocks in a batch at most: 64 MiB of addresses, whose known digests are one ranged GET of 256 KiB.
const MAX_BLOCKS: u64 = 64;

/// Some blocks of one address space, and the pages in them that matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) first: BlockNumber,
    /// The block after the last one.
    pub(crate) end: BlockNumber,
    /// Sorted, disjoint, all within the blocks.
    pub(crate) ranges: Vec<PageRange>,
}

/// Divides sorted, disjoint ranges into batches, ascending: as large as possible, but several for each thread.
pub(crate) fn batches(ranges: Vec<PageRange>, threads: usize) -> impl Iterator<Item = Batch> {
    let pages: u64 = ranges.iter().map(|r| r.count).sum();
    let share = pages / BLOCK_PAGES / (4 * threads.max(1) as u64);
    let blocks = share.clamp(1, MAX_BLOCKS);
    let mut next = ranges.first().map(|r| BlockNumber::of(r.first));
    std::iter::from_fn(move || {
        let first = next?;
        let end = BlockNumber(first.0 + blocks);
        let pages = PageRange::new(PageNumber(first.0 * BLOCK_PAGES), blocks * BLOCK_PAGES);
        let inside = within(&ranges, pages).collect();
        let behind = ranges.partition_point(|r| r.end() <= pages.end());
        next = ranges.get(behind).map(|r| BlockNumber::of(r.first.max(pages.end())));
        Some(Batch { first, end, ranges: inside })
    })
}

/// Runs `each` on every item, by several threads that each have a worker of their own. Gives the results in the order of
/// the items, and what the workers ended with. The first error ends all.
pub(crate) fn in_parallel<I: Sync, W, R: Send, E: Send>(
    threads: usize,
    items: &[I],
    stop: &Stop,
    start: impl Fn() -> Result<W, CaptureError> + Sync,
    each: impl Fn(&mut W, &I) -> Result<R, CaptureError> + Sync,
    end: impl Fn(W) -> Result<E, CaptureError> + Sync,
) -> Result<(Vec<R>, Vec<E>), CaptureError> {
    let next = AtomicUsize::new(0);
    let failed = Stop::new();
    let results: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::with_capacity(items.len()));
    let run = || -> Result<Option<E>, CaptureError> {
        let mut worker = None;
        loop {
            stop.check()?;
            let at = next.fetch_add(1, Ordering::Relaxed);
            let (Some(item), false) = (items.get(at), failed.is_raised()) else { break };
            let worker = match &mut worker {
                Some(worker) => worker,
                none => none.insert(start()?),
            };
            let result = each(worker, item)?;
            results.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
        }
        worker.map(&end).transpose()
    };
    let guarded = || run().inspect_err(|_| failed.raise());
    let wanted = threads.clamp(1, items.len().max(1));
    let ends = std::thread::scope(|scope| {
        let spawned: Vec<_> = (1..wanted)
            .map(|_| {
                std::thread::Builder::new().name("capture".to_owned()).spawn_scoped(scope, guarded)
            })
            .collect();
        let mut ends = vec![guarded()];
        for thread in spawned {
            ends.push(match thread {
                Ok(thread) => thread.join().unwrap_or(Err(CaptureError::Thread)),
                Err(_) => Err(CaptureError::Thread),
            });
        }
        ends
    });
    let ends = ends.into_iter().filter_map(Result::transpose).collect::<Result<_, _>>()?;
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(at, _)| *at);
    Ok((results.into_iter().map(|(_, r)| r).collect(), ends))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranges::normalized;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn batches_have_every_page_once_and_no_block_twice(
            raw in prop::collection::vec((0u64..60_000, 1u64..3000), 0..10), threads in 1usize..5
        ) {
            let ranges = raw.into_iter().map(|(f, n)| PageRange::new(PageNumber(f), n)).collect();
            let ranges = normalized(ranges);
            let all: Vec<Batch> = batches(ranges.clone(), threads).collect();
            prop_assert!(all.windows(2).all(|w| w[0].end <= w[1].first));
            for b in &all {
                prop_assert!(!b.ranges.is_empty());
                for r in &b.ranges {
                    prop_assert!(r.first.0 >= b.first.0 * BLOCK_PAGES);
                    prop_assert!(r.end().0 <= b.end.0 * BLOCK_PAGES);
                }
            }
            let again = normalized(all.into_iter().flat_map(|b| b.ranges).collect());
            prop_assert_eq!(again, ranges);
        }
    }

    #[test]
    fn results_are_in_order_and_the_first_error_ends_all() {
        let items: Vec<u32> = (0..200).collect();
        let stop = Stop::new();
        let start = || Ok(0u32);
        let count = |w: &mut u32, i: &u32| {
            *w += 1;
            Ok(*i * 2)
        };
        let (results, ends) = in_parallel(4, &items, &stop, start, count, Ok).unwrap();
        assert_eq!(results, items.iter().map(|i| i * 2).collect::<Vec<_>>());
        assert_eq!(ends.iter().sum::<u32>(), 200);
        let fail = |_: &mut u32, i: &u32| if *i == 7 { Err(CaptureError::Thread) } else { Ok(()) };
        assert!(in_parallel(3, &items, &stop, start, fail, Ok).is_err());
        stop.raise();
        let cancelled = in_parallel(3, &items, &stop, start, count, Ok);
        assert!(matches!(cancelled, Err(CaptureError::Cancelled)));
    }
}
