//! The agent's side of a start that needs the log's word: restore, fork, or a cold start of a pod with a lineage.
//!
//! ```text
//! newest entry ─► plan ([`plan`]) ─┬─ refuse ─► Abort
//!      ▲                           ├─ write the death of an earlier life (stop, end) ─┐
//!      └───────────────────────────┼────────────────────────────────────────────────┘
//!                                  ├─ cold ───────────────────────────────────────────────► Commit
//!                                  └─ continue ─► Check ─► Prepare ─► Plan ─► Held ─► newest, again ─► Commit
//! Commit ─► Committing (the fence has the slot) ─► [`crate::claiming`] ─┬─ won ──► Resume ─► Resumed
//!                                                                      └─ lost ─► Abort
//! ```
//! **`Commit` is the point after which only a settled slot ends the attempt**; before it nothing has been written that names this pod.

mod plan;

use godwit_types::{CheckpointId, OpId};

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
    Preparing(CheckpointId),
    Restoring(CheckpointId),
    /// The tasks are held: may they still be claimed?
    ReadingAgain(CheckpointId),
    WaitingHeld(CheckpointId),
    /// The point can never be restored: may the pod start from its image instead?
    ReadingForCold(CheckpointId),
    /// The shim puts the slot into the fence.
    Committing(Box<Entry>),
    Claiming(Claiming),
    /// The shim does it.
    Telling(Box<Ending>),
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
            (Step::Preparing(checkpoint), Event::Prepared) => {
                let checkpoint = *checkpoint;
                self.goes(Step::Restoring(checkpoint), Action::Tell(ToShim::Plan { checkpoint }))
            }
            (
                Step::Preparing(checkpoint) | Step::Restoring(checkpoint),
                Event::CannotRestore { never } | Event::Shim(ToAgent::RestoreFailed { never }),
            ) => {
                let checkpoint = *checkpoint;
                self.cannot_restore(checkpoint, *never)
            }
            (Step::ReadingForCold(checkpoint), Event::Newest(Read::Known(newest))) => {
                let checkpoint = *checkpoint;
                let basis = Basis::of(newest.as_deref());
                self.cold(&basis, ColdReason::CannotRestore)
                    .unwrap_or_else(|_| self.abort(Refusal::CannotRestore { checkpoint }))
            }
            (Step::Restoring(checkpoint), Event::Shim(ToAgent::Held))
            | (Step::WaitingHeld(checkpoint), Event::Timer(Timer::Retry)) => {
                let checkpoint = *checkpoint;
                self.goes(Step::ReadingAgain(checkpoint), Action::ReadNewest)
            }
            (Step::ReadingAgain(checkpoint), Event::Newest(Read::Unavailable)) => {
                let checkpoint = *checkpoint;
                self.goes(Step::WaitingHeld(checkpoint), Action::Wait(Timer::Retry))
            }
            (Step::ReadingAgain(checkpoint), Event::Newest(Read::Known(newest))) => {
                let (checkpoint, newest) = (*checkpoint, newest.clone());
                self.claim(checkpoint, newest.as_deref())
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
        match plan::next(&self.spec, &basis, self.rules) {
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
            Next::AlreadyOurs(checkpoint) => {
                self.goes(Step::Preparing(checkpoint), Action::Prepare(checkpoint))
            }
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
                self.goes(Step::Preparing(checkpoint), Action::Prepare(checkpoint))
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
            Presence::Gone => self.abort(Refusal::PointGone { checkpoint }),
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

    /// The tasks are held: the take-over is built on the newest entry, which must still offer the point that they were restored from.
    fn claim(&mut self, checkpoint: CheckpointId, newest: Option<&Entry>) -> Vec<Action> {
        let basis = Basis::of(newest);
        let ask = &self.spec.ask;
        if !self.rules.hold(Rule::TakeOver) || self.ours_already(&basis) {
            let newest = newest.cloned().map(Box::new);
            return newest.map_or_else(Vec::new, |entry| self.resume(entry));
        }
        plan::claim(ask, &basis.state, &self.spec.pen.me, checkpoint)
            .and_then(|kind| self.commit_to(&basis, kind))
            .unwrap_or_else(|refusal| self.abort(refusal))
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
        let entry = Box::new(basis.next(&self.spec.pen, kind)?);
        let message = ToShim::Commit { at: self.spec.at.clone(), entry: entry.clone() };
        Ok(self.goes(Step::Committing(entry), Action::Tell(message)))
    }

    fn won(&mut self, entry: Box<Entry>) -> Vec<Action> {
        match &entry.kind {
            Kind::TakeOver { checkpoint, .. } if !self.rules.hold(Rule::HoldFirst) => {
                let checkpoint = *checkpoint;
                self.goes(Step::Preparing(checkpoint), Action::Prepare(checkpoint))
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
