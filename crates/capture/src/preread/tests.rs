use super::*;
use crate::fixture::{Reader, Shelf, page, registry};
use crate::{Arena, Budget, Span};
use godwit_image::{FrameSource, SpaceHead};
use godwit_types::Bytes;

/// Memory of this process with these pages (seeds).
struct Mine {
    span: Span,
    first: PageNumber,
}

impl Mine {
    fn new(seeds: &[u32]) -> Self {
        let bytes = Bytes((seeds.len() * PAGE) as u64);
        let arena = Arena::new(Budget::new(bytes).reserve(bytes).unwrap()).unwrap();
        let span = arena.take(bytes.0 as usize).unwrap();
        let first = PageNumber::of_address(span.bytes().as_ptr() as u64);
        let mut mine = Self { span, first };
        for (i, seed) in seeds.iter().enumerate() {
            mine.set(i, *seed);
        }
        mine
    }

    fn set(&mut self, i: usize, seed: u32) {
        self.span.bytes_mut()[i * PAGE..(i + 1) * PAGE].copy_from_slice(&page(seed));
    }

    fn target(&self, ranges: &[(u64, u64)]) -> Target {
        let at = |(f, n): &(u64, u64)| PageRange::new(PageNumber(self.first.0 + f), *n);
        let pid = std::process::id() as i32;
        Target { space: Space::Task(1), pid, ranges: ranges.iter().map(at).collect() }
    }
}

fn run(
    target: Target,
    parent: Option<Parent<'_>>,
    packs: &Arc<PackRegistry>,
    shelf: &Arc<Shelf>,
) -> (Baselines, MemoryStats) {
    let request = Preread {
        targets: vec![target],
        parent,
        packs,
        sink: Arc::clone(shelf) as _,
        threads: 3,
        stop: &Stop::new(),
    };
    preread(&request).unwrap()
}

fn bytes_of(map: &PageMap, page: PageNumber, reader: &Reader) -> Vec<u8> {
    let (frame, offset) = map.lookup(page).unwrap().frame_offset().unwrap();
    reader.frame(frame).unwrap()[offset..offset + PAGE].to_vec()
}

#[test]
fn live_pages_are_stored_zeros_are_ranges_and_every_digest_is_known() {
    let seeds: Vec<u32> = (0..700).map(|i| if i % 10 == 3 { 0 } else { i + 1 }).collect();
    let mine = Mine::new(&seeds);
    let shelf = Arc::new(Shelf::default());
    let packs = registry(1, None);
    let (known, stats) = run(mine.target(&[(0, 300), (400, 300)]), None, &packs, &shelf);
    let baseline = known.get(Space::Task(1)).unwrap();
    let reader = Reader::new(&shelf, &packs);
    for (i, seed) in seeds.iter().enumerate() {
        let number = PageNumber(mine.first.0 + i as u64);
        let read = !(300..400).contains(&i);
        let digest = (read && *seed != 0).then(|| PageDigest::of(&page(*seed)));
        assert_eq!(baseline.digest(number), digest, "page {i}");
        match (read, *seed) {
            (false, _) => assert_eq!(baseline.map.lookup(number), None),
            (true, 0) => assert_eq!(baseline.map.lookup(number), Some(PageSource::Zero)),
            (true, seed) => assert_eq!(bytes_of(&baseline.map, number, &reader), page(seed)),
        }
    }
    assert_eq!((stats.pages, stats.zero, stats.changed), (600, 60, 540));
    assert!(stats.stored > 0);
}

#[test]
fn pages_that_the_parent_has_are_not_stored_again_and_its_other_pages_stay_known() {
    let mut mine = Mine::new(&(1..=600).collect::<Vec<u32>>());
    let shelf = Arc::new(Shelf::default());
    let first = registry(1, None);
    let (known, _) = run(mine.target(&[(0, 600)]), None, &first, &shelf);
    // A head as `assemble` would make it: the same maps, digests written block by block.
    let baseline = known.get(Space::Task(1)).unwrap();
    let mut writer = first.writer(PackKind::Digests, Arc::clone(&shelf) as _).unwrap();
    let mut head = SpaceHead { map: baseline.map.clone(), ..Default::default() };
    for (number, block) in &baseline.blocks {
        head.digests.insert(*number, writer.write(&block.digests.encode()).unwrap());
    }
    writer.finish().unwrap();
    let spaces = BTreeMap::from([(Space::Task(1), head)]);
    let reader = Reader::new(&shelf, &first);
    let parent = Parent { spaces: &spaces, frames: &reader };

    mine.set(5, 9999);
    mine.set(6, 0);
    let second = registry(2, Some(&first));
    let (known, stats) = run(mine.target(&[(0, 256)]), Some(parent), &second, &shelf);
    let after = known.get(Space::Task(1)).unwrap();
    assert_eq!((stats.pages, stats.zero, stats.changed), (2, 1, 1));
    let at = |i: u64| PageNumber(mine.first.0 + i);
    assert_eq!(bytes_of(&after.map, at(5), &Reader::new(&shelf, &second)), page(9999));
    assert_eq!(after.digest(at(6)), None);
    for i in [0, 4, 7, 255, 256, 599] {
        assert_eq!(after.map.lookup(at(i)), baseline.map.lookup(at(i)), "page {i}");
        assert_eq!(after.digest(at(i)), baseline.digest(at(i)), "page {i}");
    }
    for (number, block) in &after.blocks {
        let changed = *number == BlockNumber::of(at(5));
        assert_eq!(block.frame.is_none(), changed, "{number:?}");
    }
}

#[test]
fn pages_that_cannot_be_read_are_left_out() {
    let mine = Mine::new(&[1, 2, 3]);
    let mut target = mine.target(&[(0, 3)]);
    target.ranges.insert(0, PageRange::new(PageNumber(1), 4));
    let shelf = Arc::new(Shelf::default());
    let packs = registry(1, None);
    let (known, stats) = run(target, None, &packs, &shelf);
    assert_eq!(stats.pages, 3);
    assert!(known.get(Space::Task(1)).unwrap().map.lookup(PageNumber(1)).is_none());
}

#[test]
fn what_could_be_read_before_and_after_a_hole_is_kept() {
    let at = |f, n| PageRange::new(PageNumber(f), n);
    let mut got = Vec::new();
    let rest = advance(vec![at(0, 4), at(10, 4), at(20, 2)], 6, true, &mut got);
    assert_eq!(got, [at(0, 4), at(10, 2)]);
    assert_eq!(rest, [at(13, 1), at(20, 2)]);
    let mut got = Vec::new();
    assert_eq!(advance(vec![at(0, 1)], 0, true, &mut got), []);
    assert!(got.is_empty());
}

#[test]
fn a_process_that_is_gone_has_no_memory_and_is_no_error() {
    let shelf = Arc::new(Shelf::default());
    let packs = registry(1, None);
    let ranges = vec![PageRange::new(PageNumber(1000), 10)];
    let target = Target { space: Space::Task(1), pid: i32::MAX, ranges };
    let (_, stats) = run(target, None, &packs, &shelf);
    assert_eq!(stats, MemoryStats::default());
}

#[test]
fn a_sink_that_is_full_and_a_raised_flag_end_it() {
    let mine = Mine::new(&(1..=300).collect::<Vec<u32>>());
    let packs = registry(1, None);
    let full = Arc::new(Shelf { full_at: Some(0), ..Default::default() });
    let stop = Stop::new();
    let mut request = Preread {
        targets: vec![mine.target(&[(0, 300)])],
        parent: None,
        packs: &packs,
        sink: full,
        threads: 2,
        stop: &stop,
    };
    let error = preread(&request).unwrap_err();
    assert_eq!(error.code(), godwit_types::Code::Unavailable, "{error}");
    stop.raise();
    request.sink = Arc::new(Shelf::default());
    assert!(matches!(preread(&request), Err(CaptureError::Cancelled)));
}
