//! The pages of one address space that were written last: ascending, and no more than a head may tell.

use godwit_image::limits::MAX_RECENT_PAGES;
use godwit_types::{PageNumber, PageRange};

/// See the module. Of too many the first are kept: they lie together in their frames, in this order.
#[derive(Debug, Default)]
pub(super) struct Recent {
    ranges: Vec<PageRange>,
    pages: u64,
}

impl Recent {
    /// Adds the page behind all that it has.
    pub(super) fn push(&mut self, page: PageNumber) {
        self.add(PageRange::new(page, 1));
    }

    /// Adds pages that lie behind all that it has.
    pub(super) fn append(&mut self, behind: Self) {
        behind.ranges.into_iter().for_each(|range| self.add(range));
    }

    fn add(&mut self, range: PageRange) {
        let count = range.count.min(MAX_RECENT_PAGES - self.pages);
        if count == 0 {
            return;
        }
        self.pages += count;
        match self.ranges.last_mut() {
            Some(last) if last.end() == range.first => last.count += count,
            _ => self.ranges.push(PageRange::new(range.first, count)),
        }
    }

    /// Its ranges, disjoint and ascending.
    pub(super) fn finish(self) -> Vec<PageRange> {
        self.ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u64, count: u64) -> PageRange {
        PageRange::new(PageNumber(first), count)
    }

    #[test]
    fn neighbours_are_joined_and_what_is_too_much_is_left_out() {
        let mut recent = Recent::default();
        [4, 5, 7].into_iter().for_each(|p| recent.push(PageNumber(p)));
        let mut behind = Recent::default();
        behind.push(PageNumber(8));
        behind.add(range(100, MAX_RECENT_PAGES));
        recent.append(behind);
        recent.push(PageNumber(1 << 40));
        let expected = [range(4, 2), range(7, 2), range(100, MAX_RECENT_PAGES - 4)];
        assert_eq!(recent.finish(), expected);
    }
}
