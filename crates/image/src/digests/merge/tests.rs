use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use godwit_types::{CheckpointId, Code, PageNumber};
use proptest::prelude::*;

use super::*;
use crate::digests::StoredDigests;
use crate::{
    FinishedPack, FrameDecoder, FrameRef, FrameSource, PackKind, PackName, PackRegistry, PackSink,
    PackSlot, PackTable,
};

/// A store of packs in memory: a sink of the writer and, with a pack table, a source of frames.
#[derive(Debug, Default)]
struct Shelf(Mutex<BTreeMap<PackName, Vec<u8>>>);

impl PackSink for Shelf {
    fn accept(&self, pack: FinishedPack) -> Result<(), SinkError> {
        self.0.lock().unwrap().insert(pack.name, pack.bytes);
        Ok(())
    }
}

struct Reader(Arc<Shelf>, PackTable);

impl FrameSource for Reader {
    fn frame(&self, frame: FrameRef) -> Result<Vec<u8>, SinkError> {
        let at = self.1.locate(frame).unwrap();
        let packs = self.0.0.lock().unwrap();
        let range = at.frame.byte_range();
        let stored = &packs[&at.pack.name][range.start as usize..range.end as usize];
        Ok(FrameDecoder::new().unwrap().decode(at.frame, stored).unwrap())
    }
}

/// One of whose packs every frame has one answer.
struct Spoilt<'a> {
    reader: &'a Reader,
    pack: PackSlot,
    code: Code,
    asked: Mutex<usize>,
}

impl FrameSource for Spoilt<'_> {
    fn frame(&self, frame: FrameRef) -> Result<Vec<u8>, SinkError> {
        if frame.pack != self.pack {
            return self.reader.frame(frame);
        }
        *self.asked.lock().unwrap() += 1;
        Err(SinkError::new(self.code, "read a frame"))
    }
}

type Naive = BTreeMap<u64, PageDigest>;

/// Writes a checkpoint with these digests on top of a parent; gives its index and pack table.
fn write(
    shelf: &Arc<Shelf>,
    id: u128,
    parent: (&DigestIndex, &PackTable),
    now: &Naive,
) -> (DigestIndex, PackTable) {
    let registry = PackRegistry::new(CheckpointId::from(id), parent.1.clone());
    let sink: Arc<dyn PackSink> = Arc::clone(shelf) as _;
    let mut writer = registry.writer(PackKind::Digests, sink).unwrap();
    let reader = Reader(Arc::clone(shelf), parent.1.clone());
    let mut known = StoredDigests::new(parent.0, &reader, BlockNumber(u64::MAX));
    let mut merge = DigestMerge::new(&mut known, &mut writer);
    for (page, digest) in now {
        merge.push(PageNumber(*page), *digest).unwrap();
    }
    let index = merge.finish().unwrap();
    writer.finish().unwrap();
    (index, registry.table())
}

fn read(shelf: &Arc<Shelf>, index: &DigestIndex, table: &PackTable) -> Naive {
    let reader = Reader(Arc::clone(shelf), table.clone());
    let mut out = Naive::new();
    for (number, frame) in index.iter() {
        let block = DigestBlock::decode(&reader.frame(frame).unwrap()).unwrap();
        out.extend(block.pages(number).map(|(p, d)| (p.0, d)));
    }
    out
}

fn digest(seed: u8) -> PageDigest {
    PageDigest([seed; 16])
}

/// Pages in a few blocks that lie far apart.
fn any_pages(n: usize) -> impl Strategy<Value = BTreeMap<u64, Option<PageDigest>>> {
    let page = (0..6u64, 0..256u64).prop_map(|(block, page)| block * block * 256 + page);
    let digest = prop::option::weighted(0.8, any::<u8>().prop_map(digest));
    prop::collection::btree_map(page, digest, 0..n)
}

proptest! {
    #[test]
    fn the_merge_join_is_equal_to_a_naive_map(
        parent in any_pages(300), changes in any_pages(40)
    ) {
        let before: Naive = parent.into_iter().filter_map(|(p, d)| Some((p, d?))).collect();
        let mut now = before.clone();
        for (page, digest) in changes {
            match digest {
                Some(d) => now.insert(page, d),
                None => now.remove(&page),
            };
        }
        let shelf = Arc::new(Shelf::default());
        let none = (&DigestIndex::default(), &PackTable::default());
        let (index, table) = write(&shelf, 1, none, &before);
        prop_assert_eq!(read(&shelf, &index, &table), before.clone());
        let (after, table) = write(&shelf, 2, (&index, &table), &now);
        prop_assert_eq!(read(&shelf, &after, &table), now.clone());
        for (number, frame) in after.iter() {
            let of = |m: &Naive| m.iter().filter(|(p, _)| **p / 256 == number.0)
                .map(|(p, d)| (*p, *d)).collect::<Vec<_>>();
            let unchanged = of(&before) == of(&now);
            prop_assert_eq!(index.get(number) == Some(frame), unchanged, "block {}", number.0);
        }
        prop_assert_eq!(DigestIndex::decode(&after.encode().unwrap()), Ok(after));
    }

    #[test]
    fn known_digests_are_those_of_the_parent(
        parent in any_pages(100), asked in prop::collection::btree_set(0..256u64 * 26, 0..100)
    ) {
        let before: Naive = parent.into_iter().filter_map(|(p, d)| Some((p, d?))).collect();
        let shelf = Arc::new(Shelf::default());
        let none = (&DigestIndex::default(), &PackTable::default());
        let (index, table) = write(&shelf, 1, none, &before);
        let registry = PackRegistry::new(CheckpointId::from(2), table.clone());
        let mut writer = registry.writer(PackKind::Digests, Arc::clone(&shelf) as _).unwrap();
        let reader = Reader(Arc::clone(&shelf), table);
        let mut known = StoredDigests::new(&index, &reader, BlockNumber(u64::MAX));
        let mut merge = DigestMerge::new(&mut known, &mut writer);
        for page in asked {
            prop_assert_eq!(merge.known(PageNumber(page)).unwrap(), before.get(&page).copied());
        }
    }
}

#[test]
fn digests_in_a_damaged_pack_are_unknown_and_all_others_are_known() {
    let shelf = Arc::new(Shelf::default());
    let none = (&DigestIndex::default(), &PackTable::default());
    let old: Naive = (0..10).map(|block| (block * 256, digest(1))).collect();
    let (index, table) = write(&shelf, 1, none, &old);
    // Blocks 0, 2, 4, … are in another pack now.
    let new: Naive = old.keys().map(|p| (*p, digest(1 + u8::from(p / 256 % 2 == 0)))).collect();
    let (index, table) = write(&shelf, 2, (&index, &table), &new);
    let spoilt_pack = index.get(BlockNumber(1)).unwrap().pack;
    let reader = Reader(Arc::clone(&shelf), table);
    for code in [Code::Corrupt, Code::NotFound, Code::Unavailable] {
        let spoilt = Spoilt { reader: &reader, pack: spoilt_pack, code, asked: Mutex::new(0) };
        let mut known = StoredDigests::new(&index, &spoilt, BlockNumber(u64::MAX));
        let found: Result<Vec<bool>, SinkError> =
            (0..10).map(|n| Ok(known.block(BlockNumber(n))?.is_some())).collect();
        if code == Code::Unavailable {
            assert_eq!(found.unwrap_err().code(), code, "it may be there: nothing is guessed");
            continue;
        }
        assert_eq!(found.unwrap(), [true, false].repeat(5), "{code:?}");
        assert!(*spoilt.asked.lock().unwrap() <= 3, "not for each block anew");
    }
}
