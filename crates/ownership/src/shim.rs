//! The shim's side of ownership: fence, freeze, seal, hold, run, kill. One machine per pod.
//!
//! ```text
//! Start ─► (prove other lives dead) ─► Ask ─┬─ Plan ─► restore ─► Held ─┐
//!                                           └─ (cold) ──────────────────┴─► Commit: fence ─► Committing ─┬─ Resume: let go ─► running: fence
//!                                                                                                        └─ Abort ─────────► dead
//! running ─ Begin: fence ─► Freeze ─► frozen ─┬─ Thaw, Cancel, deadline, connection's end ──► running
//!                                             └─ Seal ─► sealed ─┬─ Unseal (newest entry names us) ─► running
//!                                                                ├─ Stopped (our stop) ────────────► dead
//!                                                                └─ Moved (another's entry) ───────► dead, for ever
//! ```
//! Two states are left only by a settled log slot, never by a deadline or a lost connection: *sealed* and *committing*. Killing is
//! allowed in every state; running is not.
//!
//! # Driving it
//! Actions are carried out in order, each completely before the next. If a [`Action::WriteFence`] fails, the rest of its list is
//! dropped, [`Event::FenceFailed`] is fed, and the connection of a dropped [`Action::Send`] is closed. The machine tracks whose
//! connection an operation is: every message comes with its [`Conn`], every end of a connection is fed.

mod checkpoint;
mod start;
#[cfg(test)]
mod tests;
mod words;

use std::collections::BTreeSet;

use godwit_types::{Incarnation, OpId, Outcome, Owner, Seq};

use crate::admit::Refusal;
use crate::entry::Entry;
use crate::fence::{Asked, Fence, FenceState, Gone};
use crate::message::{Before, Holds, Status, ToAgent, ToShim};
use crate::rules::{Rule, Rules};

pub use words::{Action, Conn, CriuEnd, Event, Phase, StartCall, Tasks};

/// The shim of one pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub struct ShimMachine {
    rules: Rules,
    pod_uid: String,
    incarnation: Incarnation,
    fence: Option<Box<Fence>>,
    /// A write of the fence failed: what is on disk may be another one.
    unwritten: bool,
    tasks: Tasks,
    owes_cold: Option<Before>,
    op: Op,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
enum Op {
    None,
    /// Are the other lives dead?
    Proving(Box<StartCall>),
    /// The agent is asked.
    Asking(Attempt),
    /// CRIU restores.
    Restoring(Attempt),
    /// Tasks are held; the agent reads the log again.
    Held(Attempt),
    /// The entry may be in flight.
    Committing {
        entry: Box<Entry>,
        /// What its life consumes.
        asked: Option<Asked>,
        conn: Option<Conn>,
    },
    /// Held tasks are let go; what they consume is not consumed before they run.
    Releasing(Released),
    Checkpoint(Checkpoint),
    Sealed {
        entry: Box<Entry>,
        reclaim_after_s: Option<u64>,
        conn: Option<Conn>,
    },
    /// Thaw is on its way; then this is said, and the fence disarmed.
    Thawing {
        reply: Option<(Conn, ToAgent)>,
        fence: AfterThaw,
    },
    /// Kill is on its way; then this is said.
    Killing {
        replies: Vec<Conn>,
        started: Option<Refusal>,
    },
}

/// A start between its question and its entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
struct Attempt {
    call: Box<StartCall>,
    conn: Option<Conn>,
    /// It may go on while nobody can be asked.
    offline: bool,
}

/// Containers of an operation, by number.
type Members = BTreeSet<u16>;

/// A life whose entry is won.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
struct Released {
    seq: Seq,
    /// What it consumes.
    asked: Option<Asked>,
    conn: Option<Conn>,
}

/// A checkpoint before its seal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
struct Checkpoint {
    op: OpId,
    outcome: Outcome,
    conn: Conn,
    /// CRIUs that live.
    live: u8,
    /// Containers whose CRIU ended well.
    dumped: Members,
    /// How many containers the operation froze; none before that.
    frozen: u16,
    /// Nothing ran since it was frozen, as far as is known.
    intact: bool,
}

/// What becomes of the fence when the pod runs again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
enum AfterThaw {
    Owned,
    Removed,
}

impl ShimMachine {
    /// The machine of a new sandbox life, with the fence that is on disk.
    #[must_use]
    pub fn new(pod_uid: String, incarnation: Incarnation, fence: Option<Fence>) -> Self {
        let fence = fence.map(Box::new);
        let (rules, unwritten, tasks, op) = (Rules::ALL, false, Tasks::Dead, Op::None);
        Self { rules, pod_uid, incarnation, fence, unwritten, tasks, owes_cold: None, op }
    }

    #[cfg(test)]
    pub(crate) fn under(
        rules: Rules,
        pod_uid: String,
        inc: Incarnation,
        fence: Option<Fence>,
    ) -> Self {
        Self { rules, ..Self::new(pod_uid, inc, fence) }
    }

    /// The pod's fence as it is on disk.
    #[must_use]
    pub fn fence(&self) -> Option<&Fence> {
        self.fence.as_deref()
    }

    #[cfg(test)]
    pub(crate) fn fence_mut(&mut self) -> Option<&mut Fence> {
        self.fence.as_deref_mut()
    }

    #[cfg(test)]
    pub(crate) fn adopt_fence(&mut self, fence: Option<Fence>) {
        self.fence = fence.map(Box::new);
    }

    /// Whether it runs by the stated exception, its `cold` entry not yet written.
    #[must_use]
    pub fn owes_cold(&self) -> bool {
        self.owes_cold.is_some()
    }

    /// The pod's tasks.
    #[must_use]
    pub fn tasks(&self) -> Tasks {
        self.tasks
    }

    /// What it is doing.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.op {
            Op::None => Phase::Idle,
            Op::Proving(_) | Op::Asking(_) | Op::Restoring(_) | Op::Held(_) => Phase::Starting,
            Op::Committing { .. } => Phase::Committing,
            Op::Releasing(_) => Phase::Releasing,
            Op::Checkpoint(_) => Phase::Checkpointing,
            Op::Sealed { .. } => Phase::Sealed,
            Op::Thawing { .. } => Phase::Thawing,
            Op::Killing { .. } => Phase::Killing,
        }
    }

    /// The outcome of the operation that is sealed or on its way.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        match &self.op {
            Op::Checkpoint(checkpoint) => Some(checkpoint.outcome),
            Op::Sealed { entry, .. } => Some(match entry.kind {
                crate::Kind::Offer { .. } => Outcome::Offer,
                crate::Kind::Stop { .. } => Outcome::Stop,
                _ => Outcome::Run,
            }),
            _ => None,
        }
    }

    /// Takes one event and says what to do, in order. Events that do not matter now give nothing.
    pub fn step(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Message { from, message } => self.on_message(from, message),
            Event::Ended(conn) => self.on_ended(conn),
            Event::Kill => self.on_kill(),
            Event::Killed => self.on_killed(),
            Event::Died => self.on_died(),
            Event::Unfilled => self.on_unfilled(),
            Event::Gone(gone) => self.on_gone(gone),
            Event::FenceFailed => self.on_fence_failed(),
            Event::Asked(_)
            | Event::AgentAway
            | Event::Start(_)
            | Event::StartDeadline
            | Event::Held
            | Event::Released
            | Event::RestoreFailed { .. }
            | Event::Proved(_) => self.on_start_event(event),
            Event::CriuStarted
            | Event::CriuEnded(_)
            | Event::Frozen { .. }
            | Event::FreezeFailed
            | Event::FreezeDeadline
            | Event::Woken
            | Event::Thawed => self.on_checkpoint_event(event),
        }
    }

    fn on_message(&mut self, from: Conn, message: ToShim) -> Vec<Action> {
        match message {
            ToShim::Attach => self.attach(from),
            ToShim::Begin { op, outcome, at } => self.begin(from, op, outcome, at),
            ToShim::Freeze => self.freeze(from),
            ToShim::Thaw => self.thaw(from),
            ToShim::Cancel { unfence } => self.cancel(from, unfence),
            ToShim::Seal { entry, reclaim_after_s } => self.seal(from, entry, reclaim_after_s),
            ToShim::Hold { entry } => self.hold(from, &entry),
            ToShim::Stands { entry } => self.stands(from, &entry),
            ToShim::Unseal { entry, unwritten } => self.unseal(from, &entry, unwritten),
            ToShim::Stopped { entry } => self.stopped(from, &entry),
            ToShim::Moved { entry } => self.moved(from, &entry),
            ToShim::Plan { checkpoint } => self.plan(from, checkpoint),
            ToShim::Commit { at, entry } => self.commit(from, at, entry),
            ToShim::Resume { entry } => self.resume(from, &entry),
            ToShim::Abort { why } => self.abort(from, why),
        }
    }

    fn attach(&mut self, from: Conn) -> Vec<Action> {
        if let Op::Sealed { conn, .. } | Op::Committing { conn, .. } = &mut self.op {
            *conn = Some(from);
        }
        let status = Status {
            pod_uid: self.pod_uid.clone(),
            incarnation: self.incarnation,
            fence: self.fence.as_deref().cloned(),
            holds: self.holds(),
        };
        vec![send(from, ToAgent::Status(Box::new(status)))]
    }

    fn holds(&self) -> Holds {
        match &self.op {
            Op::Sealed { entry, reclaim_after_s, .. } => {
                let reclaim_after_s = *reclaim_after_s;
                Holds::Sealed { entry: entry.clone(), reclaim_after_s }
            }
            Op::Committing { entry, .. } => Holds::Committing { entry: entry.clone() },
            Op::Killing { .. } => Holds::Nothing,
            _ if matches!(self.tasks, Tasks::Running | Tasks::Frozen) => {
                Holds::Running { owes_cold: self.owes_cold.clone() }
            }
            Op::None | Op::Thawing { .. } | Op::Checkpoint(_) | Op::Releasing(_) => Holds::Nothing,
            Op::Proving(_) | Op::Asking(_) | Op::Restoring(_) | Op::Held(_) => Holds::Starting,
        }
    }

    fn on_ended(&mut self, ended: Conn) -> Vec<Action> {
        match &mut self.op {
            Op::Checkpoint(checkpoint) if checkpoint.conn == ended => self.roll_back(None),
            Op::Asking(attempt) | Op::Restoring(attempt) | Op::Held(attempt)
                if attempt.conn == Some(ended) =>
            {
                self.lose_agent()
            }
            Op::Sealed { conn, .. } if *conn == Some(ended) => {
                *conn = None;
                self.sealed_and_alone()
            }
            Op::Committing { conn, .. } if *conn == Some(ended) => {
                *conn = None;
                self.committing_and_alone()
            }
            Op::Releasing(released) => {
                released.conn.take_if(|to| *to == ended);
                vec![]
            }
            Op::Thawing { reply, .. } => {
                reply.take_if(|(to, _)| *to == ended);
                vec![]
            }
            Op::Killing { replies, .. } => {
                replies.retain(|to| *to != ended);
                vec![]
            }
            _ => vec![],
        }
    }

    /// Another is the owner. In every state; an old message about an earlier entry is not believed.
    fn moved(&mut self, from: Conn, entry: &Entry) -> Vec<Action> {
        let stale = self.slot().is_some_and(|slot| entry.seq < slot);
        if stale || self.names_me(entry) {
            return vec![refused(from, Refusal::Busy)];
        }
        let node = entry.state.owner().map_or_else(String::new, |owner| owner.node.clone());
        let fence = self.mark(|fence| fence.state = FenceState::Moved);
        let told = self.aborted().filter(|told| !is_to(told, from));
        let kill = self.kill(Some(from), Refusal::NotOwner { node });
        fence.into_iter().chain(told).chain(kill).collect()
    }

    fn on_kill(&mut self) -> Vec<Action> {
        let told = self.aborted();
        told.into_iter().chain(self.kill(None, Refusal::Cancelled)).collect()
    }

    /// Kills what lives and ends the operation; `Done` is said when nothing lives.
    fn kill(&mut self, reply: Option<Conn>, why: Refusal) -> Vec<Action> {
        if let Op::Killing { replies, .. } = &mut self.op {
            replies.extend(reply);
            return vec![];
        }
        let started = self.is_starting().then_some(why);
        self.owes_cold = None;
        self.op = Op::Killing { replies: reply.into_iter().collect(), started };
        vec![Action::Kill]
    }

    fn on_killed(&mut self) -> Vec<Action> {
        let Op::Killing { replies, started } = &mut self.op else { return vec![] };
        let (replies, started) = (std::mem::take(replies), started.take());
        self.op = Op::None;
        self.tasks = Tasks::Dead;
        let started = started.map(|why| Action::Started(Err(why)));
        replies.into_iter().map(|to| send(to, ToAgent::Done)).chain(started).collect()
    }

    fn on_died(&mut self) -> Vec<Action> {
        if matches!(self.op, Op::Killing { .. }) {
            return vec![];
        }
        let told = self.aborted();
        let started = self.is_starting().then_some(Action::Started(Err(Refusal::Interrupted)));
        self.tasks = Tasks::Dead;
        self.owes_cold = None;
        self.op = Op::None;
        told.into_iter().chain(started).collect()
    }

    /// It counts as if it had never run: who starts next asks for the same memory again.
    fn on_unfilled(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.rules.hold(Rule::Reopens) {
            actions.extend(self.mark(|fence| {
                fence.lived = false;
                fence.consumed = None;
            }));
        }
        actions.extend(self.on_kill());
        actions
    }

    fn on_gone(&mut self, gone: Gone) -> Vec<Action> {
        // What the fence says already is of a life that nothing has followed: a start since then was refused.
        self.mark(|fence| _ = fence.gone.get_or_insert(gone)).into_iter().collect()
    }

    /// What the agent of the operation is told when the shim ends it by itself.
    fn aborted(&self) -> Option<Action> {
        let conn = match &self.op {
            Op::Checkpoint(checkpoint) => Some(checkpoint.conn),
            Op::Asking(attempt) | Op::Restoring(attempt) | Op::Held(attempt) => attempt.conn,
            Op::Sealed { conn, .. } | Op::Committing { conn, .. } => *conn,
            Op::Releasing(released) => released.conn,
            Op::Thawing { reply, .. } => reply.as_ref().map(|(to, _)| *to),
            Op::None | Op::Proving(_) | Op::Killing { .. } => None,
        };
        conn.map(|conn| send(conn, ToAgent::Aborted))
    }

    fn is_starting(&self) -> bool {
        matches!(self.phase(), Phase::Starting | Phase::Committing | Phase::Releasing)
    }

    fn on_fence_failed(&mut self) -> Vec<Action> {
        self.unwritten = true;
        match self.op {
            Op::Checkpoint(_) => self.roll_back(Some(ToAgent::Aborted)),
            Op::Committing { .. } => {
                let told = self.aborted();
                told.into_iter().chain(self.drop_attempt(Refusal::Interrupted)).collect()
            }
            // What must die dies without a fence too; the kill was dropped with the write.
            Op::Killing { .. } => vec![Action::Kill],
            _ => vec![],
        }
    }

    fn names_me(&self, entry: &Entry) -> bool {
        matches!(&entry.state, crate::State::Owned { owner, .. } if self.is_me(owner))
    }

    fn is_me(&self, owner: &Owner) -> bool {
        owner.pod_uid == self.pod_uid && owner.incarnation == self.incarnation
    }

    fn slot(&self) -> Option<Seq> {
        self.fence.as_ref().and_then(|fence| fence.slot)
    }

    /// Changes the fence, if there is one; written if that changes it or if the one on disk may be another.
    fn mark(&mut self, change: impl FnOnce(&mut Fence)) -> Option<Action> {
        let mut fence = self.fence.as_deref()?.clone();
        change(&mut fence);
        self.replace_fence(fence)
    }

    fn replace_fence(&mut self, fence: Fence) -> Option<Action> {
        let written = !self.unwritten && self.fence.as_deref() == Some(&fence);
        (!written).then(|| self.write_fence(Some(fence)))
    }

    fn write_fence(&mut self, fence: Option<Fence>) -> Action {
        self.fence = fence.map(Box::new);
        self.unwritten = false;
        Action::WriteFence(self.fence.clone())
    }
}

fn send(to: Conn, message: ToAgent) -> Action {
    Action::Send { to, message }
}

fn is_to(action: &Action, conn: Conn) -> bool {
    matches!(action, Action::Send { to, .. } if *to == conn)
}

fn refused(to: Conn, refusal: Refusal) -> Action {
    send(to, ToAgent::Refused(refusal))
}
