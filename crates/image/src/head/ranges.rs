//! Sorted, disjoint ranges of pages as bytes: their number, then for each the gap to the end of the one before it, and its pages.

use godwit_types::{PageNumber, PageRange};

use crate::ImageError;
use crate::cursor::{Cursor, put_varint};
use crate::limits::{MAX_PAGE, MAX_RECENT_PAGES, MAX_RUNS};

pub(super) fn put(out: &mut Vec<u8>, ranges: &[PageRange]) {
    put_varint(out, ranges.len() as u64);
    let mut end = 0;
    for r in ranges {
        put_varint(out, r.first.0 - end);
        put_varint(out, r.count);
        end = r.end().0;
    }
}

/// Ranges that have at most so many pages together.
pub(super) fn take(c: &mut Cursor<'_>, most: u64) -> Result<Vec<PageRange>, ImageError> {
    let n = c.count_of("ranges", 2, most.min(MAX_RUNS))?;
    let (mut end, mut left) = (0u64, most);
    let mut out = Vec::with_capacity(n);
    for _ in 0..n {
        let first = end + c.bounded("page number", MAX_PAGE)?;
        let count = c.bounded("pages", left)?;
        end = first + count;
        left -= count;
        if end > MAX_PAGE || count == 0 {
            return Err(c.invalid("a range is empty or too high"));
        }
        out.push(PageRange::new(PageNumber(first), count));
    }
    Ok(out)
}

/// The pages of one address space that were written last ([`crate::SpaceHead::recent`]), as bytes.
#[must_use]
pub fn encode_recent(recent: &[PageRange]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, recent);
    out
}

/// Reads what [`encode_recent`] wrote, believing nothing.
///
/// # Errors
/// Damaged, not ascending, or more than [`MAX_RECENT_PAGES`].
pub fn decode_recent(bytes: &[u8]) -> Result<Vec<PageRange>, ImageError> {
    let mut c = Cursor::new("pages written last", bytes);
    let recent = take(&mut c, MAX_RECENT_PAGES)?;
    c.end()?;
    Ok(recent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(first: u64, count: u64) -> PageRange {
        PageRange::new(PageNumber(first), count)
    }

    fn written(numbers: &[u64]) -> Vec<u8> {
        let mut out = Vec::new();
        numbers.iter().for_each(|n| put_varint(&mut out, *n));
        out
    }

    #[test]
    fn ranges_read_back_up_to_their_bound() {
        for ranges in [vec![], vec![range(0, 1), range(1, 2), range(MAX_PAGE - 3, 3)]] {
            assert_eq!(decode_recent(&encode_recent(&ranges)), Ok(ranges));
        }
        let all = [range(7, MAX_RECENT_PAGES - 1), range(1 << 40, 1)];
        assert_eq!(decode_recent(&encode_recent(&all)), Ok(all.to_vec()));
    }

    #[test]
    fn what_is_too_much_or_no_list_of_ranges_is_refused() {
        let hostile: [&[u64]; 8] = [
            &[1, 0, MAX_RECENT_PAGES + 1],
            &[2, 0, MAX_RECENT_PAGES, 5, 1],
            &[MAX_RECENT_PAGES + 1, 0, 1],
            &[u64::MAX],
            &[1, 5, 0],
            &[1, MAX_PAGE, 1],
            &[1, u64::MAX, 1],
            &[1, 5, 1, 9],
        ];
        for numbers in hostile {
            assert!(decode_recent(&written(numbers)).is_err(), "{numbers:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_an_error_or_ascending_ranges(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(ranges) = decode_recent(&bytes) {
                prop_assert!(ranges.windows(2).all(|w| w[0].end() <= w[1].first));
                prop_assert!(ranges.iter().map(|r| r.count).sum::<u64>() <= MAX_RECENT_PAGES);
            }
        }
    }
}
