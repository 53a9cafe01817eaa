use std::collections::BTreeSet;

use godwit_image::{BLOCK_PAGES, BlockNumber, PageDigest, PageRun};
use proptest::prelude::*;

use super::*;
use crate::baseline::Baseline;
use crate::fixture::{
    Memory, Reader, Shelf, arena, eager, expected, page, play, read_back, registry,
};
use crate::{Layout, Mode, PageServer};

fn receive(memory: &Memory, mode: Mode) -> Received {
    let (server, criu) = PageServer::start(arena(24), mode).unwrap();
    play(criu, memory, Layout::Bytes32, 256);
    server.finish().unwrap()
}

struct Made {
    registry: Arc<PackRegistry>,
    out: Assembled,
}

/// What a checkpoint is made with.
struct With<'a> {
    parent: Option<(&'a Made, &'a Reader)>,
    baselines: Option<&'a Baselines>,
    registry: Arc<PackRegistry>,
    laziness: BTreeMap<Space, Laziness>,
}

fn make(received: &Received, shelf: &Arc<Shelf>, with: With<'_>) -> Made {
    let parent =
        with.parent.map(|(made, reader)| Parent { spaces: &made.out.spaces, frames: reader });
    let assembly = Assembly {
        received,
        baselines: with.baselines,
        parent,
        laziness: &with.laziness,
        packs: &with.registry,
        sink: Arc::clone(shelf) as _,
        threads: 3,
        stop: &Stop::new(),
    };
    let out = assemble(&assembly).unwrap();
    Made { registry: with.registry, out }
}

fn full(memory: &Memory, shelf: &Arc<Shelf>, id: u128) -> Made {
    let registry = registry(id, None);
    let with = With { parent: None, baselines: None, registry, laziness: BTreeMap::new() };
    make(&receive(memory, Mode::Keep), shelf, with)
}

fn increment(memory: &Memory, shelf: &Arc<Shelf>, parent: &Made, id: u128) -> Made {
    let reader = Reader::new(shelf, &parent.registry);
    let registry = registry(id, Some(&parent.registry));
    let parent = Some((parent, &reader));
    let with = With { parent, baselines: None, registry, laziness: BTreeMap::new() };
    make(&receive(memory, Mode::Keep), shelf, with)
}

/// The checkpoint reads back as the memory that was sent, with right digests.
fn check(memory: &Memory, made: &Made, shelf: &Arc<Shelf>) {
    let reader = Reader::new(shelf, &made.registry);
    assert!(made.out.spaces.keys().eq(memory.keys()));
    for (space, pages) in memory {
        let head = &made.out.spaces[space];
        assert_eq!(read_back(head, &reader), expected(pages));
        assert_eq!(head.eager, eager(pages));
        let parent = Parent { spaces: &made.out.spaces, frames: &reader };
        let known = Baseline::of_parent(head, &parent).unwrap();
        for (p, (seed, _)) in pages {
            let digest = (*seed != 0).then(|| PageDigest::of(&page(*seed)));
            assert_eq!(known.digest(PageNumber(*p)), digest, "page {p}");
        }
        let digests: usize =
            known.blocks.values().map(|b| b.digests.pages(BlockNumber(0)).count()).sum();
        assert_eq!(digests, pages.values().filter(|(s, _)| *s != 0).count());
    }
}

fn any_memory() -> impl Strategy<Value = Memory> {
    let space = prop_oneof![(1u32..3).prop_map(Space::Task), Just(Space::Shmem(7))];
    let stretch = (0u64..3, 0u64..250, 1u64..60, any::<bool>(), 0u32..5);
    let pages = prop::collection::vec(stretch, 0..5).prop_map(|stretches| {
        let mut out = BTreeMap::new();
        for (cluster, start, n, lazy, seed) in stretches {
            for i in 0..n {
                let seed = if seed == 0 { 0 } else { seed * 100 + i as u32 };
                out.insert(cluster * 5000 + start + i, (seed, lazy));
            }
        }
        out
    });
    prop::collection::btree_map(space, pages, 1..3)
}

fn changed(memory: &Memory, changes: &Memory) -> Memory {
    let mut now = memory.clone();
    for (space, pages) in changes {
        let target = now.entry(*space).or_default();
        for (p, (seed, lazy)) in pages {
            match seed % 7 {
                0 => target.remove(p),
                _ => target.insert(*p, (*seed, *lazy)),
            };
        }
    }
    now
}

fn same_stored_pages(before: &Memory, now: &Memory) -> u64 {
    let stored = |m: &Memory| -> BTreeSet<(Space, u64, u32)> {
        let pages = m.iter().flat_map(|(s, ps)| ps.iter().map(|(p, (seed, _))| (*s, *p, *seed)));
        pages.filter(|(_, _, seed)| *seed != 0).collect()
    };
    stored(before).intersection(&stored(now)).count() as u64
}

/// Written last are the lazy pages that the parent has in another way or not at all, where it has the space; nothing in a checkpoint
/// without a parent.
fn check_recent(before: &Memory, parent: &Made, now: &Memory, made: &Made) {
    assert!(parent.out.spaces.values().all(|head| head.recent.is_empty()));
    for (space, pages) in now {
        let changed = before.get(space).into_iter().flat_map(|old| {
            let is_old = |p: &u64, seed: u32| old.get(p).is_some_and(|(was, _)| *was == seed);
            let new = pages
                .iter()
                .filter(move |(p, (seed, lazy))| *lazy && *seed != 0 && !is_old(p, *seed));
            new.map(|(p, _)| *p)
        });
        let recent = made.out.spaces[space].recent.iter();
        let told: Vec<u64> = recent.flat_map(|r| r.first.0..r.end().0).collect();
        assert_eq!(told, changed.collect::<Vec<_>>(), "{space:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_full_checkpoint_and_its_increments_read_back_as_what_was_sent(
        first in any_memory(), second in any_memory(), third in any_memory()
    ) {
        let shelf = Arc::new(Shelf::default());
        let one = full(&first, &shelf, 1);
        check(&first, &one, &shelf);
        let now = changed(&first, &second);
        let two = increment(&now, &shelf, &one, 2);
        check(&now, &two, &shelf);
        prop_assert_eq!(two.out.stats.shared, same_stored_pages(&first, &now));
        check_recent(&first, &one, &now, &two);
        let then = changed(&now, &third);
        let three = increment(&then, &shelf, &two, 3);
        check(&then, &three, &shelf);
    }

    #[test]
    fn comparing_in_the_freeze_gives_the_same_checkpoint_as_keeping_all(
        first in any_memory(), second in any_memory()
    ) {
        let shelf = Arc::new(Shelf::default());
        let one = full(&first, &shelf, 1);
        let now = changed(&first, &second);
        let reader = Reader::new(&shelf, &one.registry);
        let parent = Parent { spaces: &one.out.spaces, frames: &reader };
        let baselines = Arc::new(Baselines::of_parent(&parent, &Stop::new()).unwrap());
        let mode = Mode::Compare { baselines: Arc::clone(&baselines), threads: 2 };
        let received = receive(&now, mode);
        *reader.reads.lock().unwrap() = 0;
        let two = make(&received, &shelf, With {
            parent: Some((&one, &reader)),
            baselines: Some(&baselines),
            registry: registry(2, Some(&one.registry)),
            laziness: BTreeMap::new(),
        });
        prop_assert_eq!(*reader.reads.lock().unwrap(), 0, "nothing is read from the store in the freeze");
        check(&now, &two, &shelf);
        check_recent(&first, &one, &now, &two);
        let same = same_stored_pages(&first, &now);
        prop_assert_eq!(two.out.stats.shared, same);
        let zero = two.out.stats.zero;
        prop_assert_eq!(received.held_pages(), two.out.stats.pages - same - zero);
    }
}

fn task(pages: impl IntoIterator<Item = (u64, u32)>) -> Memory {
    let pages = pages.into_iter().map(|(p, seed)| (p, (seed, true)));
    BTreeMap::from([(Space::Task(1), pages.collect())])
}

#[test]
fn an_increment_shares_blocks_of_digests_and_frames_that_did_not_change() {
    let shelf = Arc::new(Shelf::default());
    let pages = |extra: Option<u64>| {
        task(
            (0..BLOCK_PAGES * 4).map(|p| (p, if Some(p) == extra { 77_777 } else { p as u32 + 1 })),
        )
    };
    let one = full(&pages(None), &shelf, 1);
    let two = increment(&pages(Some(600)), &shelf, &one, 2);
    check(&pages(Some(600)), &two, &shelf);
    assert_eq!((two.out.stats.changed, two.out.stats.shared), (1, 1023));
    let recent = |m: &Made| m.out.spaces[&Space::Task(1)].recent.clone();
    assert_eq!(recent(&two), [PageRange::new(PageNumber(600), 1)]);
    let of = |m: &Made| m.out.spaces[&Space::Task(1)].digests.clone();
    for (number, frame) in of(&two).iter() {
        assert_eq!(of(&one).get(number) == Some(frame), number.0 != 2, "{number:?}");
    }
    let same = increment(&pages(Some(600)), &shelf, &two, 3);
    assert_eq!(same.out.stats.stored, 0);
    assert!(recent(&same).is_empty(), "what its parent wrote last is not its own");
    assert!(same.registry.table().iter().all(|(slot, _)| !same.registry.is_own(slot)));
}

#[test]
fn laziness_goes_by_the_memory_area_and_hot_pages_are_eager() {
    let shelf = Arc::new(Shelf::default());
    // CRIU marked all of it as not lazy (a thread with a page-aligned stack pointer).
    let pages = (0..100u64).map(|p| (p, (p as u32 + 1, false)));
    let memory: Memory = BTreeMap::from([(Space::Task(1), pages.collect())]);
    let range = |f, n| PageRange::new(PageNumber(f), n);
    let laziness = Laziness {
        lazy: Some(vec![range(50, 1000), range(10, 20)]),
        hot: vec![PageNumber(99), PageNumber(60), PageNumber(5000)],
    };
    let with = With {
        parent: None,
        baselines: None,
        registry: registry(1, None),
        laziness: BTreeMap::from([(Space::Task(1), laziness)]),
    };
    let made = make(&receive(&memory, Mode::Keep), &shelf, with);
    let head = &made.out.spaces[&Space::Task(1)];
    assert_eq!(head.eager, [range(0, 10), range(30, 20), range(60, 1), range(99, 1)]);
    let reader = Reader::new(&shelf, &made.registry);
    assert_eq!(read_back(head, &reader), expected(&memory[&Space::Task(1)]));
    let frames = |eager: bool| -> BTreeSet<_> {
        let entries = head.pagemap().into_iter().filter(move |e| e.eager == eager);
        let runs = entries.flat_map(|e| head.map.runs_within(e.range).collect::<Vec<PageRun>>());
        runs.filter_map(|r| r.source.frame_offset().map(|(frame, _)| frame)).collect()
    };
    assert!(frames(true).is_disjoint(&frames(false)), "eager pages have frames of their own");
}

#[test]
fn an_unchanged_page_that_nobody_knows_is_an_error_and_never_a_guess() {
    let state = crate::FrozenState::Same;
    let run = FrozenRun { range: PageRange::new(PageNumber(4), 2), lazy: true, state };
    let spaces = BTreeMap::from([(Space::Task(1), vec![run])]);
    let received = Received::new(spaces, Vec::new(), None).unwrap();
    let packs = registry(1, None);
    let empty = Baselines::default();
    for baselines in [None, Some(&empty)] {
        let assembly = Assembly {
            received: &received,
            baselines,
            parent: None,
            laziness: &BTreeMap::new(),
            packs: &packs,
            sink: Arc::new(Shelf::default()),
            threads: 1,
            stop: &Stop::new(),
        };
        assert!(matches!(assemble(&assembly), Err(CaptureError::Unknown { page: 4 })));
    }
}

#[test]
fn packs_are_written_by_several_threads_and_stay_below_their_limit() {
    let shelf = Arc::new(Shelf::default());
    let memory = task((0..5000).map(|p| (p, p as u32 + 1)));
    let made = full(&memory, &shelf, 1);
    check(&memory, &made, &shelf);
    let packs = shelf.packs.lock().unwrap();
    let table = made.registry.table();
    assert_eq!(packs.len(), table.len());
    for (_, record) in table.iter() {
        let bytes = &packs[&record.name];
        assert_eq!(bytes.len(), record.size as usize);
        let footer = godwit_image::Footer::of_pack(bytes, &record.footer).unwrap();
        assert_eq!(footer.frames, record.frames);
    }
}
