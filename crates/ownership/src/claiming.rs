//! The agent's side of an attempt that has come to its entry: may its tasks run?
//!
//! ```text
//! settle the slot ─► ours? ─► manifest, no tombstone? ─► does the newest entry still name us? ─► won
//!                     └─ no ─────────┴─ no ──────────────────────┴─ no ────────────────────────► lost, and why
//! ```
//! Used by [`crate::Target`], which began the attempt, and by [`crate::Look`], which found it. The newest entry is read last: a forced
//! take-over may stand above ours by now.

use godwit_types::CheckpointId;

use crate::admit::Refusal;
use crate::entry::Entry;
use crate::machine::{Action, Event, Presence, Read, Timer};
use crate::rules::{Rule, Rules};
use crate::settle::{Settle, Verdict};
use crate::state::Kind;

/// An attempt after its `Committing`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Claiming {
    rules: Rules,
    entry: Box<Entry>,
    step: Step,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
enum Step {
    Settling(Settle),
    Checking(CheckpointId),
    WaitingToCheck(CheckpointId),
    ReadingNewest,
    WaitingToRead,
}

/// How an attempt went.
pub(crate) enum Claim {
    /// Its tasks may run.
    Won,
    /// They may not.
    Lost(Refusal),
    /// Not known yet.
    Open(Vec<Action>),
}

impl Claiming {
    /// The entry is PUT now.
    pub(crate) fn put(rules: Rules, entry: Box<Entry>) -> (Self, Vec<Action>) {
        let (settle, actions) = Settle::put(rules, entry.clone(), false);
        (Self { rules, entry, step: Step::Settling(settle) }, actions)
    }

    /// The attempt was found; what became of its entry is not known.
    pub(crate) fn found(rules: Rules, entry: Box<Entry>) -> (Self, Vec<Action>) {
        let (settle, actions) = Settle::read(rules, entry.clone(), false);
        (Self { rules, entry, step: Step::Settling(settle) }, actions)
    }

    /// What is claimed.
    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }

    /// One event.
    pub(crate) fn step(&mut self, event: &Event) -> Claim {
        match (&mut self.step, event) {
            (Step::Settling(settle), event) => match settle.step(event) {
                Ok(Verdict::Mine) => self.settled(),
                Ok(Verdict::NotWritten) => Claim::Open(settle.again()),
                Ok(_) => Claim::Lost(Refusal::LostSlot),
                Err(actions) => Claim::Open(actions),
            },
            (Step::Checking(checkpoint), Event::Presence(presence)) => {
                let checkpoint = *checkpoint;
                self.on_presence(checkpoint, presence)
            }
            (Step::WaitingToCheck(checkpoint), Event::Timer(Timer::Retry)) => {
                let checkpoint = *checkpoint;
                self.goes(Step::Checking(checkpoint), Action::Check(checkpoint))
            }
            (Step::ReadingNewest, Event::Newest(newest)) => self.on_newest(newest),
            (Step::WaitingToRead, Event::Timer(Timer::Retry)) => self.read_newest(),
            _ => Claim::Open(vec![]),
        }
    }

    fn settled(&mut self) -> Claim {
        match continued(&self.entry.kind) {
            Some(checkpoint) => self.goes(Step::Checking(checkpoint), Action::Check(checkpoint)),
            None => self.read_newest(),
        }
    }

    fn on_presence(&mut self, checkpoint: CheckpointId, presence: &Read<Presence>) -> Claim {
        match presence {
            Read::Known(Presence::Exists) => self.read_newest(),
            Read::Known(Presence::Gone) => Claim::Lost(Refusal::PointGone { checkpoint }),
            Read::Known(Presence::Doubted) | Read::Unavailable => {
                self.goes(Step::WaitingToCheck(checkpoint), Action::Wait(Timer::Retry))
            }
        }
    }

    fn read_newest(&mut self) -> Claim {
        if !self.rules.hold(Rule::NewestDecides) {
            return Claim::Won;
        }
        self.goes(Step::ReadingNewest, Action::ReadNewest)
    }

    fn on_newest(&mut self, newest: &Read<Option<Box<Entry>>>) -> Claim {
        match newest {
            Read::Known(Some(newest)) if newest.seq >= self.entry.seq => self.on_named(newest),
            // The slot is settled: a log that has not come so far is not the one.
            Read::Known(_) | Read::Unavailable => {
                self.goes(Step::WaitingToRead, Action::Wait(Timer::Retry))
            }
        }
    }

    fn on_named(&self, newest: &Entry) -> Claim {
        if newest.state.lets_run(&self.entry.by) {
            return Claim::Won;
        }
        let node = newest.state.owner().map_or_else(String::new, |owner| owner.node.clone());
        Claim::Lost(Refusal::NotOwner { node })
    }

    fn goes(&mut self, step: Step, action: Action) -> Claim {
        self.step = step;
        Claim::Open(vec![action])
    }
}

/// The point that the held tasks were restored from.
fn continued(kind: &Kind) -> Option<CheckpointId> {
    match kind {
        Kind::TakeOver { checkpoint, .. } => Some(*checkpoint),
        Kind::Start { forked_from: Some(fork) } => Some(fork.checkpoint),
        _ => None,
    }
}
