//! Whose is the slot: a PUT whose outcome may be unknown, followed until something holds the slot.
//!
//! Keeps: 404 never means "did not happen" (a late PUT may still land), so the slot is settled by PUTting the same bytes again, or
//! `reclaim` at the same position, until it holds something; or until the store has refused the only PUT there was. An offer or stop older than T/2 (its checkpoint may be collected by
//! now) is settled only by `reclaim`; a claim by its own bytes at any age.

use crate::entry::{Basis, Entry, Pen};
use crate::machine::{Action, Event, Put, Read, Timer};
use crate::rules::{Rule, Rules};
use crate::state::{Kind, StoppedTasks};

/// Who holds the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    /// The entry itself.
    Mine,
    /// Another entry of the same operation: it was taken back.
    TakenBack,
    /// Another writer.
    Lost,
    /// Nobody: nothing was written, and nothing of ours can land any more. Asked again it is tried again ([`Settle::again`]).
    NotWritten,
}

/// Follows one entry into its slot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Settle {
    rules: Rules,
    entry: Box<Entry>,
    /// What is PUT next: the entry, or its reclaim.
    take_back: bool,
    old: bool,
    /// A PUT may have landed, or may still.
    unsure: bool,
    step: Step,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
enum Step {
    /// PUT of the entry, or of its reclaim, is on its way.
    Putting { reclaim: bool },
    /// Reading what the slot holds.
    ReadingSlot,
    /// Reading what a PUT at the slot would be built on: is this the log that the entry is for?
    ReadingBasis,
    /// The slot may be free: PUT after a while.
    WaitingToPut,
    /// The store did not answer: read after a while.
    WaitingToRead,
}

impl Settle {
    /// PUTs the entry; the first action comes with it.
    pub(crate) fn put(rules: Rules, entry: Box<Entry>, old: bool) -> (Self, Vec<Action>) {
        let action = Action::Put(entry.clone());
        let step = Step::Putting { reclaim: false };
        (Self { rules, entry, take_back: false, old, unsure: false, step }, vec![action])
    }

    /// Settles what an earlier agent may have PUT: reads first.
    pub(crate) fn read(rules: Rules, entry: Box<Entry>, old: bool) -> (Self, Vec<Action>) {
        let action = Action::ReadSlot(entry.seq);
        let step = Step::ReadingSlot;
        (Self { rules, entry, take_back: false, old, unsure: true, step }, vec![action])
    }

    /// What is being settled.
    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }

    /// From now on a free slot is filled with `reclaim`, never with the entry.
    pub(crate) fn take_back(&mut self) {
        self.take_back = true;
    }

    /// T/2 has passed since the operation began.
    pub(crate) fn too_old(&mut self) {
        self.old = true;
    }

    /// One event; a verdict when the slot is settled.
    pub(crate) fn step(&mut self, event: &Event) -> Result<Verdict, Vec<Action>> {
        match (self.step, event) {
            (Step::Putting { reclaim }, Event::Put(put)) => self.on_put(reclaim, *put),
            (Step::ReadingSlot, Event::Slot(Read::Known(found))) => self.on_slot(found.as_deref()),
            (Step::ReadingBasis, Event::Newest(Read::Known(newest))) => {
                Err(self.on_basis(newest.as_deref()))
            }
            (Step::ReadingSlot, Event::Slot(Read::Unavailable))
            | (Step::ReadingBasis, Event::Newest(Read::Unavailable)) => {
                Err(self.goes(Step::WaitingToRead, Action::Wait(Timer::Retry)))
            }
            (Step::WaitingToRead, Event::Timer(Timer::Retry)) => Err(self.read_slot()),
            (Step::WaitingToPut, Event::Timer(Timer::Retry)) => {
                Err(self.goes(Step::ReadingBasis, Action::ReadNewest))
            }
            _ => Err(vec![]),
        }
    }

    fn on_put(&mut self, reclaim: bool, put: Put) -> Result<Verdict, Vec<Action>> {
        match put {
            Put::Created if reclaim => Ok(Verdict::TakenBack),
            Put::Created => Ok(Verdict::Mine),
            Put::Conflict => Err(self.put_again()),
            Put::Exists | Put::Unknown => {
                self.unsure = true;
                Err(self.read_slot())
            }
            Put::NotWritten if self.unsure && self.rules.hold(Rule::RefusedAlone) => {
                Err(self.again())
            }
            Put::NotWritten => Ok(Verdict::NotWritten),
        }
    }

    /// Waits, and PUTs again.
    pub(crate) fn again(&mut self) -> Vec<Action> {
        self.goes(Step::WaitingToPut, Action::Wait(Timer::Retry))
    }

    fn on_slot(&mut self, found: Option<&Entry>) -> Result<Verdict, Vec<Action>> {
        match found {
            Some(found) if found.is_attempt(&self.entry) => Ok(Verdict::Mine),
            Some(found) if found.same_writer(&self.entry) => Ok(Verdict::TakenBack),
            Some(_) => Ok(Verdict::Lost),
            None if self.rules.hold(Rule::Not404) => Err(self.again()),
            None => Ok(Verdict::TakenBack),
        }
    }

    fn put_again(&mut self) -> Vec<Action> {
        if self.must_take_back() {
            return self.goes(Step::ReadingBasis, Action::ReadNewest);
        }
        self.put_entry()
    }

    fn put_entry(&mut self) -> Vec<Action> {
        let entry = self.entry.clone();
        self.goes(Step::Putting { reclaim: false }, Action::Put(entry))
    }

    fn must_take_back(&self) -> bool {
        let gives_away = matches!(
            self.entry.kind,
            Kind::Offer { .. } | Kind::Stop { tasks: StoppedTasks::Sealed, .. }
        );
        gives_away && (self.take_back || self.old && self.rules.hold(Rule::OldReclaims))
    }

    fn on_basis(&mut self, newest: Option<&Entry>) -> Vec<Action> {
        let basis = Basis::of(newest);
        if basis.seq.next() < self.entry.seq && self.rules.hold(Rule::SameLog) {
            return self.goes(Step::WaitingToRead, Action::Wait(Timer::Retry));
        }
        if basis.seq < self.entry.seq && !self.must_take_back() {
            return self.put_entry();
        }
        self.put_reclaim(&basis)
    }

    fn put_reclaim(&mut self, basis: &Basis) -> Vec<Action> {
        let pen = Pen {
            me: self.entry.by.clone(),
            op: self.entry.op,
            nonce: self.entry.nonce,
            at_ms: self.entry.at_ms,
        };
        match basis.next(&pen, Kind::Reclaim) {
            Ok(reclaim) if reclaim.seq == self.entry.seq && self.must_take_back() => {
                self.goes(Step::Putting { reclaim: true }, Action::Put(Box::new(reclaim)))
            }
            _ => self.read_slot(),
        }
    }

    fn read_slot(&mut self) -> Vec<Action> {
        let seq = self.entry.seq;
        self.goes(Step::ReadingSlot, Action::ReadSlot(seq))
    }

    fn goes(&mut self, step: Step, action: Action) -> Vec<Action> {
        self.step = step;
        vec![action]
    }
}

#[cfg(test)]
mod tests;
