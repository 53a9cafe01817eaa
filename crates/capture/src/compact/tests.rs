use godwit_image::Space;

use super::*;
use crate::fixture::{Memory, Reader, Shelf, arena, expected, play, read_back, registry};
use crate::{Assembly, Layout, Mode, PageServer, Parent, assemble};

/// One task with these pages, as a checkpoint on top of another.
fn checkpoint(
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

fn run(
    spaces: &mut BTreeMap<Space, SpaceHead>,
    packs: &Arc<PackRegistry>,
    shelf: &Arc<Shelf>,
    increment: u64,
    others: &FrameUsage,
) -> Compacted {
    let reader = Reader::new(shelf, packs);
    let mut request = Compaction {
        spaces: spaces.values_mut().collect(),
        others,
        frames: &reader,
        packs,
        sink: Arc::clone(shelf) as _,
        increment: Bytes(increment),
        stop: &Stop::new(),
    };
    compact(&mut request).unwrap()
}

/// A checkpoint and an increment that left only every 16th page of the old frames in use.
fn sparse() -> (Arc<Shelf>, Memory, BTreeMap<Space, SpaceHead>, Arc<PackRegistry>) {
    let shelf = Arc::new(Shelf::default());
    let before = task((0..1024).map(|p| (p, p as u32 + 1)));
    let (spaces, packs, _) = checkpoint(&before, &shelf, None, 1);
    let now =
        task((0..1024).map(|p| (p, if p % 16 == 0 { p as u32 + 1 } else { p as u32 + 9000 })));
    let (spaces, packs, _) = checkpoint(&now, &shelf, Some((&spaces, &packs)), 2);
    (shelf, now, spaces, packs)
}

fn old_frames(spaces: &BTreeMap<Space, SpaceHead>, packs: &PackRegistry) -> usize {
    let mut usage = FrameUsage::default();
    spaces.values().for_each(|s| s.map.count_usage(&mut usage));
    usage.iter().filter(|(f, _)| !packs.is_own(f.pack)).count()
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
    let none = run(&mut spaces, &packs, &shelf, 10 * all - 10, &FrameUsage::default());
    assert_eq!(none, Compacted::default());
    let whole = run(&mut spaces, &packs, &shelf, 10 * all, &FrameUsage::default());
    assert_eq!((whole.frames, whole.pages), (4, 128));
    assert_eq!(old_frames(&spaces, &packs), 0);
}

#[test]
fn frames_that_something_else_uses_stay() {
    let (shelf, _, mut spaces, packs) = sparse();
    let mut others = FrameUsage::default();
    let mut usage = FrameUsage::default();
    spaces.values().for_each(|s| s.map.count_usage(&mut usage));
    let kept = usage.iter().map(|(f, _)| f).find(|f| !packs.is_own(f.pack)).unwrap();
    others.add(kept, 1);
    let done = run(&mut spaces, &packs, &shelf, 100 << 20, &others);
    assert_eq!(done.frames, 31);
    let mut usage = FrameUsage::default();
    spaces.values().for_each(|s| s.map.count_usage(&mut usage));
    assert_eq!(usage.of_frame(kept), 2);
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
