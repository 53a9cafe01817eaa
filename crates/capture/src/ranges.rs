//! Sorted, disjoint ranges of pages.

use godwit_types::{PageNumber, PageRange};

/// Makes ranges sorted and disjoint, joined where they touch, none empty.
pub(crate) fn normalized(mut ranges: Vec<PageRange>) -> Vec<PageRange> {
    ranges.retain(|r| r.count > 0);
    ranges.sort_unstable_by_key(|r| r.first);
    let mut out: Vec<PageRange> = Vec::with_capacity(ranges.len());
    for r in ranges {
        match out.last_mut() {
            Some(last) if r.first <= last.end() => {
                last.count = last.count.max(r.end().0 - last.first.0);
            }
            _ => out.push(r),
        }
    }
    out
}

/// The ranges that have pages within `window`, uncut. `ranges` are sorted and disjoint.
fn touching(ranges: &[PageRange], window: PageRange) -> &[PageRange] {
    let from = ranges.partition_point(|r| r.end() <= window.first);
    let to = ranges.partition_point(|r| r.first < window.end());
    &ranges[from..to.max(from)]
}

/// The parts of sorted, disjoint ranges that lie within `window`.
pub(crate) fn within(ranges: &[PageRange], window: PageRange) -> impl Iterator<Item = PageRange> {
    touching(ranges, window).iter().map(move |r| {
        let first = r.first.max(window.first);
        PageRange::new(first, r.end().min(window.end()).0 - first.0)
    })
}

/// The parts of `window` that lie in none of these sorted, disjoint ranges.
pub(crate) fn outside(ranges: &[PageRange], window: PageRange) -> Vec<PageRange> {
    let mut out = Vec::new();
    let mut at = window.first;
    for r in touching(ranges, window) {
        if r.first > at {
            out.push(PageRange::new(at, r.first.0 - at.0));
        }
        at = at.max(r.end());
    }
    if at < window.end() {
        out.push(PageRange::new(at, window.end().0 - at.0));
    }
    out
}

/// Whether a page lies in one of these sorted, disjoint ranges.
pub(crate) fn contains(ranges: &[PageRange], page: PageNumber) -> bool {
    !touching(ranges, PageRange::new(page, 1)).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn pages(ranges: impl IntoIterator<Item = PageRange>) -> BTreeSet<u64> {
        ranges.into_iter().flat_map(|r| r.first.0..r.end().0).collect()
    }

    fn any_range() -> impl Strategy<Value = PageRange> {
        (0u64..60, 0u64..10).prop_map(|(f, n)| PageRange::new(PageNumber(f), n))
    }

    proptest! {
        #[test]
        fn ranges_are_sets_of_pages(
            raw in prop::collection::vec(any_range(), 0..12), window in any_range()
        ) {
            let set = pages(raw.clone());
            let ranges = normalized(raw);
            prop_assert!(ranges.windows(2).all(|w| w[0].end() < w[1].first));
            prop_assert_eq!(&pages(ranges.clone()), &set);
            let seen = pages([window]);
            let inside: BTreeSet<u64> = set.intersection(&seen).copied().collect();
            prop_assert_eq!(pages(within(&ranges, window)), inside);
            let not: BTreeSet<u64> = seen.difference(&set).copied().collect();
            prop_assert_eq!(pages(outside(&ranges, window)), not);
            for p in 0..70 {
                prop_assert_eq!(contains(&ranges, PageNumber(p)), set.contains(&p));
            }
        }
    }
}
