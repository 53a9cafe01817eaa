//! The agent's care for a pod whose object is gone (without Kubernetes: whose task was deleted): its death goes into the log, then
//! its fence from the disk.
//!
//! ```text
//! no task lives (cgroups empty)? ─► newest entry ─┬─ owned here ─┬─ lived, and its end was wanted ─► PUT end
//!                                                 │              ├─ a good point is there ────────► PUT stop{latest good}
//!                                                 │              └─ none ─────────────────────────► PUT end
//!                                                 ├─ offered here ────────────────────────────────► PUT stop{same point}
//!                                                 ├─ stopped here, its point gone ────────────────► PUT end
//!                                                 └─ does not name us, our slot settled ──────────► fence removed
//! ```
//! So no lineage is left owned by nobody while its node lives, and no late PUT can make an owner that nobody is. Entries written here
//! never name this pod as the owner, so they need no slot in the fence: whatever the store answers, the newest entry is read again.

use godwit_types::CheckpointId;

use crate::entry::{Basis, Entry, Pen};
use crate::fence::Fence;
use crate::machine::{Action, Ending, Event, Machine, Presence, Put, Read, Timer};
use crate::rules::{Rule, Rules};
use crate::state::{Kind, State, same_place};

/// What the care for a gone pod needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub struct KeeperSpec {
    /// Node identity of the agent, pod and incarnation of the fence; nonce.
    pub pen: Pen,
    /// The fence as it is on disk.
    pub fence: Fence,
    /// The end was wanted: the pod was deleted, or a Job's container exited with 0.
    pub wanted: bool,
    /// The fence was last written longer than T/2 ago: a PUT into its slot can not land any more.
    pub slot_expired: bool,
}

/// The care for one gone pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub struct Keeper {
    rules: Rules,
    spec: KeeperSpec,
    step: Step,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
enum Step {
    New,
    Proving,
    ReadingNewest,
    Checking { checkpoint: CheckpointId, basis: Box<Basis> },
    Writing(Box<Entry>),
    Waiting,
}

impl Keeper {
    /// A new one; its first event is [`Event::Begin`].
    #[must_use]
    pub fn new(spec: KeeperSpec) -> Self {
        Self { rules: Rules::ALL, spec, step: Step::New }
    }

    #[cfg(test)]
    pub(crate) fn under(rules: Rules, spec: KeeperSpec) -> Self {
        Self { rules, ..Self::new(spec) }
    }

    fn decide(&mut self, basis: Basis) -> Vec<Action> {
        let here = |owner| same_place(owner, &self.spec.pen.me);
        let writes = self.rules.hold(Rule::DeathEntries);
        match &basis.state {
            State::Owned { owner, good, .. } if here(owner) && writes => {
                let latest = good.latest();
                self.on_owned(latest, basis)
            }
            State::Offered { owner, checkpoint, .. }
                if here(owner) && writes && self.rules.hold(Rule::OfferedDead) =>
            {
                let checkpoint = *checkpoint;
                self.write(&basis, Kind::died_at(checkpoint))
            }
            State::Stopped { owner, checkpoint, .. }
                if here(owner) && writes && self.rules.hold(Rule::ColdStopped) =>
            {
                let checkpoint = *checkpoint;
                self.check(checkpoint, basis)
            }
            _ => self.remove(&basis),
        }
    }

    fn on_owned(&mut self, latest: Option<CheckpointId>, basis: Basis) -> Vec<Action> {
        let ended = self.spec.wanted && self.spec.fence.lived;
        match latest.filter(|_| !ended && self.rules.hold(Rule::StopNotEnd)) {
            Some(checkpoint) => self.check(checkpoint, basis),
            None => self.write(&basis, Kind::End),
        }
    }

    fn on_presence(
        &mut self,
        checkpoint: CheckpointId,
        basis: &Basis,
        there: Presence,
    ) -> Vec<Action> {
        let owned = matches!(basis.state, State::Owned { .. });
        match there {
            Presence::Exists if owned => self.write(basis, Kind::died_at(checkpoint)),
            Presence::Exists => self.remove(basis),
            Presence::Doubted => self.waits(),
            Presence::Gone => match basis.state.point_before(checkpoint).filter(|_| owned) {
                Some(older) => self.check(older, basis.clone()),
                None => self.write(basis, Kind::End),
            },
        }
    }

    fn remove(&mut self, basis: &Basis) -> Vec<Action> {
        let settled = self.spec.fence.slot.is_none_or(|slot| slot <= basis.seq);
        if settled || self.spec.slot_expired || !self.rules.hold(Rule::FenceSettled) {
            return vec![Action::RemoveFence, Action::Done(Ending::Cleared)];
        }
        kept()
    }

    fn check(&mut self, checkpoint: CheckpointId, basis: Basis) -> Vec<Action> {
        self.step = Step::Checking { checkpoint, basis: Box::new(basis) };
        vec![Action::Check(checkpoint)]
    }

    fn write(&mut self, basis: &Basis, kind: Kind) -> Vec<Action> {
        match basis.next(&self.spec.pen, kind) {
            Ok(entry) => {
                let entry = Box::new(entry);
                self.step = Step::Writing(entry.clone());
                vec![Action::Put(entry)]
            }
            Err(_) => kept(),
        }
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

impl Machine for Keeper {
    fn step(&mut self, event: Event) -> Vec<Action> {
        let event = event.doubted(Some(&self.spec.fence), self.rules);
        match (&mut self.step, &event) {
            (Step::New, Event::Begin) => {
                self.step = Step::Proving;
                vec![Action::ProveDead]
            }
            (Step::Proving, Event::Dead(true)) => self.read_newest(),
            (Step::Proving, Event::Dead(false)) => kept(),
            (Step::ReadingNewest, Event::Newest(Read::Known(newest))) => {
                self.decide(Basis::of(newest.as_deref()))
            }
            (Step::ReadingNewest, Event::Newest(Read::Unavailable))
            | (Step::Checking { .. }, Event::Presence(Read::Unavailable)) => kept(),
            (Step::Checking { checkpoint, basis }, Event::Presence(Read::Known(there))) => {
                let (checkpoint, basis) = (*checkpoint, (**basis).clone());
                self.on_presence(checkpoint, &basis, *there)
            }
            (Step::Writing(entry), Event::Put(Put::Conflict)) => vec![Action::Put(entry.clone())],
            (Step::Writing(_), Event::Put(Put::Unknown)) => self.waits(),
            (Step::Writing(_), Event::Put(Put::NotWritten)) => kept(),
            (Step::Writing(_), Event::Put(_)) | (Step::Waiting, Event::Timer(Timer::Retry)) => {
                self.read_newest()
            }
            _ => vec![],
        }
    }
}

fn kept() -> Vec<Action> {
    vec![Action::Done(Ending::Kept)]
}
