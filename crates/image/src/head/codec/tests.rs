use std::collections::BTreeMap;
use std::sync::Arc;

use godwit_types::{CheckpointId, PageNumber, PageRange};
use proptest::prelude::*;

use super::*;
use crate::{
    BlockNumber, FinishedPack, FrameRef, FrameUsage, PackKind, PackRegistry, PackSink, PageRun,
    SinkError,
};

#[derive(Debug)]
struct Nowhere;

impl PackSink for Nowhere {
    fn accept(&self, _: FinishedPack) -> Result<(), SinkError> {
        Ok(())
    }
}

/// A head with two containers that share a pack table of some frames.
fn sample(seed: u8) -> Head {
    let registry = PackRegistry::new(CheckpointId::from(5), PackTable::default());
    let mut writer = registry.writer(PackKind::Data, Arc::new(Nowhere)).unwrap();
    let frames: Vec<FrameRef> =
        (0..5u8).map(|i| writer.write(&[seed.wrapping_add(i); 8192]).unwrap()).collect();
    writer.finish().unwrap();
    let range = |first, count| PageRange::new(PageNumber(first), count);
    let mut space = SpaceHead::default();
    for (i, frame) in (0..).zip(&frames) {
        space.map.insert(PageRun::stored(range(i * 10, 2), *frame, 0));
        space.map.insert(PageRun::zero(range(i * 10 + 5, 3)));
    }
    space.eager = vec![range(0, 1), range(10, 2)];
    space.digests.insert(BlockNumber(0), frames[4]);
    let shm = SpaceHead { eager: vec![range(0, 2)], ..space.clone() };
    space.recent = vec![range(20, 2), range(40, 1)];
    let container = |name: &str| ContainerHead {
        name: name.to_owned(),
        images: BTreeMap::from([("core-1.img".to_owned(), vec![seed; 3000])]),
        spaces: BTreeMap::from([
            (Space::Task(1), space.clone()),
            (Space::Shmem(u64::MAX), shm.clone()),
        ]),
        sections: BTreeMap::from([("config.json".to_owned(), b"{}".to_vec())]),
    };
    Head {
        packs: registry.table(),
        containers: vec![container("web"), container("side")],
        sections: BTreeMap::from([("volumes".to_owned(), vec![])]),
    }
}

#[test]
fn a_head_reads_back_and_says_where_each_container_is() {
    let head = sample(1);
    let encoded = head.encode().unwrap();
    assert_eq!(Head::decode(&encoded.bytes), Ok(head));
    let ends: Vec<_> = encoded.containers.iter().map(|r| (r.start, r.end)).collect();
    assert_eq!(ends.len(), 2);
    assert_eq!(ends[0].1, ends[1].0);
    assert_eq!(ends[1].1, encoded.bytes.len() as u64);
}

#[test]
fn frames_that_nothing_refers_to_leave_the_table_and_slots_stay() {
    let mut head = sample(1);
    for container in &mut head.containers {
        for space in container.spaces.values_mut() {
            space.map.remove(PageRange::new(PageNumber(0), 25));
        }
    }
    let mut usage = FrameUsage::default();
    head.count_usage(&mut usage);
    head.packs.retain(&usage);
    let (slot, record) = head.packs.iter().next().unwrap();
    assert_eq!(record.frames.iter().map(|(n, _)| n).collect::<Vec<_>>(), [3, 4]);
    assert_eq!((record.total_frames, record.frames.is_complete()), (5, false));
    assert!(head.packs.locate(FrameRef { pack: slot, frame: 3 }).is_ok());
    assert!(head.packs.locate(FrameRef { pack: slot, frame: 0 }).is_err());
    assert_eq!(Head::decode(&head.encode().unwrap().bytes), Ok(head));
}

#[test]
fn what_no_reader_would_take_is_not_written() {
    let limit = |added: Result<(), ImageError>| match added {
        Err(ImageError::Limit { what, size, limit }) => (what, size - limit),
        other => panic!("{other:?}"),
    };
    let add = |w: &mut Writer, bytes: &[u8]| w.add(Role::Image, "ghost-file-1.img", bytes);
    // The sum of what is there already, as of 32 deleted files of 64 MiB each that are still open.
    let mut full = Writer { raw: MAX_HEAD_BYTES - 10, ..Writer::default() };
    add(&mut full, &[0; 10]).unwrap();
    assert_eq!(limit(add(&mut full, &[0; 3])), ("head", 3));
    let mut many = Writer { sections: MAX_SECTIONS - 1, ..Writer::default() };
    add(&mut many, &[]).unwrap();
    assert_eq!(limit(add(&mut many, &[])), ("sections of a head", 1));
    let pod = |containers: u64| Head {
        containers: vec![ContainerHead::default(); containers as usize],
        ..Head::default()
    };
    assert!(pod(MAX_CONTAINERS).encode().is_ok());
    assert_eq!(limit(pod(MAX_CONTAINERS + 1).encode().map(drop)), ("containers", 1));
}

#[test]
fn a_section_before_any_container_or_twice_is_refused() {
    let mut head = Head::default();
    assert!(head.place(Role::Image, "core-1.img", vec![]).is_err());
    assert!(head.place(Role::Map(Space::Task(1)), "", vec![]).is_err());
    head.place(Role::PodSection, "x", vec![]).unwrap();
    assert!(head.place(Role::PodSection, "x", vec![]).is_err());
}

#[test]
fn the_section_of_pages_written_last_is_one_that_an_older_reader_passes_over() {
    let mut kind = Vec::new();
    Role::Recent.put(&mut kind);
    assert_eq!(kind, [128], "nothing stands between kind and name");
    let mut head = Head::default();
    assert!(head.place(Role::Recent, "", vec![0]).is_err(), "it belongs to a container");
}

#[test]
fn sections_of_a_later_version_that_may_be_left_out_are_skipped() {
    let mut w = Writer::default();
    w.add(Role::Packs, "", &PackTable::default().encode()).unwrap();
    w.add(Role::Optional, "recorded faults", &[1; 100]).unwrap();
    let mut counted = Vec::new();
    put_varint(&mut counted, w.sections);
    counted.extend_from_slice(&w.contents);
    let mut body = Vec::new();
    put_bytes(&mut body, &counted);
    body.extend_from_slice(&w.bytes);
    assert_eq!(Head::decode(&header::wrap(Kind::Head, &body)), Ok(Head::default()));
}

proptest! {
    #[test]
    fn damaged_sections_give_an_error_and_never_a_panic(
        seed in any::<u8>(), flips in prop::collection::vec((any::<usize>(), any::<u8>()), 1..6)
    ) {
        let encoded = sample(seed).encode().unwrap().bytes;
        let mut body = encoded[HEADER_BYTES..].to_vec();
        for (at, with) in flips {
            let n = body.len();
            body[at % n] = with;
        }
        // With a right checksum, so that the decoders behind it are reached.
        let _ = Head::decode(&header::wrap(Kind::Head, &body));
    }

    #[test]
    fn arbitrary_bytes_give_an_error_and_never_a_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Head::decode(&header::wrap(Kind::Head, &body));
        let _ = PackTable::decode(&body);
        let _ = PageMap::decode(&header::wrap(Kind::PageMap, &body));
        let _ = DigestIndex::decode(&header::wrap(Kind::DigestIndex, &body));
        let _ = crate::DigestBlock::decode(&header::wrap(Kind::DigestBlock, &body));
        let _ = crate::Footer::decode(&body);
        let _ = decode_ranges(&body);
    }
}
