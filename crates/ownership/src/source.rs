//! The agent's side of a checkpoint.
//!
//! ```text
//! newest entry ─┬─ owned by us ─► Begin ─► Begun ─► Fit ───────────────────────────────────────────► Ready
//!               ├─ no log ──────► Begin ─► Begun ─► Fit ─► Hold ─► PUT start ─► settled ─► newest ─► Ready, or Cancel
//!               └─ owned by another ─► Moved (a zombie is killed); a pod that never was in this lineage: refused
//! Manifest (packs, head, manifest durable)
//!   leaves it running: newest ─► PUT checkpoint ─► settled ─► manifest, no tombstone? ─► Committed
//!   gives it away:     newest ─► Seal ─► Sealed ─► [`crate::giving`]
//! ```
//! Before the seal nothing is decided that cannot be undone by thawing. **`Sealed` is the point after which only a settled slot
//! lets the pod go.** What comes before the freeze (pre-copy) and the dump itself are the engine's, between `Ready` and `Manifest`.

use godwit_types::{CheckpointId, OpId, Outcome, Seq};

use crate::admit::Refusal;
use crate::entry::{Basis, Entry, Pen};
use crate::fence::{Fence, LineageRef};
use crate::giving::Giving;
use crate::machine::{Action, Ending, Event, Machine, Presence, Read, Timer};
use crate::message::{ToAgent, ToShim};
use crate::rules::{Rule, Rules};
use crate::settle::{Settle, Verdict};
use crate::state::{Kind, Recipient, StoppedTasks};

/// What a checkpoint is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub struct SourceSpec {
    /// The owner (node identity of the agent, pod and incarnation of the shim), operation, nonce.
    pub pen: Pen,
    /// The operation.
    pub op: OpId,
    /// The lineage.
    pub at: LineageRef,
    /// The pod's fence, if it has one already: it has lived in this lineage before.
    pub fence: Option<Fence>,
    /// The checkpoint that is made.
    pub checkpoint: CheckpointId,
    /// What becomes of the pod.
    pub outcome: Outcome,
    /// For [`Outcome::Offer`]: to whom.
    pub to: Option<Recipient>,
    /// For [`Outcome::Offer`]: seconds after which the pod is reclaimed if nobody took it over; none: only by [`Event::Cancel`].
    pub reclaim_after_s: Option<u64>,
}

/// A checkpoint, seen from the agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub struct Source {
    rules: Rules,
    spec: SourceSpec,
    old: bool,
    cancelled: bool,
    step: Step,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
enum Step {
    New,
    /// Is it ours?
    ReadingOwner,
    /// The shim arms the fence; with the first entry of the life, if there is none.
    Beginning(Option<Box<Entry>>),
    /// Can it be checkpointed?
    Examining(Option<Box<Entry>>),
    /// The fence takes the slot of `start`.
    HoldingStart(Box<Entry>),
    Starting(Settle),
    /// Did it begin?
    ReadingStart {
        slot: Seq,
    },
    /// The fence remembers that it did.
    Standing,
    /// The engine works.
    Working,
    /// The manifest is durable: what is the entry built on?
    ReadingBasis,
    Sealing(Box<Entry>),
    Giving(Giving),
    /// Leaves it running.
    Committing(Settle),
    Checking(Box<Entry>),
    WaitingToCheck(Box<Entry>),
    WaitingToRead,
    /// The shim kills a zombie, or lets the pod run.
    Telling(Box<Ending>),
}

impl Source {
    /// A new one; its first event is [`Event::Begin`].
    #[must_use]
    pub fn new(spec: SourceSpec) -> Self {
        Self { rules: Rules::ALL, spec, old: false, cancelled: false, step: Step::New }
    }

    #[cfg(test)]
    pub(crate) fn under(rules: Rules, spec: SourceSpec) -> Self {
        Self { rules, ..Self::new(spec) }
    }

    /// Whether the pod is sealed: from here on the operation cannot be given up, only settled.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        matches!(self.step, Step::Giving(_))
    }

    fn seals(&self) -> bool {
        self.spec.outcome.gives_away() || !self.rules.hold(Rule::LeaveRunning)
    }

    fn advance(&mut self, event: &Event) -> Vec<Action> {
        match (&mut self.step, event) {
            (Step::New, Event::Begin) => self.goes(Step::ReadingOwner, Action::ReadNewest),
            (Step::ReadingOwner, Event::Newest(Read::Known(newest))) => {
                self.on_owner(newest.as_deref())
            }
            (Step::ReadingOwner, Event::Newest(Read::Unavailable)) => {
                vec![Action::Done(Ending::GivenUp(Refusal::StoreAway))]
            }
            (Step::Beginning(start), Event::Shim(ToAgent::Begun)) => {
                let start = start.take();
                self.goes(Step::Examining(start), Action::Examine)
            }
            (Step::Examining(start), Event::Fit) => match start.take() {
                Some(start) => {
                    let message = ToShim::Hold { entry: start.clone() };
                    self.goes(Step::HoldingStart(start), Action::Tell(message))
                }
                None => self.goes(Step::Working, Action::Ready),
            },
            (Step::HoldingStart(start), Event::Shim(ToAgent::Done)) => {
                let (settle, actions) = Settle::put(self.rules, start.clone(), self.old);
                self.step = Step::Starting(settle);
                actions
            }
            (Step::Starting(settle), event) => match settle.step(event) {
                Ok(Verdict::NotWritten) => {
                    let unfence = self.spec.fence.is_none();
                    let ending = Ending::GivenUp(Refusal::StoreRefuses);
                    self.tells(ToShim::Cancel { unfence }, ending)
                }
                Ok(_) => {
                    let slot = settle.entry().seq;
                    self.goes(Step::ReadingStart { slot }, Action::ReadNewest)
                }
                Err(actions) => actions,
            },
            (Step::ReadingStart { slot }, Event::Newest(newest)) => {
                let slot = *slot;
                self.on_start(slot, newest)
            }
            (Step::Standing, Event::Shim(ToAgent::Done)) => self.goes(Step::Working, Action::Ready),
            (Step::Working, Event::Manifest) => self.goes(Step::ReadingBasis, Action::ReadNewest),
            (Step::ReadingBasis, Event::Newest(Read::Known(newest))) => {
                self.on_basis(newest.as_deref())
            }
            (Step::ReadingBasis, Event::Newest(Read::Unavailable)) => {
                self.goes(Step::WaitingToRead, Action::Wait(Timer::Retry))
            }
            (Step::WaitingToRead, Event::Timer(Timer::Retry)) => {
                self.goes(Step::ReadingBasis, Action::ReadNewest)
            }
            (Step::Sealing(entry), Event::Shim(ToAgent::Sealed)) => {
                let entry = entry.clone();
                self.give(entry)
            }
            (Step::Sealing(_), Event::Shim(ToAgent::NotContinuous)) => {
                vec![Action::Done(Ending::GivenUp(Refusal::NotContinuous))]
            }
            (Step::Committing(_) | Step::Checking(_) | Step::WaitingToCheck(_), event) => {
                self.commit(event)
            }
            (Step::Telling(ending), Event::Shim(ToAgent::Done | ToAgent::Refused(_))) => {
                vec![Action::Done((**ending).clone())]
            }
            _ => vec![],
        }
    }

    fn on_owner(&mut self, newest: Option<&Entry>) -> Vec<Action> {
        let me = &self.spec.pen.me;
        match newest {
            Some(newest) if newest.state.lets_run(me) => self.begin(None),
            Some(newest) if self.spec.fence.is_some() => self.not_owner(newest),
            newest => {
                match Basis::of(newest).next(&self.spec.pen, Kind::Start { forked_from: None }) {
                    Ok(start) => self.begin(Some(Box::new(start))),
                    Err(refusal) => vec![Action::Done(Ending::GivenUp(refusal))],
                }
            }
        }
    }

    fn begin(&mut self, start: Option<Box<Entry>>) -> Vec<Action> {
        let SourceSpec { op, outcome, at, .. } = &self.spec;
        let message = ToShim::Begin { op: *op, outcome: *outcome, at: at.clone() };
        self.goes(Step::Beginning(start), Action::Tell(message))
    }

    fn on_start(&mut self, slot: Seq, newest: &Read<Option<Box<Entry>>>) -> Vec<Action> {
        match newest {
            Read::Known(Some(newest)) if newest.state.lets_run(&self.spec.pen.me) => {
                let message = ToShim::Stands { entry: newest.clone() };
                self.goes(Step::Standing, Action::Tell(message))
            }
            Read::Known(Some(newest)) if self.spec.fence.is_some() => self.not_owner(newest),
            // The slot is settled: a log that has not come so far is not the one.
            Read::Known(newest) if newest.as_ref().is_none_or(|newest| newest.seq < slot) => {
                self.cancel(Refusal::StoreAway)
            }
            Read::Unavailable => self.cancel(Refusal::StoreAway),
            Read::Known(_) => {
                let ending = Ending::GivenUp(Refusal::LostSlot);
                self.tells(ToShim::Cancel { unfence: true }, ending)
            }
        }
    }

    /// A zombie is killed; a pod whose own entry stands in the way is not touched.
    fn not_owner(&mut self, newest: &Entry) -> Vec<Action> {
        let another = newest.state.owner().is_some_and(|owner| *owner != self.spec.pen.me);
        if !another {
            return self.cancel(Refusal::Busy);
        }
        let entry = Box::new(newest.clone());
        self.tells(ToShim::Moved { entry: entry.clone() }, Ending::Moved(entry))
    }

    fn on_basis(&mut self, newest: Option<&Entry>) -> Vec<Action> {
        match newest {
            Some(newest) if newest.state.lets_run(&self.spec.pen.me) => self.put(newest),
            Some(newest) => self.not_owner(newest),
            // It was there when this began.
            None => self.goes(Step::WaitingToRead, Action::Wait(Timer::Retry)),
        }
    }

    fn put(&mut self, newest: &Entry) -> Vec<Action> {
        let too_old = self.old && self.rules.hold(Rule::OldReclaims);
        match Basis::of(Some(newest)).next(&self.spec.pen, self.kind()) {
            Err(refusal) => self.cancel(refusal),
            Ok(_) if too_old => self.cancel(Refusal::TooOld),
            Ok(entry) if self.seals() => self.seal(Box::new(entry)),
            Ok(entry) => {
                let (settle, actions) = Settle::put(self.rules, Box::new(entry), self.old);
                self.step = Step::Committing(settle);
                actions
            }
        }
    }

    fn kind(&self) -> Kind {
        let checkpoint = self.spec.checkpoint;
        match self.spec.outcome {
            Outcome::Run => Kind::Checkpoint { checkpoint },
            Outcome::Stop => Kind::Stop { checkpoint, tasks: StoppedTasks::Sealed },
            Outcome::Offer => Kind::Offer { checkpoint, to: self.spec.to.clone() },
        }
    }

    fn seal(&mut self, entry: Box<Entry>) -> Vec<Action> {
        if !self.rules.hold(Rule::Seal) {
            return self.give(entry);
        }
        let reclaim_after_s = self.spec.reclaim_after_s;
        let message = ToShim::Seal { entry: entry.clone(), reclaim_after_s };
        self.goes(Step::Sealing(entry), Action::Tell(message))
    }

    fn give(&mut self, entry: Box<Entry>) -> Vec<Action> {
        let reclaims = self.spec.reclaim_after_s.is_some();
        let (mut giving, actions) = Giving::sealed(self.rules, entry, reclaims, self.old);
        if self.cancelled {
            giving.cancel();
        }
        self.step = Step::Giving(giving);
        actions
    }

    /// The entry of a checkpoint that left the pod running, and the look after it.
    fn commit(&mut self, event: &Event) -> Vec<Action> {
        match (&mut self.step, event) {
            (Step::Committing(settle), event) => match settle.step(event) {
                Ok(Verdict::Mine) => {
                    let entry = Box::new(settle.entry().clone());
                    self.check(entry)
                }
                Ok(Verdict::NotWritten) => {
                    vec![Action::Done(Ending::GivenUp(Refusal::StoreRefuses))]
                }
                Ok(_) => self.goes(Step::ReadingBasis, Action::ReadNewest),
                Err(actions) => actions,
            },
            (Step::Checking(entry), Event::Presence(presence)) => match presence {
                Read::Known(Presence::Exists) => {
                    vec![Action::Done(Ending::Committed(entry.clone()))]
                }
                Read::Known(Presence::Gone) => {
                    let checkpoint = self.spec.checkpoint;
                    vec![Action::Done(Ending::GivenUp(Refusal::PointGone { checkpoint }))]
                }
                Read::Known(Presence::Doubted) | Read::Unavailable => {
                    let entry = entry.clone();
                    self.goes(Step::WaitingToCheck(entry), Action::Wait(Timer::Retry))
                }
            },
            (Step::WaitingToCheck(entry), Event::Timer(Timer::Retry)) => {
                let entry = entry.clone();
                self.check(entry)
            }
            _ => vec![],
        }
    }

    fn check(&mut self, entry: Box<Entry>) -> Vec<Action> {
        let checkpoint = self.spec.checkpoint;
        self.goes(Step::Checking(entry), Action::Check(checkpoint))
    }

    fn too_old(&mut self) -> Vec<Action> {
        self.old = true;
        match &mut self.step {
            Step::Committing(_) => vec![Action::Done(Ending::GivenUp(Refusal::TooOld))],
            // Whoever works has nothing to hand in any more, and waits for nothing else.
            Step::Working => self.cancel(Refusal::TooOld),
            Step::Giving(giving) => giving.step(&Event::TooOld),
            _ => vec![],
        }
    }

    /// A person cancels, or nothing came of it: before the seal the pod is thawed and nothing has happened.
    fn cancel(&mut self, why: Refusal) -> Vec<Action> {
        self.tells(ToShim::Cancel { unfence: false }, Ending::GivenUp(why))
    }

    fn tells(&mut self, message: ToShim, ending: Ending) -> Vec<Action> {
        self.goes(Step::Telling(Box::new(ending)), Action::Tell(message))
    }

    fn goes(&mut self, step: Step, action: Action) -> Vec<Action> {
        self.step = step;
        vec![action]
    }

    /// The connection ended, or the shim ended the operation by itself.
    fn broken(&mut self) -> Vec<Action> {
        match self.step {
            // It may be sealed: what the shim did with our last message is not known.
            Step::Sealing(_) | Step::Giving(_) => vec![Action::Done(Ending::Detached)],
            // It runs; its entry needs no shim.
            Step::Committing(_) | Step::Checking(_) | Step::WaitingToCheck(_) => vec![],
            Step::ReadingBasis | Step::WaitingToRead if !self.seals() => vec![],
            _ => vec![Action::Done(Ending::GivenUp(Refusal::Interrupted))],
        }
    }
}

impl Machine for Source {
    fn step(&mut self, event: Event) -> Vec<Action> {
        let event = event.doubted(self.spec.fence.as_ref(), self.rules);
        match (&mut self.step, &event) {
            (_, Event::TooOld) => self.too_old(),
            (Step::Giving(giving), event) => giving.step(event),
            (_, Event::Ended | Event::Shim(ToAgent::Aborted)) => self.broken(),
            (Step::Telling(_), Event::Cancel) => vec![],
            (Step::Sealing(_), Event::Cancel) => {
                self.cancelled = true;
                vec![]
            }
            (Step::New, Event::Cancel) => {
                vec![Action::Done(Ending::GivenUp(Refusal::Cancelled))]
            }
            (Step::Committing(_) | Step::Checking(_) | Step::WaitingToCheck(_), Event::Cancel) => {
                vec![Action::Done(Ending::GivenUp(Refusal::Cancelled))]
            }
            // Nothing was PUT: a fence that this operation wrote names a lineage that there is not.
            (Step::Examining(start), Event::Cancel) => {
                let unfence = start.is_some() && self.spec.fence.is_none();
                self.tells(ToShim::Cancel { unfence }, Ending::GivenUp(Refusal::Cancelled))
            }
            (_, Event::Cancel) => self.cancel(Refusal::Cancelled),
            (Step::Telling(_), event) => self.advance(event),
            (_, Event::Shim(ToAgent::Refused(refusal))) => {
                vec![Action::Done(Ending::GivenUp(refusal.clone()))]
            }
            (_, event) => self.advance(event),
        }
    }
}

#[cfg(test)]
mod tests;
