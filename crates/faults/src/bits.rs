//! Which pages need nothing more: one bit for each stored page of a layout, by rank.
//!
//! Set by copy threads under a shared lock, hence atomic; never cleared.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// A fixed number of bits and how many of them are still clear.
#[derive(Debug)]
pub(crate) struct Bits {
    words: Vec<AtomicU64>,
    clear: AtomicU64,
}

impl Bits {
    /// All clear.
    pub(crate) fn new(len: u64) -> Self {
        let words = (0..len.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { words, clear: AtomicU64::new(len) }
    }

    /// How many are clear.
    pub(crate) fn clear(&self) -> u64 {
        self.clear.load(Ordering::Acquire)
    }

    /// Whether this one is set.
    pub(crate) fn get(&self, rank: u64) -> bool {
        let word = &self.words[(rank / 64) as usize];
        word.load(Ordering::Acquire) >> (rank % 64) & 1 == 1
    }

    /// Sets a range; returns how many of them were clear.
    pub(crate) fn set(&self, ranks: Range<u64>) -> u64 {
        let mut newly = 0;
        for (word, mask) in masks(ranks) {
            let before = self.words[word].fetch_or(mask, Ordering::AcqRel);
            newly += u64::from((mask & !before).count_ones());
        }
        self.clear.fetch_sub(newly, Ordering::AcqRel);
        newly
    }

    /// The runs of clear bits within a range, ascending.
    pub(crate) fn clear_runs(&self, ranks: Range<u64>) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for rank in ranks {
            if self.get(rank) {
                continue;
            }
            match runs.last_mut() {
                Some(last) if last.end == rank => last.end += 1,
                _ => runs.push(rank..rank + 1),
            }
        }
        runs
    }

    /// Whether any bit of a range is clear.
    pub(crate) fn any_clear(&self, mut ranks: Range<u64>) -> bool {
        ranks.any(|rank| !self.get(rank))
    }
}

impl Clone for Bits {
    fn clone(&self) -> Self {
        let copy = |w: &AtomicU64| AtomicU64::new(w.load(Ordering::Acquire));
        let words = self.words.iter().map(copy).collect();
        Self { words, clear: AtomicU64::new(self.clear()) }
    }
}

/// The words of a range with the bits that it covers in each.
fn masks(ranks: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
    let words = ranks.start / 64..ranks.end.div_ceil(64).max(ranks.start / 64);
    words.map(move |word| {
        let from = ranks.start.saturating_sub(word * 64);
        let to = (ranks.end - word * 64).min(64);
        let ones = if to - from == 64 { u64::MAX } else { ((1 << (to - from)) - 1) << from };
        (word as usize, ones)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_range_changes_nothing() {
        let bits = Bits::new(128);
        assert_eq!(bits.set(64..64), 0);
        assert_eq!(bits.set(3..3), 0);
        assert_eq!(bits.clear(), 128);
        assert!(!bits.any_clear(5..5));
    }

    proptest! {
        #[test]
        fn bits_behave_as_a_vector_of_bools(
            sets in prop::collection::vec((0u64..300, 0u64..300), 0..8),
            asks in prop::collection::vec((0u64..300, 0u64..300), 8),
        ) {
            let (bits, mut model) = (Bits::new(300), vec![false; 300]);
            for (a, b) in sets.into_iter().map(|(a, b)| (a.min(b), a.max(b))) {
                let slice = &mut model[a as usize..b as usize];
                let changed = slice.iter().filter(|m| !**m).count() as u64;
                slice.fill(true);
                prop_assert_eq!(bits.set(a..b), changed);
            }
            let clear = |m: &[bool]| m.iter().filter(|m| !**m).count() as u64;
            prop_assert_eq!(bits.clear(), clear(&model));
            for (a, b) in asks.into_iter().map(|(a, b)| (a.min(b), a.max(b))) {
                let runs = bits.clear_runs(a..b);
                let total: u64 = runs.iter().map(|r| r.end - r.start).sum();
                prop_assert_eq!(total, clear(&model[a as usize..b as usize]));
                prop_assert!(runs.windows(2).all(|w| w[0].end < w[1].start));
                prop_assert_eq!(bits.any_clear(a..b), !runs.is_empty());
            }
            for (i, m) in model.iter().enumerate() {
                prop_assert_eq!(bits.clone().get(i as u64), *m);
            }
        }
    }
}
