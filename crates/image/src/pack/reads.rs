//! What a restore reads of packs, and how much of it it needs.

use godwit_types::{Bytes, PAGE_SIZE, Reads};

use super::{FrameUsage, PackTable};
use crate::frame::FrameRecord;

impl PackTable {
    /// What reading all these pages costs. `pages` counts pages of memory alone; frames that the table does not know are left
    /// out.
    #[must_use]
    pub fn reads(&self, pages: &FrameUsage) -> Reads {
        let mut reads = Reads::default();
        for (frame, used) in pages.iter() {
            if let Ok(located) = self.locate(frame) {
                reads.fetched.0 += u64::from(located.frame.stored);
                reads.needed.0 += located.frame.stored_for(used).0;
            }
        }
        reads
    }
}

impl FrameRecord {
    /// The share of its stored bytes that so many of its pages have, rounded up: all of them for all pages.
    #[must_use]
    pub fn stored_for(&self, pages: u32) -> Bytes {
        let raw = u64::from(self.raw).max(1);
        let used = (u64::from(pages) * PAGE_SIZE).min(raw);
        Bytes((u64::from(self.stored) * used).div_ceil(raw))
    }
}

#[cfg(test)]
mod tests {
    use godwit_types::{CheckpointId, PackIndex};
    use proptest::prelude::*;

    use super::*;
    use crate::pack::{FrameTable, PackKind, PackName, PackRecord, PackSlot};
    use crate::{Codec, Digest, FrameRef};

    const PAGE: u32 = PAGE_SIZE as u32;

    /// One pack with frames of so many pages and stored bytes.
    fn table(frames: &[(u32, u32)]) -> PackTable {
        let digest = Digest::of(b"");
        let record = |(pages, stored): &(u32, u32)| FrameRecord {
            offset: 0,
            stored: *stored,
            raw: pages * PAGE,
            codec: Codec::Zstd,
            digest,
        };
        let (checkpoint, index) = (CheckpointId::from(1), PackIndex(0));
        let mut table = PackTable::default();
        let record = PackRecord {
            name: PackName { checkpoint, kind: PackKind::Data, index },
            size: 1 << 20,
            footer: digest,
            total_frames: frames.len() as u32,
            total_stored: frames.iter().map(|(_, stored)| stored).sum(),
            frames: FrameTable::complete(frames.iter().map(record).collect()),
        };
        table.insert(PackSlot(3), record);
        table
    }

    fn usage(pages: impl IntoIterator<Item = u32>) -> FrameUsage {
        let mut usage = FrameUsage::default();
        for (frame, pages) in (0..).zip(pages).filter(|(_, pages)| *pages > 0) {
            usage.add(FrameRef { pack: PackSlot(3), frame }, pages);
        }
        usage
    }

    #[test]
    fn a_frame_is_fetched_whole_and_needed_in_part() {
        let table = table(&[(32, 32_000), (4, 16_384), (32, 900)]);
        let reads = table.reads(&usage([8, 4, 0]));
        assert_eq!((reads.fetched, reads.needed), (Bytes(48_384), Bytes(24_384)));
        let nothing = table.reads(&FrameUsage::default());
        assert_eq!(nothing, Reads::default());
        assert!((nothing.amplification() - 1.0).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn no_more_is_needed_than_fetched_and_as_much_where_every_page_is(
            frames in prop::collection::vec((1u32..=32, 1u32..=4096), 1..20),
            part in 0u32..=40,
        ) {
            let table = table(&frames);
            let all = table.reads(&usage(frames.iter().map(|(pages, _)| *pages)));
            prop_assert_eq!(all.fetched, all.needed);
            let some = table.reads(&usage(frames.iter().map(|(pages, _)| part.min(*pages))));
            prop_assert!(some.needed <= some.fetched && some.fetched <= all.fetched);
            prop_assert!(some.amplification() >= 1.0);
        }
    }
}
