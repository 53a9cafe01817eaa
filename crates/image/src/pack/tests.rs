use std::sync::{Arc, Mutex};

use godwit_types::{CheckpointId, Code};
use proptest::prelude::*;

use super::*;
use crate::limits::{MAX_FRAME_BYTES, MAX_PACK_BYTES};
use crate::{Digest, FrameDecoder, FrameRef, ImageError, PackSink, SinkError};

#[derive(Debug, Default)]
struct Shelf {
    packs: Mutex<Vec<FinishedPack>>,
    full: bool,
}

impl PackSink for Shelf {
    fn accept(&self, pack: FinishedPack) -> Result<(), SinkError> {
        if self.full {
            return Err(SinkError::new(Code::Unavailable, "storing a pack"));
        }
        self.packs.lock().unwrap().push(pack);
        Ok(())
    }
}

fn noise(seed: u32, n: usize) -> Vec<u8> {
    let mut out = vec![0; n];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn registry() -> Arc<PackRegistry> {
    PackRegistry::new(CheckpointId::from(1), PackTable::default())
}

/// Reads every frame back by way of the table alone, as a restore does.
fn check(table: &PackTable, shelf: &Shelf, written: &[(FrameRef, Vec<u8>)]) {
    let packs = shelf.packs.lock().unwrap();
    let mut decoder = FrameDecoder::new().unwrap();
    for (frame, raw) in written {
        let at = table.locate(*frame).unwrap();
        let pack = packs.iter().find(|p| p.name == at.pack.name).unwrap();
        let range = at.frame.byte_range();
        let stored = &pack.bytes[range.start as usize..range.end as usize];
        assert_eq!(&decoder.decode(at.frame, stored).unwrap(), raw);
    }
    for (_, record) in table.iter() {
        let pack = packs.iter().find(|p| p.name == record.name).unwrap();
        assert!(pack.bytes.len() <= MAX_PACK_BYTES);
        assert_eq!((pack.footer, pack.bytes.len()), (record.footer, record.size as usize));
        let footer = Footer::of_pack(&pack.bytes, &record.footer).unwrap();
        assert_eq!((footer.name, footer.frames), (record.name, record.frames.clone()));
    }
}

#[test]
fn frames_go_over_into_the_next_pack_when_one_is_full() {
    let (registry, shelf) = (registry(), Arc::new(Shelf::default()));
    let mut writer = registry.writer(PackKind::Data, Arc::clone(&shelf) as _).unwrap();
    let written: Vec<_> = (0..300)
        .map(|i| {
            let raw = noise(i, MAX_FRAME_BYTES);
            (writer.write(&raw).unwrap(), raw)
        })
        .collect();
    assert_eq!(writer.stored(), 300 * MAX_FRAME_BYTES as u64);
    writer.finish().unwrap();
    let table = registry.table();
    assert_eq!(table.len(), 3);
    check(&table, &shelf, &written);
}

#[test]
fn writers_of_several_threads_never_share_a_slot_or_a_name() {
    let (registry, shelf) = (registry(), Arc::new(Shelf::default()));
    let write = |seed: u32, kind| {
        let mut writer = registry.writer(kind, Arc::clone(&shelf) as _).unwrap();
        let one = |i| {
            let raw = noise(seed * 1000 + i, 5000);
            (writer.write(&raw).unwrap(), raw)
        };
        let written: Vec<_> = (0..50).map(one).collect();
        writer.finish().unwrap();
        written
    };
    let written: Vec<_> = std::thread::scope(|scope| {
        let kind = |i| if i % 2 == 0 { PackKind::Data } else { PackKind::Digests };
        let threads: Vec<_> = (0..6).map(|i| scope.spawn(move || write(i, kind(i)))).collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    let table = registry.table();
    assert_eq!(table.len(), 6);
    let mut keys: Vec<String> = table.iter().map(|(_, r)| r.name.key()).collect();
    keys.sort();
    assert_eq!(keys[0], "digests/0000");
    assert_eq!(keys[5], "packs/0002");
    check(&table, &shelf, &written);
}

#[test]
fn a_child_s_slots_begin_behind_its_parent_s() {
    let (parent, shelf) = (registry(), Arc::new(Shelf::default()));
    let mut writer = parent.writer(PackKind::Data, Arc::clone(&shelf) as _).unwrap();
    let old = writer.write(b"old").unwrap();
    writer.finish().unwrap();
    let child = PackRegistry::new(CheckpointId::from(2), parent.table());
    let mut writer = child.writer(PackKind::Data, Arc::clone(&shelf) as _).unwrap();
    let new = writer.write(b"new").unwrap();
    writer.finish().unwrap();
    assert!(child.is_own(new.pack) && !child.is_own(old.pack));
    check(&child.table(), &shelf, &[(old, b"old".to_vec()), (new, b"new".to_vec())]);
    let missing = FrameRef { frame: 1, ..old };
    let error = child.table().locate(missing).unwrap_err();
    assert_eq!(error, ImageError::UnknownFrame { pack: 0, frame: 1 });
}

#[test]
fn a_sink_that_refuses_a_pack_fails_the_writer_with_its_code() {
    let shelf = Arc::new(Shelf { full: true, ..Default::default() });
    let mut writer = registry().writer(PackKind::Data, shelf).unwrap();
    writer.write(b"x").unwrap();
    assert_eq!(writer.finish().unwrap_err().code(), Code::Unavailable);
}

#[test]
fn a_writer_without_frames_makes_no_pack() {
    let shelf = Arc::new(Shelf::default());
    registry().writer(PackKind::Data, Arc::clone(&shelf) as _).unwrap().finish().unwrap();
    assert!(shelf.packs.lock().unwrap().is_empty());
}

#[test]
fn an_encrypted_pack_is_refused_by_name() {
    let name = PackName {
        checkpoint: CheckpointId::from(1),
        kind: PackKind::Data,
        index: godwit_types::PackIndex(0),
    };
    let mut bytes = Footer { name, frames: FrameTable::default() }.encode();
    // Behind the name (16 bytes, kind, number): scheme and key.
    bytes[18] = 1;
    bytes[19] = 7;
    let error = Footer::decode(&bytes).unwrap_err();
    assert_eq!(error, ImageError::Encrypted { what: "pack", scheme: 1, key: 7 });
    assert_eq!(error.code(), Code::Refused);
}

proptest! {
    #[test]
    fn a_damaged_footer_gives_an_error_or_a_table_within_its_bounds(
        frames in 1usize..20, flips in prop::collection::vec((any::<usize>(), any::<u8>()), 1..5)
    ) {
        let (registry, shelf) = (registry(), Arc::new(Shelf::default()));
        let mut writer = registry.writer(PackKind::Data, Arc::clone(&shelf) as _).unwrap();
        for i in 0..frames {
            writer.write(&noise(i as u32, 100 + i)).unwrap();
        }
        writer.finish().unwrap();
        let table = registry.table();
        let (_, record) = table.iter().next().unwrap();
        let name = record.name;
        let mut bytes = Footer { name, frames: record.frames.clone() }.encode();
        for (at, with) in flips {
            let n = bytes.len();
            bytes[at % n] = with;
        }
        if let Ok(footer) = Footer::decode(&bytes) {
            let end = footer.frames.iter().map(|(_, r)| r.byte_range().end).max();
            prop_assert!(end.is_none_or(|end| end <= MAX_PACK_BYTES as u64));
        }
        let pack = shelf.packs.lock().unwrap().pop().unwrap();
        prop_assert!(Footer::of_pack(&pack.bytes, &Digest([1; 32])).is_err());
    }
}
