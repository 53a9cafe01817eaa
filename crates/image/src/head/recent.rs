//! The pages of a container that were written last, in one section of its head: a reader that does not know it does without.

use std::collections::BTreeMap;

use super::codec::{put_space, take_space};
use super::{Space, SpaceHead, ranges};
use crate::ImageError;
use crate::cursor::{Cursor, put_varint};
use crate::limits::{MAX_RECENT_PAGES, MAX_SECTIONS};

/// The section; `None` if no address space has such pages.
///
/// # Errors
/// An address space has more than [`MAX_RECENT_PAGES`].
pub(super) fn encode(spaces: &BTreeMap<Space, SpaceHead>) -> Result<Option<Vec<u8>>, ImageError> {
    let with: Vec<_> = spaces.iter().filter(|(_, head)| !head.recent.is_empty()).collect();
    if with.is_empty() {
        return Ok(None);
    }
    let mut out = Vec::new();
    put_varint(&mut out, with.len() as u64);
    for (space, head) in with {
        let size = head.recent.iter().map(|r| r.count).sum();
        if size > MAX_RECENT_PAGES {
            let (what, limit) = ("pages written last", MAX_RECENT_PAGES);
            return Err(ImageError::Limit { what, size, limit });
        }
        put_space(&mut out, *space);
        ranges::put(&mut out, &head.recent);
    }
    Ok(Some(out))
}

/// Reads the section into the address spaces, which stand before it.
///
/// # Errors
/// Damaged, above a limit, or of an address space that the container does not have.
pub(super) fn decode(
    bytes: &[u8],
    spaces: &mut BTreeMap<Space, SpaceHead>,
) -> Result<(), ImageError> {
    let mut c = Cursor::new("pages written last", bytes);
    for _ in 0..c.count_of("address spaces", 3, MAX_SECTIONS)? {
        let space = take_space(&mut c)?;
        let recent = ranges::take(&mut c, MAX_RECENT_PAGES)?;
        let Some(head) = spaces.get_mut(&space).filter(|head| head.recent.is_empty()) else {
            return Err(c.invalid("an address space is not there, or twice"));
        };
        head.recent = recent;
    }
    c.end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_types::{PageNumber, PageRange};

    fn head(recent: Vec<PageRange>) -> SpaceHead {
        SpaceHead { recent, ..SpaceHead::default() }
    }

    fn spaces(recent: [Vec<PageRange>; 3]) -> BTreeMap<Space, SpaceHead> {
        [Space::Task(1), Space::Task(u32::MAX), Space::Shmem(3)]
            .into_iter()
            .zip(recent.map(head))
            .collect()
    }

    #[test]
    fn each_address_space_gets_its_own_and_nothing_takes_no_section() {
        let range = |first, count| PageRange::new(PageNumber(first), count);
        let full = spaces([vec![range(1, 1), range(9, 3)], vec![], vec![range(5, 1)]]);
        let section = encode(&full).unwrap().unwrap();
        let mut read = spaces(Default::default());
        assert_eq!(encode(&read), Ok(None));
        decode(&section, &mut read).unwrap();
        assert_eq!(read, full);
        assert!(decode(&section, &mut read).is_err(), "each space once");
        assert!(decode(&section, &mut BTreeMap::new()).is_err(), "no space that is not there");
        let much = spaces([vec![range(0, MAX_RECENT_PAGES + 1)], vec![], vec![]]);
        assert!(encode(&much).is_err());
    }
}
