//! The agent's side of a sealed pod: from the seal to running, stopped or taken over.
//!
//! ```text
//! settle the slot ─► read the newest entry ─┬─ names us, owned ────────► Unseal (also if the store refused the only PUT)
//!        ▲                                  ├─ offered by us ──► look, look, … reclaim timer ─► Hold ─► PUT reclaim ─┐
//!        │                                  ├─ stopped by us ──► manifest, no tombstone? ─┬─ yes ─► Stopped          │
//!        │                                  │                                             └─ no ──► Hold ─► PUT reclaim
//!        │                                  └─ names another ──────────► Moved                                        │
//!        └────────────────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//! Used by [`crate::Source`], which made the seal, and by [`crate::Look`], which found it. The point of no return is the verdict of
//! the slot, never an answer to a single PUT.

use crate::admit::Refusal;
use crate::entry::{Basis, Entry, Pen};
use crate::machine::{Action, Ending, Event, Presence, Read, Timer};
use crate::message::{ToAgent, ToShim};
use crate::rules::{Rule, Rules};
use crate::settle::{Settle, Verdict};
use crate::state::{Kind, State};

/// A sealed pod, seen from the agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Giving {
    rules: Rules,
    pen: Pen,
    reclaim_after: bool,
    cancelled: bool,
    /// The entry of the seal was never written: the seal is taken back.
    unwritten: bool,
    step: Step,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
enum Step {
    /// The seal's entry, or a reclaim after it.
    Settling(Settle),
    /// The newest entry decides.
    ReadingNewest,
    /// Offered; nothing is asked now. Timers run.
    Offered,
    /// Stopped; is its point there?
    Checking(Box<Entry>),
    /// The store did not answer a look.
    Waiting,
    /// The fence takes the slot of this reclaim.
    Holding(Box<Entry>),
    /// The shim does it.
    Telling(Box<Ending>),
}

impl Giving {
    /// The entry of the seal is PUT now.
    pub(crate) fn sealed(
        rules: Rules,
        entry: Box<Entry>,
        reclaim_after: bool,
        old: bool,
    ) -> (Self, Vec<Action>) {
        let pen = pen_of(&entry);
        let (settle, actions) = Settle::put(rules, entry, old);
        let step = Step::Settling(settle);
        (Self { rules, pen, reclaim_after, cancelled: false, unwritten: false, step }, actions)
    }

    /// A seal was found; what became of its entry is not known.
    pub(crate) fn found(
        rules: Rules,
        entry: Box<Entry>,
        reclaim_after: bool,
        old: bool,
    ) -> (Self, Vec<Action>) {
        let pen = pen_of(&entry);
        let (settle, actions) = Settle::read(rules, entry, old);
        let step = Step::Settling(settle);
        (Self { rules, pen, reclaim_after, cancelled: false, unwritten: false, step }, actions)
    }

    /// One event; [`Action::Done`] is the last action.
    pub(crate) fn step(&mut self, event: &Event) -> Vec<Action> {
        match event {
            Event::Ended | Event::Shim(ToAgent::Aborted | ToAgent::Refused(_)) => {
                vec![Action::Done(Ending::Detached)]
            }
            Event::Cancel => self.cancel(),
            Event::TooOld => self.too_old(),
            _ => self.advance(event),
        }
    }

    /// The pod is to go on here if it still can.
    pub(crate) fn cancel(&mut self) -> Vec<Action> {
        self.cancelled = true;
        match &mut self.step {
            Step::Settling(settle) => settle.take_back(),
            Step::Offered => return self.read_newest(),
            _ => {}
        }
        vec![]
    }

    fn too_old(&mut self) -> Vec<Action> {
        if let Step::Settling(settle) = &mut self.step {
            settle.too_old();
        }
        vec![]
    }

    fn advance(&mut self, event: &Event) -> Vec<Action> {
        match (&mut self.step, event) {
            (Step::Settling(settle), event) => match settle.step(event) {
                // What the pod is held by stands as it did.
                Ok(Verdict::NotWritten) if settle.entry().kind == Kind::Reclaim => self.waits(),
                Ok(verdict) => {
                    self.unwritten = verdict == Verdict::NotWritten;
                    self.read_newest()
                }
                Err(actions) => actions,
            },
            (Step::ReadingNewest, Event::Newest(Read::Known(Some(newest)))) => self.decide(newest),
            (Step::ReadingNewest, Event::Newest(_)) => self.waits(),
            (Step::Waiting, Event::Timer(Timer::Retry)) => self.read_newest(),
            (Step::Offered, Event::Timer(Timer::Look)) => self.read_newest(),
            (_, Event::Timer(Timer::Reclaim)) => self.on_reclaim_timer(),
            (Step::Checking(stop), Event::Presence(presence)) => {
                let stop = stop.clone();
                self.on_presence(stop, presence)
            }
            (Step::Holding(reclaim), Event::Shim(ToAgent::Done)) => {
                let reclaim = reclaim.clone();
                let (settle, actions) = Settle::put(self.rules, reclaim, false);
                self.step = Step::Settling(settle);
                actions
            }
            (Step::Telling(ending), Event::Shim(ToAgent::Done)) => {
                vec![Action::Done((**ending).clone())]
            }
            _ => vec![],
        }
    }

    /// The newest entry decides, whatever the slot held.
    fn decide(&mut self, newest: &Entry) -> Vec<Action> {
        match &newest.state {
            State::Owned { owner, .. } if *owner == self.pen.me => self.unseal(newest),
            State::Offered { owner, .. } if *owner == self.pen.me => self.offered(newest),
            State::Stopped { owner, checkpoint, .. } if *owner == self.pen.me => {
                let (checkpoint, stop) = (*checkpoint, Box::new(newest.clone()));
                if !self.rules.hold(Rule::CheckAfter) {
                    return self.stopped(stop);
                }
                self.step = Step::Checking(stop);
                vec![Action::Check(checkpoint)]
            }
            _ => self.moved(newest),
        }
    }

    fn offered(&mut self, newest: &Entry) -> Vec<Action> {
        if self.cancelled {
            return self.reclaim(newest);
        }
        if !self.rules.hold(Rule::KillAtTakeOver) {
            return self.stopped(Box::new(newest.clone()));
        }
        self.step = Step::Offered;
        let reclaim = self.reclaim_after.then_some(Action::Wait(Timer::Reclaim));
        self.reclaim_after = false; // once: the timer runs through all looks
        std::iter::once(Action::Wait(Timer::Look)).chain(reclaim).collect()
    }

    /// Nobody took it over in time. Read again before the reclaim: the entry must be built on the newest one.
    fn on_reclaim_timer(&mut self) -> Vec<Action> {
        self.cancelled = true;
        if self.step == Step::Offered { self.read_newest() } else { vec![] }
    }

    fn on_presence(&mut self, stop: Box<Entry>, presence: &Read<Presence>) -> Vec<Action> {
        match presence {
            Read::Known(Presence::Exists) => self.stopped(stop),
            Read::Known(_) if self.rules.hold(Rule::ReclaimStop) => self.reclaim(&stop),
            Read::Known(_) | Read::Unavailable => self.waits(),
        }
    }

    fn reclaim(&mut self, newest: &Entry) -> Vec<Action> {
        if !self.rules.hold(Rule::ReclaimSettles) {
            return self.unseal(newest);
        }
        match Basis::of(Some(newest)).next(&self.pen, Kind::Reclaim) {
            Ok(entry) => {
                let entry = Box::new(entry);
                self.step = Step::Holding(entry.clone());
                vec![Action::Tell(ToShim::Hold { entry })]
            }
            Err(_) => self.moved(newest),
        }
    }

    fn unseal(&mut self, newest: &Entry) -> Vec<Action> {
        let (entry, unwritten) = (Box::new(newest.clone()), self.unwritten);
        let ending = match unwritten {
            true => Ending::GivenUp(Refusal::StoreRefuses),
            false => Ending::Unsealed(entry.clone()),
        };
        self.tells(ToShim::Unseal { entry, unwritten }, ending)
    }

    fn stopped(&mut self, entry: Box<Entry>) -> Vec<Action> {
        self.tells(ToShim::Stopped { entry: entry.clone() }, Ending::Stopped(entry))
    }

    fn moved(&mut self, newest: &Entry) -> Vec<Action> {
        let entry = Box::new(newest.clone());
        self.tells(ToShim::Moved { entry: entry.clone() }, Ending::Moved(entry))
    }

    fn tells(&mut self, message: ToShim, ending: Ending) -> Vec<Action> {
        self.step = Step::Telling(Box::new(ending));
        vec![Action::Tell(message)]
    }

    fn read_newest(&mut self) -> Vec<Action> {
        self.step = Step::ReadingNewest;
        vec![Action::ReadNewest]
    }

    fn waits(&mut self) -> Vec<Action> {
        self.step = Step::Waiting;
        vec![Action::Wait(Timer::Retry)]
    }
}

fn pen_of(entry: &Entry) -> Pen {
    Pen { me: entry.by.clone(), op: entry.op, nonce: entry.nonce, at_ms: entry.at_ms }
}
