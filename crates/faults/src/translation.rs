//! Where the pages of the checkpoint are now: a bijection between addresses of the process ("here") and addresses of the checkpoint
//! ("origin"), in pages.
//!
//! Begins as the identity; each mremap moves a piece. Invariant: both directions hold the same pieces, and neither overlaps itself.

use std::collections::BTreeMap;
use std::ops::Range;

/// Page numbers below this exist: 2^52 pages are all that 64-bit addresses can name.
const PAGES: u64 = 1 << 52;

/// Pages that lie together in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) here: u64,
    pub(crate) origin: u64,
    pub(crate) len: u64,
}

impl Piece {
    /// The part that lies in `range` of the process.
    pub(crate) fn within_here(self, range: &Range<u64>) -> Option<Self> {
        let start = self.here.max(range.start);
        let end = (self.here + self.len).min(range.end);
        let origin = self.origin + (start - self.here);
        (start < end).then(|| Self { here: start, origin, len: end - start })
    }

    /// The same pages `by` further in the process.
    pub(crate) fn moved(self, from: u64, to: u64) -> Self {
        Self { here: self.here - from + to, ..self }
    }

    fn swapped(self) -> Self {
        Self { here: self.origin, origin: self.here, len: self.len }
    }

    pub(crate) fn origins(self) -> Range<u64> {
        self.origin..self.origin + self.len
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Translation {
    by_here: BTreeMap<u64, Piece>,
    by_origin: BTreeMap<u64, Piece>,
}

impl Translation {
    /// Every page is where it was.
    pub(crate) fn identity() -> Self {
        let all = Piece { here: 0, origin: 0, len: PAGES };
        Self { by_here: BTreeMap::from([(0, all)]), by_origin: BTreeMap::from([(0, all)]) }
    }

    /// The pieces within a range of the process, ascending.
    pub(crate) fn pieces(&self, here: Range<u64>) -> Vec<Piece> {
        let from = self.by_here.range(..=here.start).next_back().map_or(0, |(k, _)| *k);
        let touched = self.by_here.range(from..here.end.max(from));
        touched.filter_map(|(_, p)| p.within_here(&here)).collect()
    }

    /// Where a page of the process came from.
    pub(crate) fn origin(&self, here: u64) -> Option<u64> {
        let (_, piece) = self.by_here.range(..=here).next_back()?;
        piece.within_here(&(here..here + 1)).map(|p| p.origin)
    }

    /// Where pages of the checkpoint are now, ascending by origin.
    pub(crate) fn places(&self, origin: Range<u64>) -> Vec<Piece> {
        let from = self.by_origin.range(..=origin.start).next_back().map_or(0, |(k, _)| *k);
        let touched = self.by_origin.range(from..origin.end.max(from));
        touched.filter_map(|(_, p)| p.swapped().within_here(&origin)).map(Piece::swapped).collect()
    }

    /// Takes out what lies in a range of the process.
    pub(crate) fn cut(&mut self, here: Range<u64>) -> Vec<Piece> {
        let pieces = self.pieces(here.clone());
        for piece in &pieces {
            self.cut_one(*piece);
        }
        pieces
    }

    /// Takes `part` out of the piece that holds it.
    fn cut_one(&mut self, part: Piece) {
        let Some((_, whole)) = self.by_here.range(..=part.here).next_back() else { return };
        let whole = *whole;
        self.by_here.remove(&whole.here);
        self.by_origin.remove(&whole.origin);
        let before = part.here - whole.here;
        let after = whole.here + whole.len - (part.here + part.len);
        self.put(Piece { len: before, ..whole });
        self.put(Piece { here: part.here + part.len, origin: part.origin + part.len, len: after });
    }

    /// Adds a piece whose pages are in neither direction yet.
    pub(crate) fn put(&mut self, piece: Piece) {
        if piece.len > 0 {
            self.by_here.insert(piece.here, piece);
            self.by_origin.insert(piece.origin, piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const N: u64 = 64;

    fn shift(t: &mut Translation, from: u64, to: u64, len: u64) {
        t.cut(to..to + len);
        for p in t.cut(from..from + len) {
            t.put(p.moved(from, to));
        }
    }

    proptest! {
        #[test]
        fn it_is_a_vector_of_origins_and_its_inverse(
            moves in prop::collection::vec((0..N, 0..N, 1u64..20), 0..30),
            lo in 0..N, len in 0u64..30,
        ) {
            let mut t = Translation::identity();
            let mut model: Vec<Option<u64>> = (0..N + 32).map(Some).collect();
            for (from, to, len) in moves {
                if from.abs_diff(to) < len { continue; }
                shift(&mut t, from, to, len);
                for i in 0..len as usize {
                    model[to as usize + i] = model[from as usize + i].take();
                }
            }
            for (here, origin) in model.iter().enumerate() {
                prop_assert_eq!(t.origin(here as u64), *origin);
            }
            for p in t.pieces(lo..lo + len) {
                prop_assert!(lo <= p.here && p.here + p.len <= lo + len);
                for i in 0..p.len {
                    prop_assert_eq!(model[(p.here + i) as usize], Some(p.origin + i));
                }
            }
            let there: Vec<u64> = t.places(lo..lo + len).iter().flat_map(|p| p.origins()).collect();
            let want: Vec<u64> = (lo..lo + len).filter(|o| model.contains(&Some(*o))).collect();
            prop_assert_eq!(there, want);
        }
    }
}
