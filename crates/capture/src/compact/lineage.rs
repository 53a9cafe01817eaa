//! A long lineage: what compaction is for.

use godwit_image::{PackTable, Space};
use godwit_types::{CheckpointId, Reads};

use super::tests::{checkpoint, run};
use super::*;
use crate::fixture::{Memory, Reader, Shelf, expected, read_back};

/// Increments of the lineage.
const ROUNDS: u64 = 30;
const PAGES: u64 = 1024;
const TASK: Space = Space::Task(1);

/// A program that writes nearly all of its memory between two checkpoints. In each round one page of 64 is written for
/// the last time, so what a round stored is garbage after the next one but for a few pages in every frame.
fn memory(round: u64) -> Memory {
    let contents = |p: u64| 1 + p as u32 + 10_000 * round.min(p % 64) as u32;
    BTreeMap::from([(TASK, (0..PAGES).map(|p| (p, (contents(p), p % 5 > 0))).collect())])
}

/// A lineage on a shelf.
struct Lineage {
    shelf: Arc<Shelf>,
    spaces: BTreeMap<Space, SpaceHead>,
    table: PackTable,
    written: u64,
    rewritten: u64,
}

impl Lineage {
    fn begin() -> Self {
        let shelf = Arc::new(Shelf::default());
        let (spaces, packs, _) = checkpoint(&memory(0), &shelf, None, 1);
        Self { shelf, spaces, table: packs.table(), written: 0, rewritten: 0 }
    }

    fn increment(&mut self, round: u64, compacts: bool) {
        let id = u128::from(round) + 1;
        let parent = PackRegistry::new(CheckpointId::from(id - 1), self.table.clone());
        let (spaces, packs, stored) =
            checkpoint(&memory(round), &self.shelf, Some((&self.spaces, &parent)), id);
        self.spaces = spaces;
        self.written += stored;
        if compacts {
            let others = FrameUsage::default();
            let done = run(&mut self.spaces, &packs, &self.shelf, stored, &others);
            self.rewritten += done.stored;
        }
        // As the head's table is made.
        let mut usage = self.pages();
        self.spaces.values().for_each(|s| s.digests.count_usage(&mut usage));
        self.table = packs.table();
        self.table.retain(&usage);
        let reader = Reader {
            shelf: Arc::clone(&self.shelf),
            table: self.table.clone(),
            reads: Default::default(),
        };
        assert_eq!(read_back(&self.spaces[&TASK], &reader), expected(&memory(round)[&TASK]));
    }

    fn pages(&self) -> FrameUsage {
        let mut usage = FrameUsage::default();
        self.spaces.values().for_each(|s| s.map.count_usage(&mut usage));
        usage
    }

    fn reads(&self) -> Reads {
        self.table.reads(&self.pages())
    }

    /// Checkpoints whose packs the newest one needs.
    fn sources(&self) -> usize {
        let mut ids: Vec<CheckpointId> =
            self.table.iter().map(|(_, record)| record.name.checkpoint).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.len()
    }
}

#[test]
fn read_amplification_stays_bounded_over_a_long_lineage_and_grows_without() {
    let (mut with, mut without) = (Lineage::begin(), Lineage::begin());
    for round in 1..=ROUNDS {
        with.increment(round, true);
        without.increment(round, false);
        let bounded = with.reads().amplification();
        assert!(bounded < 2.0, "{bounded} after {round} increments");
    }
    let grown = without.reads().amplification();
    assert!(grown > 6.0, "{grown}");
    assert!(with.rewritten > 0 && with.rewritten <= with.written / 10);
    assert_eq!(without.sources(), ROUNDS as usize + 1, "every one is kept for a few pages");
}

#[test]
fn packs_of_which_every_frame_was_rewritten_are_needed_no_longer() {
    let mut lineage = Lineage::begin();
    lineage.increment(1, true);
    lineage.increment(2, true);
    let first = |t: &PackTable| {
        t.iter().filter(|(_, r)| r.name.checkpoint == CheckpointId::from(1)).count()
    };
    assert_eq!(first(&lineage.table), 0, "nothing of the full checkpoint is used any more");
}
