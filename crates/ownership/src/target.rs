//! The agent's side of a start that needs the log's word: restore, fork, or a cold start of a pod with a lineage.
//!
//! ```text
//! newest entry ─► plan ([`plan`]) ─┬─ refuse ─► Abort
//!      ▲                           ├─ write the death of an earlier life (stop, end) ─┐
//!      └───────────────────────────┼────────────────────────────────────────────────┘
//!                                  ├─ cold ───────────────────────────────────────────────► Commit
//!                                  └─ continue ─► Check ─► Prepare ─► Plan ─► Held ─► newest, still the same ─► Commit
//! Commit ─► Committing (the fence has the slot) ─► [`crate::claiming`] ─┬─ won ──► Resume ─► Resumed
//!                                                                      └─ lost ─► Abort
//! ```
//! **`Commit` is the point after which only a settled slot ends the attempt**; before it nothing has been written that names this pod.

mod plan;

use godwit_types::{CheckpointId, OpId, Seq};

use crate::admit::Refusal;
use crate::claiming::{Claim, Claiming};
use crate::entry::{Basis, Entry, Pen};
use crate::fence::LineageRef;
use crate::machine::{Action, Ending, Event, Machine, Presence, Put, Read, Timer};
use crate::message::{Ask, OnFailure, ToAgent, ToShim};
use crate::rules::{Rule, Rules};
use crate::state::{ColdReason, Kind};

use plan::Next;

/// What a start is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub struct TargetSpec {
    /// The owner that it becomes (node identity of the agent, pod and incarnation of [`TargetSpec::ask`]), operation, nonce.
    pub pen: Pen,
    /// The lineage: of the fence if there is one, else of the point that is asked for, else (fork) a new one.
    pub at: LineageRef,
    /// The shim's question.
    pub ask: Ask,
}

impl TargetSpec {
    /// The attempt.
    #[must_use]
    pub fn op(&self) -> OpId {
        self.ask.op
    }
}

/// A start, seen from the agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub struct Target {
    rules: Rules,
    spec: TargetSpec,
    step: Step,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
enum Step {
    New,
    ReadingNewest,
    /// An earlier life's last point: is it there?
    CheckingDeath {
        checkpoint: CheckpointId,
        basis: Basis,
    },
    /// The death is written.
    WritingDeath(Box<Entry>),
    /// Waiting before the log is read again.
    Waiting,
    /// The point to continue from: is it there?
    Checking {
        checkpoint: CheckpointId,
        basis: Basis,
    },
    Preparing(From),
    Restoring(From),
    /// The tasks are held: may they still be claimed?
    ReadingAgain(From),
    WaitingHeld(From),
    /// The point can never be restored: may the pod start from its image instead?
    ReadingForCold(CheckpointId),
    /// The shim puts the slot into the fence.
    Committing(Box<Entry>),
    Claiming(Claiming),
    /// The shim does it.
    Telling(Box<Ending>),
}

/// What is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
struct From {
    checkpoint: CheckpointId,
    /// The newest entry when it began. What is made ready meanwhile rests on it: volumes, connections.
    seen: Seq,
}

impl Target {
    /// A new one; its first event is [`Event::Begin`].
    #[must_use]
    pub fn new(spec: TargetSpec) -> Self {
        Self { rules: Rules::ALL, spec, step: Step::New }
    }

    #[cfg(test)]
    pub(crate) fn under(rules: Rules, spec: TargetSpec) -> Self {
        Self { rules, ..Self::new(spec) }
    }

    fn advance(&mut self, event: &Event) -> Vec<Action> {
        match (&mut self.step, event) {
            (Step::New, Event::Begin) | (Step::Waiting, Event::Timer(Timer::Retry)) => {
                self.goes(Step::ReadingNewest, Action::ReadNewest)
            }
            (Step::ReadingNewest, Event::Newest(Read::Known(newest))) => {
                let basis = Basis::of(newest.as_deref());
                self.follow(basis)
            }
            (Step::ReadingNewest | Step::ReadingForCold(_), Event::Newest(Read::Unavailable))
            | (
                Step::CheckingDeath { .. } | Step::Checking { .. },
                Event::Presence(Read::Unavailable),
            ) => self.abort(Refusal::StoreAway),
            (Step::CheckingDeath { checkpoint, basis }, Event::Presence(Read::Known(there))) => {
                let (checkpoint, basis) = (*checkpoint, basis.clone());
                self.on_last_point(checkpoint, &basis, *there)
            }
            (Step::WritingDeath(entry), Event::Put(Put::Conflict)) => {
                vec![Action::Put(entry.clone())]
            }
            (Step::WritingDeath(_), Event::Put(Put::NotWritten)) => {
                self.abort(Refusal::StoreRefuses)
            }
            (Step::WritingDeath(_), Event::Put(Put::Unknown)) => {
                self.goes(Step::Waiting, Action::Wait(Timer::Retry))
            }
            (Step::WritingDeath(_), Event::Put(_)) => {
                self.goes(Step::ReadingNewest, Action::ReadNewest)
            }
            (Step::Checking { checkpoint, basis }, Event::Presence(Read::Known(there))) => {
                let (checkpoint, basis) = (*checkpoint, basis.clone());
                self.on_point(checkpoint, &basis, *there)
            }
            _ => self.restore(event),
        }
    }

    /// From the point that is there to its entry.
    fn restore(&mut self, event: &Event) -> Vec<Action> {
        match (&mut self.step, event) {
            (Step::Preparing(from), Event::Prepared) => {
                let (from, checkpoint) = (*from, from.checkpoint);
                self.goes(Step::Restoring(from), Action::Tell(ToShim::Plan { checkpoint }))
            }
            (
                Step::Preparing(from) | Step::Restoring(from),
                Event::CannotRestore { never } | Event::Shim(ToAgent::RestoreFailed { never }),
            ) => {
                let checkpoint = from.checkpoint;
                self.cannot_restore(checkpoint, *never)
            }
            (Step::ReadingForCold(checkpoint), Event::Newest(Read::Known(newest))) => {
                let checkpoint = *checkpoint;
                let basis = Basis::of(newest.as_deref());
                self.cold(&basis, ColdReason::CannotRestore)
                    .unwrap_or_else(|_| self.abort(Refusal::CannotRestore { checkpoint }))
            }
            (Step::Restoring(from), Event::Shim(ToAgent::Held))
            | (Step::WaitingHeld(from), Event::Timer(Timer::Retry)) => {
                let from = *from;
                self.goes(Step::ReadingAgain(from), Action::ReadNewest)
            }
            (Step::ReadingAgain(from), Event::Newest(Read::Unavailable)) => {
                let from = *from;
                self.goes(Step::WaitingHeld(from), Action::Wait(Timer::Retry))
            }
            (Step::ReadingAgain(from), Event::Newest(Read::Known(newest))) => {
                let (from, newest) = (*from, newest.clone());
                self.claim(from, newest.as_deref())
            }
            _ => self.commit(event),
        }
    }

    /// From the entry to the end.
    fn commit(&mut self, event: &Event) -> Vec<Action> {
        match (&mut self.step, event) {
            (Step::Committing(entry), Event::Shim(ToAgent::Committing)) => {
                let (claiming, actions) = Claiming::put(self.rules, entry.clone());
                self.step = Step::Claiming(claiming);
                actions
            }
            (Step::Claiming(claiming), event) => {
                let entry = Box::new(claiming.entry().clone());
                match claiming.step(event) {
                    Claim::Won => self.won(entry),
                    Claim::Lost(refusal) => self.abort(refusal),
                    Claim::Open(actions) => actions,
                }
            }
            (Step::Telling(ending), Event::Shim(ToAgent::Resumed | ToAgent::Done)) => {
                vec![Action::Done((**ending).clone())]
            }
            _ => vec![],
        }
    }

    /// What the log as it is now means for this start.
    fn follow(&mut self, basis: Basis) -> Vec<Action> {
        let next = plan::next(&self.spec, &basis, self.rules);
        self.take(basis, next)
    }

    fn take(&mut self, basis: Basis, next: Next) -> Vec<Action> {
        match next {
            Next::Refuse(refusal) => self.abort(refusal),
            Next::Death(checkpoint) => {
                let step = Step::CheckingDeath { checkpoint, basis };
                self.goes(step, Action::Check(checkpoint))
            }
            Next::Write(kind) => self.write_death(&basis, kind),
            Next::Continue(checkpoint) => {
                let step = Step::Checking { checkpoint, basis };
                self.goes(step, Action::Check(checkpoint))
            }
            Next::Cold(reason) => {
                self.cold(&basis, reason).unwrap_or_else(|refusal| self.abort(refusal))
            }
            Next::Claim(kind) => {
                self.commit_to(&basis, kind).unwrap_or_else(|refusal| self.abort(refusal))
            }
            Next::AlreadyOurs(checkpoint) => self.prepare(checkpoint, basis.seq),
        }
    }

    fn on_last_point(
        &mut self,
        checkpoint: CheckpointId,
        basis: &Basis,
        there: Presence,
    ) -> Vec<Action> {
        match (there, basis.state.point_before(checkpoint)) {
            (Presence::Exists, _) => self.write_death(basis, Kind::died_at(checkpoint)),
            (Presence::Doubted, _) => self.goes(Step::Waiting, Action::Wait(Timer::Retry)),
            (Presence::Gone, Some(older)) => {
                let step = Step::CheckingDeath { checkpoint: older, basis: basis.clone() };
                self.goes(step, Action::Check(older))
            }
            (Presence::Gone, None) => self.no_point_left(basis),
        }
    }

    /// The earlier life died and left nothing to continue from.
    fn no_point_left(&mut self, basis: &Basis) -> Vec<Action> {
        if self.spec.ask.start.on_failure == OnFailure::Refuse && !self.spec.ask.consumed() {
            return self.abort(Refusal::NoPoint);
        }
        self.cold(basis, ColdReason::PointMissing).unwrap_or_else(|refusal| self.abort(refusal))
    }

    fn write_death(&mut self, basis: &Basis, kind: Kind) -> Vec<Action> {
        match basis.next(&self.spec.pen, kind) {
            Ok(entry) => {
                let entry = Box::new(entry);
                self.goes(Step::WritingDeath(entry.clone()), Action::Put(entry))
            }
            Err(refusal) => self.abort(refusal),
        }
    }

    fn on_point(
        &mut self,
        checkpoint: CheckpointId,
        basis: &Basis,
        there: Presence,
    ) -> Vec<Action> {
        let ask = &self.spec.ask;
        match there {
            Presence::Doubted => self.goes(Step::Waiting, Action::Wait(Timer::Retry)),
            Presence::Exists if !plan::continues(&self.spec, &basis.state) => {
                self.abort(Refusal::Stopped { checkpoint })
            }
            Presence::Exists if self.rules.hold(Rule::HoldFirst) => {
                self.prepare(checkpoint, basis.seq)
            }
            Presence::Exists => {
                let kind = plan::claim(ask, &basis.state, &self.spec.pen.me, checkpoint);
                kind.and_then(|kind| self.commit_to(basis, kind))
                    .unwrap_or_else(|refusal| self.abort(refusal))
            }
            Presence::Gone
                if self.rules.hold(Rule::ColdStopped)
                    && plan::may_give_up(&self.spec, &basis.state) =>
            {
                self.cold(basis, ColdReason::PointMissing)
                    .unwrap_or_else(|_| self.abort(Refusal::PointGone { checkpoint }))
            }
            Presence::Gone => {
                let gone = Next::Refuse(Refusal::PointGone { checkpoint });
                let next = plan::without(&self.spec, &basis.state, checkpoint).unwrap_or(gone);
                self.take(basis.clone(), next)
            }
        }
    }

    fn cannot_restore(&mut self, checkpoint: CheckpointId, never: bool) -> Vec<Action> {
        let ask = &self.spec.ask;
        if !never {
            return self.abort(Refusal::RestoreFailed { checkpoint });
        }
        if ask.start.on_failure == OnFailure::Cold && self.rules.hold(Rule::ColdStopped) {
            return self.goes(Step::ReadingForCold(checkpoint), Action::ReadNewest);
        }
        self.abort(Refusal::CannotRestore { checkpoint })
    }

    /// The tasks are held: the take-over is built on the newest entry, which must still be the one from which they were made ready. One
    /// that offers the same point again says that somebody has run it since: its peers have heard more than the point knows.
    fn claim(&mut self, from: From, newest: Option<&Entry>) -> Vec<Action> {
        let basis = Basis::of(newest);
        let ask = &self.spec.ask;
        if !self.rules.hold(Rule::TakeOver) || self.ours_already(&basis) {
            let newest = newest.cloned().map(Box::new);
            return newest.map_or_else(Vec::new, |entry| self.resume(entry));
        }
        let entry = plan::claim(ask, &basis.state, &self.spec.pen.me, from.checkpoint)
            .and_then(|kind| basis.next(&self.spec.pen, kind));
        match entry {
            Err(refusal) => self.abort(refusal),
            Ok(_) if basis.seq != from.seen && self.rules.hold(Rule::SameEntry) => {
                self.abort(Refusal::Overtaken)
            }
            Ok(entry) => self.commit_with(entry),
        }
    }

    fn prepare(&mut self, checkpoint: CheckpointId, seen: Seq) -> Vec<Action> {
        self.goes(Step::Preparing(From { checkpoint, seen }), Action::Prepare(checkpoint))
    }

    fn ours_already(&self, basis: &Basis) -> bool {
        matches!(plan::next(&self.spec, basis, self.rules), Next::AlreadyOurs(_))
    }

    fn cold(&mut self, basis: &Basis, reason: ColdReason) -> Result<Vec<Action>, Refusal> {
        let before = &self.spec.ask.start.before;
        let kind =
            Kind::Cold { container: before.container.clone(), reason, lived_s: before.lived_s };
        self.commit_to(basis, kind)
    }

    fn commit_to(&mut self, basis: &Basis, kind: Kind) -> Result<Vec<Action>, Refusal> {
        let entry = basis.next(&self.spec.pen, kind)?;
        Ok(self.commit_with(entry))
    }

    fn commit_with(&mut self, entry: Entry) -> Vec<Action> {
        let entry = Box::new(entry);
        let message = ToShim::Commit { at: self.spec.at.clone(), entry: entry.clone() };
        self.goes(Step::Committing(entry), Action::Tell(message))
    }

    fn won(&mut self, entry: Box<Entry>) -> Vec<Action> {
        match &entry.kind {
            Kind::TakeOver { checkpoint, .. } if !self.rules.hold(Rule::HoldFirst) => {
                self.prepare(*checkpoint, entry.seq)
            }
            _ => self.resume(entry),
        }
    }

    fn resume(&mut self, entry: Box<Entry>) -> Vec<Action> {
        let ending = Ending::Resumed(entry.clone());
        self.tells(ToShim::Resume { entry }, ending)
    }

    fn abort(&mut self, why: Refusal) -> Vec<Action> {
        let ending = Ending::Refused(why.clone());
        self.tells(ToShim::Abort { why }, ending)
    }

    fn tells(&mut self, message: ToShim, ending: Ending) -> Vec<Action> {
        self.goes(Step::Telling(Box::new(ending)), Action::Tell(message))
    }

    fn goes(&mut self, step: Step, action: Action) -> Vec<Action> {
        self.step = step;
        vec![action]
    }
}

impl Machine for Target {
    fn step(&mut self, event: Event) -> Vec<Action> {
        let event = event.doubted(self.spec.ask.fence.as_ref(), self.rules);
        match &event {
            Event::Ended => vec![Action::Done(Ending::Detached)],
            Event::Shim(ToAgent::Aborted) => {
                vec![Action::Done(Ending::Refused(Refusal::Interrupted))]
            }
            Event::Shim(ToAgent::Refused(refusal)) => {
                vec![Action::Done(Ending::Refused(refusal.clone()))]
            }
            event => self.advance(event),
        }
    }
}

#[cfg(test)]
mod tests;
