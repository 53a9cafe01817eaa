use std::collections::BTreeSet;
use std::sync::Mutex;

use godwit_image::{BlockNumber, KnownDigests, PageDigest, Space, StoredDigests};
use proptest::prelude::*;

use super::*;
use crate::fixture::{Memory, Reader, Shelf, arena, expected, play, read_back, registry};
use crate::{Assembly, Layout, Mode, PageServer, Parent, assemble};

/// One task with these pages, as a checkpoint on top of another.
pub(super) fn checkpoint(
    memory: &Memory,
    shelf: &Arc<Shelf>,
    parent: Option<(&BTreeMap<Space, SpaceHead>, &Arc<PackRegistry>)>,
    id: u128,
) -> (BTreeMap<Space, SpaceHead>, Arc<PackRegistry>, u64) {
    let (server, criu) = PageServer::start(arena(24), Mode::Keep).unwrap();
    play(criu, memory, Layout::Bytes32, 256);
    let received = server.finish().unwrap();
    let packs = registry(id, parent.map(|(_, r)| &**r));
    let reader = parent.map(|(_, r)| Reader::new(shelf, r));
    let known = parent.zip(reader.as_ref());
    let assembly = Assembly {
        received: &received,
        baselines: None,
        parent: known.map(|((spaces, _), frames)| Parent { spaces, frames }),
        laziness: &BTreeMap::new(),
        packs: &packs,
        sink: Arc::clone(shelf) as _,
        threads: 1,
        stop: &Stop::new(),
    };
    let out = assemble(&assembly).unwrap();
    (out.spaces, packs, out.stats.stored)
}

fn task(pages: impl IntoIterator<Item = (u64, u32)>) -> Memory {
    let pages = pages.into_iter().map(|(p, seed)| (p, (seed, true)));
    BTreeMap::from([(Space::Task(1), pages.collect())])
}

pub(super) fn run(
    spaces: &mut BTreeMap<Space, SpaceHead>,
    packs: &Arc<PackRegistry>,
    shelf: &Arc<Shelf>,
    increment: u64,
    others: &FrameUsage,
) -> Compacted {
    let reader = Reader::new(shelf, packs);
    read_through(&reader, spaces, packs, shelf, increment, others).unwrap()
}

fn read_through(
    frames: &dyn FrameSource,
    spaces: &mut BTreeMap<Space, SpaceHead>,
    packs: &Arc<PackRegistry>,
    shelf: &Arc<Shelf>,
    increment: u64,
    others: &FrameUsage,
) -> Result<Compacted, CaptureError> {
    let mut request = Compaction {
        spaces: spaces.values_mut().collect(),
        others,
        frames,
        packs,
        sink: Arc::clone(shelf) as _,
        increment: Bytes(increment),
        stop: &Stop::new(),
    };
    compact(&mut request)
}

/// Frames of which some cannot be had.
struct Flaky {
    reader: Reader,
    fails: BTreeMap<FrameRef, Code>,
    asked: Mutex<Vec<FrameRef>>,
}

impl Flaky {
    fn new(shelf: &Arc<Shelf>, packs: &PackRegistry, fails: BTreeMap<FrameRef, Code>) -> Self {
        Self { reader: Reader::new(shelf, packs), fails, asked: Mutex::default() }
    }
}

impl FrameSource for Flaky {
    fn frame(&self, frame: FrameRef) -> Result<Vec<u8>, SinkError> {
        self.asked.lock().unwrap().push(frame);
        match self.fails.get(&frame) {
            Some(code) => Err(SinkError::new(*code, "read a frame")),
            None => self.reader.frame(frame),
        }
    }
}

fn usage_of(spaces: &BTreeMap<Space, SpaceHead>) -> FrameUsage {
    let mut usage = FrameUsage::default();
    spaces.values().for_each(|s| s.map.count_usage(&mut usage));
    usage
}

/// The frames of earlier checkpoints that are in use.
fn old(spaces: &BTreeMap<Space, SpaceHead>, packs: &PackRegistry) -> Vec<FrameRef> {
    usage_of(spaces).iter().map(|(f, _)| f).filter(|f| !packs.is_own(f.pack)).collect()
}

/// A checkpoint and an increment that left only every 16th page of the old frames in use.
fn sparse() -> (Arc<Shelf>, Memory, BTreeMap<Space, SpaceHead>, Arc<PackRegistry>) {
    sparser(16)
}

/// The same with every n-th page.
fn sparser(n: u64) -> (Arc<Shelf>, Memory, BTreeMap<Space, SpaceHead>, Arc<PackRegistry>) {
    let shelf = Arc::new(Shelf::default());
    let before = task((0..1024).map(|p| (p, p as u32 + 1)));
    let (spaces, packs, _) = checkpoint(&before, &shelf, None, 1);
    let now = task((0..1024).map(|p| (p, if p % n == 0 { p as u32 + 1 } else { p as u32 + 9000 })));
    let (spaces, packs, _) = checkpoint(&now, &shelf, Some((&spaces, &packs)), 2);
    (shelf, now, spaces, packs)
}

fn old_frames(spaces: &BTreeMap<Space, SpaceHead>, packs: &PackRegistry) -> usize {
    old(spaces, packs).len()
}

#[test]
fn sparse_frames_are_rewritten_and_memory_reads_back_the_same() {
    let (shelf, now, mut spaces, packs) = sparse();
    assert_eq!(old_frames(&spaces, &packs), 32);
    let done = run(&mut spaces, &packs, &shelf, 100 << 20, &FrameUsage::default());
    assert_eq!((done.frames, done.pages), (32, 64));
    assert_eq!(old_frames(&spaces, &packs), 0);
    let reader = Reader::new(&shelf, &packs);
    let task = Space::Task(1);
    assert_eq!(read_back(&spaces[&task], &reader), expected(&now[&task]));
}

#[test]
fn no_more_than_a_tenth_of_the_increment_is_rewritten() {
    let (shelf, _, mut spaces, packs) = sparse();
    // Two pages of each frame are used.
    let frame = 2 * PAGE as u64;
    let none = run(&mut spaces, &packs, &shelf, 10 * frame - 10, &FrameUsage::default());
    assert_eq!(none, Compacted::default());
    let some = run(&mut spaces, &packs, &shelf, 30 * frame, &FrameUsage::default());
    assert_eq!((some.frames, some.pages), (3, 6));
}

#[test]
fn a_pack_of_which_little_is_used_is_rewritten_whole_or_not_at_all() {
    let shelf = Arc::new(Shelf::default());
    let before = task((0..1024).map(|p| (p, p as u32 + 1)));
    let (spaces, packs, _) = checkpoint(&before, &shelf, None, 1);
    // Four of its 32 frames, each of them fully used.
    let now = task((0..1024).map(|p| (p, if p < 128 { p as u32 + 1 } else { p as u32 + 9000 })));
    let (mut spaces, packs, _) = checkpoint(&now, &shelf, Some((&spaces, &packs)), 2);
    let all = 128 * PAGE as u64;
    // Half of each page is noise: what is stored cannot be less than half.
    let none = run(&mut spaces, &packs, &shelf, 5 * all - 10, &FrameUsage::default());
    assert_eq!(none, Compacted::default());
    let whole = run(&mut spaces, &packs, &shelf, 10 * all, &FrameUsage::default());
    assert_eq!((whole.frames, whole.pages), (4, 128));
    assert_eq!(old_frames(&spaces, &packs), 0);
}

#[test]
fn frames_that_something_else_uses_stay() {
    let (shelf, _, mut spaces, packs) = sparse();
    let mut others = FrameUsage::default();
    let kept = old(&spaces, &packs)[0];
    others.add(kept, 1);
    let done = run(&mut spaces, &packs, &shelf, 100 << 20, &others);
    assert_eq!(done.frames, 31);
    assert_eq!(usage_of(&spaces).of_frame(kept), 2);
}

#[test]
fn a_pack_in_which_something_else_has_a_frame_of_its_own_is_not_rewritten_whole() {
    let shelf = Arc::new(Shelf::default());
    let before = task((0..1024).map(|p| (p, p as u32 + 1)));
    let (spaces, packs, _) = checkpoint(&before, &shelf, None, 1);
    let unused = |from: &BTreeMap<Space, SpaceHead>| old(from, &registry(9, Some(&packs)));
    let all = unused(&spaces);
    let now = task((0..1024).map(|p| (p, if p < 128 { p as u32 + 1 } else { p as u32 + 9000 })));
    let (mut spaces, packs, _) = checkpoint(&now, &shelf, Some((&spaces, &packs)), 2);
    let mut others = FrameUsage::default();
    others.add(*all.last().unwrap(), 1);
    let done = run(&mut spaces, &packs, &shelf, 100 << 20, &others);
    assert_eq!(done, Compacted::default(), "the pack stays anyway, and its frames are well used");
}

#[test]
fn sparse_frames_of_a_pack_for_which_there_is_no_room_are_rewritten_alone() {
    let shelf = Arc::new(Shelf::default());
    let before = task((0..1024).map(|p| (p, p as u32 + 1)));
    let (spaces, packs, _) = checkpoint(&before, &shelf, None, 1);
    // Six frames that are used fully, one of which two pages are.
    let stays = |p: u64| p < 192 || (192..194).contains(&p);
    let now = task((0..1024).map(|p| (p, p as u32 + if stays(p) { 1 } else { 9000 })));
    let (mut spaces, packs, _) = checkpoint(&now, &shelf, Some((&spaces, &packs)), 2);
    let done = run(&mut spaces, &packs, &shelf, 10 * 20 * PAGE as u64, &FrameUsage::default());
    assert_eq!((done.frames, done.pages), (1, 2));
}

#[test]
fn no_more_is_read_than_twice_what_the_increment_has_stored() {
    let (shelf, _, mut spaces, packs) = sparser(32);
    let one = packs.table().locate(old(&spaces, &packs)[0]).unwrap().frame.stored;
    let reader = Flaky::new(&shelf, &packs, BTreeMap::new());
    // A tenth of it is room for one page of each frame, but the frames are too large to be read.
    let increment = 10 * 8 * PAGE as u64;
    let most = 2 * increment as usize / one as usize;
    let none = FrameUsage::default();
    let done = read_through(&reader, &mut spaces, &packs, &shelf, increment, &none).unwrap();
    assert!(done.frames > 0);
    assert!(reader.asked.lock().unwrap().len() <= most + 1);
}

#[test]
fn frames_that_are_damaged_or_missing_stay_and_the_others_are_rewritten() {
    let (shelf, now, mut spaces, packs) = sparse();
    let all = old(&spaces, &packs);
    let fails = BTreeMap::from([(all[3], Code::Corrupt), (all[20], Code::NotFound)]);
    let frames = Flaky::new(&shelf, &packs, fails);
    let none = FrameUsage::default();
    let done = read_through(&frames, &mut spaces, &packs, &shelf, 100 << 20, &none).unwrap();
    assert_eq!((done.frames, done.left), (30, 2));
    assert_eq!(old(&spaces, &packs), [all[3], all[20]]);
    let task = Space::Task(1);
    let reader = Reader::new(&shelf, &packs);
    assert_eq!(read_back(&spaces[&task], &reader), expected(&now[&task]));
}

#[test]
fn a_store_that_does_not_answer_is_not_asked_again_and_is_no_error() {
    let (shelf, _, mut spaces, packs) = sparse();
    let fails = old(&spaces, &packs).into_iter().map(|f| (f, Code::Unavailable)).collect();
    let frames = Flaky::new(&shelf, &packs, fails);
    let (before, none) = (spaces.clone(), FrameUsage::default());
    let done = read_through(&frames, &mut spaces, &packs, &shelf, 100 << 20, &none).unwrap();
    assert_eq!((done.frames, done.pages, done.stored), (0, 0, 0));
    assert_eq!(frames.asked.lock().unwrap().len(), 1);
    assert_eq!(spaces, before);
}

#[test]
fn a_cancel_ends_it_and_leaves_everything_as_it_was() {
    let (shelf, _, mut spaces, packs) = sparse();
    let (before, stop) = (spaces.clone(), Stop::new());
    stop.raise();
    let mut request = Compaction {
        spaces: spaces.values_mut().collect(),
        others: &FrameUsage::default(),
        frames: &Reader::new(&shelf, &packs),
        packs: &packs,
        sink: Arc::clone(&shelf) as _,
        increment: Bytes(100 << 20),
        stop: &stop,
    };
    assert!(matches!(compact(&mut request), Err(CaptureError::Cancelled)));
    assert_eq!(spaces, before);
}

#[test]
fn a_sink_that_takes_nothing_more_fails_the_checkpoint() {
    let (shelf, _, mut spaces, packs) = sparse();
    let full = Arc::new(Shelf { full_at: Some(0), ..Shelf::default() });
    let (frames, none) = (Reader::new(&shelf, &packs), FrameUsage::default());
    let failed = read_through(&frames, &mut spaces, &packs, &full, 100 << 20, &none);
    assert!(matches!(failed, Err(CaptureError::Write(_))));
}

/// A number that looks random.
fn mixed(of: [u64; 3]) -> u64 {
    let bytes: Vec<u8> = of.iter().flat_map(|n| n.to_le_bytes()).collect();
    u64::from_le_bytes(blake3::hash(&bytes).as_bytes()[..8].try_into().unwrap())
}

/// The memory after so many rounds: most pages change in most of them, and whether a page is eager changes too.
fn scrambled(seed: u64, round: u64) -> Memory {
    let last = |p| (0..=round).rev().find(|r| *r == 0 || mixed([seed, p, *r]) % 8 < 6);
    let contents = |p| 1 + p as u32 + 1000 * last(p).unwrap_or(0) as u32;
    let lazy = |p| !mixed([seed, p, 1000 + round]).is_multiple_of(4);
    let pages = (0..512).map(|p| (p, (contents(p), lazy(p))));
    BTreeMap::from([(Space::Task(1), pages.collect())])
}

/// No frame from this pack slot on holds both eager and lazy pages.
fn are_apart(space: &SpaceHead, packs: &PackRegistry) -> bool {
    let mut kinds: BTreeMap<FrameRef, BTreeSet<bool>> = BTreeMap::new();
    for run in space.map.runs() {
        let Some((frame, _)) = run.source.frame_offset() else { continue };
        let all = (run.range.first.0..run.range.end().0).map(PageNumber);
        kinds.entry(frame).or_default().extend(all.map(|p| contains(&space.eager, p)));
    }
    kinds.iter().all(|(frame, kinds)| !packs.is_own(frame.pack) || kinds.len() == 1)
}

fn digests_are_right(space: &SpaceHead, frames: &Reader) -> bool {
    let mut stored = StoredDigests::new(&space.digests, frames, BlockNumber(u64::MAX));
    read_back(space, frames).into_iter().all(|(page, bytes)| {
        let block = stored.block(BlockNumber::of(PageNumber(page))).unwrap().unwrap();
        block.digests.get(PageNumber(page)) == Some(PageDigest::of(&bytes))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn whatever_fails_every_page_and_digest_is_right_and_eager_pages_lie_apart(
        seed in any::<u64>(), rounds in 2u64..6, increment in prop::option::of(0u64..4 << 20),
    ) {
        let (shelf, task) = (Arc::new(Shelf::default()), Space::Task(1));
        let (mut spaces, mut packs, _) = checkpoint(&scrambled(seed, 0), &shelf, None, 1);
        for round in 1..=rounds {
            let now = scrambled(seed, round);
            let (next, registry, stored) =
                checkpoint(&now, &shelf, Some((&spaces, &packs)), u128::from(round) + 1);
            (spaces, packs) = (next, registry);
            let before = old(&spaces, &packs);
            let chance = |f: &FrameRef| mixed([seed, f.pack.0.into(), f.frame.into()]) % 16;
            let codes = [Code::Corrupt, Code::NotFound, Code::Unavailable];
            let fails = before.iter().filter_map(|f| Some((*f, *codes.get(chance(f) as usize)?)));
            let frames = Flaky::new(&shelf, &packs, fails.collect());
            let mut others = FrameUsage::default();
            before.iter().filter(|f| chance(f) == 7).for_each(|f| others.add(*f, 1));
            let increment = increment.unwrap_or(stored);
            let (kept, unread) = (others.clone(), frames.fails.clone());
            let done =
                read_through(&frames, &mut spaces, &packs, &shelf, increment, &others).unwrap();
            prop_assert!(done.stored <= increment / 10);
            let after = old(&spaces, &packs);
            let stays = |f: &FrameRef| kept.of_frame(*f) > 0 || unread.contains_key(f);
            prop_assert!(before.iter().filter(|f| stays(f)).all(|f| after.contains(f)));
            prop_assert_eq!(before.len() - after.len(), done.frames as usize);
            let (space, reader) = (&spaces[&task], Reader::new(&shelf, &packs));
            prop_assert_eq!(read_back(space, &reader), expected(&now[&task]));
            prop_assert!(digests_are_right(space, &reader));
            prop_assert!(are_apart(space, &packs));
        }
    }
}

#[test]
fn memory_that_is_well_used_is_left_alone() {
    let shelf = Arc::new(Shelf::default());
    let before = task((0..512).map(|p| (p, p as u32 + 1)));
    let (spaces, packs, _) = checkpoint(&before, &shelf, None, 1);
    let now = task((0..512).map(|p| (p, if p % 2 == 0 { p as u32 + 1 } else { p as u32 + 9000 })));
    let (mut spaces, packs, _) = checkpoint(&now, &shelf, Some((&spaces, &packs)), 2);
    let done = run(&mut spaces, &packs, &shelf, 1 << 30, &FrameUsage::default());
    assert_eq!(done, Compacted::default());
}
