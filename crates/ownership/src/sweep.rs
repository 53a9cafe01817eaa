//! The collector's decision about one checkpoint that has a manifest, is old (≥ T), and has no entry in the log.
//!
//! ```text
//! PUT tombstone{orphan} ─► read the log ─┬─ an entry names it ─► withdraw the tombstone ─► Kept
//!                                        └─ none ─────────────► delete its objects ─────► Deleted
//! ```
//! Store-then-load on both sides: the writer of an entry reads the tombstone *after* its entry, the collector reads the log *after*
//! its tombstone, so one of them sees the other. A tombstone of another sweep that may still be at work is left alone: it could
//! delete after we withdrew.

use std::collections::BTreeSet;

use godwit_types::CheckpointId;

use crate::machine::Read;
use crate::rules::{Rule, Rules};

/// What is known of a candidate's tombstone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tombstone {
    /// There is none.
    None,
    /// One of a sweep that began less than T ago and is not this one: it may still be at work.
    Fresh,
    /// One of a sweep that cannot be at work any more.
    Abandoned,
}

/// What the collector hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The first event.
    Begin,
    /// The tombstone's create-only PUT: `Known(true)` created, `Known(false)` another sweep has one.
    Tombstone(Read<bool>),
    /// Whether any entry of the lineage names the checkpoint as committed or offered or stopped.
    Named(Read<bool>),
    /// Deletion or withdrawal is complete; `false`: not, a later sweep goes on.
    Done(bool),
}

/// What the collector does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Create `tombstone` with `reason: orphan`.
    PutTombstone(CheckpointId),
    /// Read the whole log of its lineage.
    ReadLog(CheckpointId),
    /// Take the tombstone back.
    Withdraw(CheckpointId),
    /// Delete manifest first, then the rest, tombstone last.
    Delete(CheckpointId),
    /// Nothing follows.
    Finished(Swept),
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Swept {
    /// It stays.
    Kept,
    /// It is gone.
    Deleted,
    /// Undecided: a later sweep finishes it.
    Later,
}

/// The decision about one candidate. It must end within T/2 of its tombstone, or be dropped: its tombstone then stays for a later
/// sweep.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sweep {
    rules: Rules,
    checkpoint: CheckpointId,
    step: Step,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    New(Tombstone),
    /// Only without [`Rule::TombstoneFirst`].
    ReadingFirst,
    Putting,
    Reading,
    Acting(Swept),
}

impl Sweep {
    /// About this checkpoint, whose tombstone was found so.
    #[must_use]
    pub fn new(checkpoint: CheckpointId, found: Tombstone) -> Self {
        Self { rules: Rules::ALL, checkpoint, step: Step::New(found) }
    }

    #[cfg(test)]
    pub(crate) fn under(rules: Rules, checkpoint: CheckpointId, found: Tombstone) -> Self {
        Self { rules, ..Self::new(checkpoint, found) }
    }

    /// Takes one event and says what to do.
    pub fn step(&mut self, event: Event) -> Vec<Action> {
        let checkpoint = self.checkpoint;
        match (self.step, event) {
            (Step::New(Tombstone::Fresh), Event::Begin)
                if self.rules.hold(Rule::FreshTombstones) =>
            {
                later()
            }
            (Step::New(Tombstone::Fresh | Tombstone::Abandoned), Event::Begin) => {
                self.goes(Step::Reading, Action::ReadLog(checkpoint))
            }
            (Step::New(Tombstone::None), Event::Begin) => {
                if self.rules.hold(Rule::TombstoneFirst) {
                    return self.goes(Step::Putting, Action::PutTombstone(checkpoint));
                }
                self.goes(Step::ReadingFirst, Action::ReadLog(checkpoint))
            }
            (Step::Putting, Event::Tombstone(Read::Known(true))) => {
                let next = if self.rules.hold(Rule::TombstoneFirst) {
                    (Step::Reading, Action::ReadLog(checkpoint))
                } else {
                    (Step::Acting(Swept::Deleted), Action::Delete(checkpoint))
                };
                self.goes(next.0, next.1)
            }
            (Step::Reading, Event::Named(Read::Known(true))) => {
                self.goes(Step::Acting(Swept::Kept), Action::Withdraw(checkpoint))
            }
            (Step::Reading, Event::Named(Read::Known(false))) => {
                self.goes(Step::Acting(Swept::Deleted), Action::Delete(checkpoint))
            }
            (Step::ReadingFirst, Event::Named(Read::Known(false))) => {
                self.goes(Step::Putting, Action::PutTombstone(checkpoint))
            }
            (Step::ReadingFirst, Event::Named(Read::Known(true))) => {
                vec![Action::Finished(Swept::Kept)]
            }
            (Step::Acting(swept), Event::Done(true)) => vec![Action::Finished(swept)],
            (_, Event::Begin) => vec![],
            _ => later(),
        }
    }

    fn goes(&mut self, step: Step, action: Action) -> Vec<Action> {
        self.step = step;
        vec![action]
    }
}

fn later() -> Vec<Action> {
    vec![Action::Finished(Swept::Later)]
}

/// What a sweep may delete: unmarked when the earlier candidate list was written (at least T ago, which the caller checks), and
/// still unmarked now.
#[must_use]
pub fn doomed<K: Ord + Clone>(listed: &BTreeSet<K>, unmarked: &BTreeSet<K>) -> BTreeSet<K> {
    listed.intersection(unmarked).cloned().collect()
}
