//! The shim during a start: who must be asked, what is held, when it runs.
//!
//! Keeps: a pod with a fence starts only with the log's word (one exception, stated below); another incarnation starts only when no
//! task of the others lives; held tasks run only after `Resume`, once per entry; after `Commit` only a settled slot ends the attempt.
//!
//! The exception: a container of the *same* incarnation that owned its lineage and was not being given away restarts while nobody
//! can be asked, and its `cold` entry is owed. Only a forced take-over in that time can double it; force is its caller's word.

use godwit_types::CheckpointId;

use super::{
    Action, Attempt, Conn, Event, Op, Released, ShimMachine, StartCall, Tasks, refused, send,
};
use crate::admit::Refusal;
use crate::entry::Entry;
use crate::fence::{Fence, FenceState, LineageRef};
use crate::message::{Ask, ToAgent};
use crate::rules::Rule;

impl ShimMachine {
    pub(super) fn on_start_event(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Start(call) => self.start(call),
            Event::Proved(dead) => self.proved(dead),
            Event::Asked(conn) => {
                if let Op::Asking(attempt) = &mut self.op {
                    attempt.conn = Some(conn);
                }
                vec![]
            }
            Event::AgentAway => self.lose_agent(),
            Event::StartDeadline => self.start_deadline(),
            Event::Held => self.held(),
            Event::Released => self.released(),
            Event::RestoreFailed { never } => self.restore_failed(never),
            _ => vec![],
        }
    }

    fn start(&mut self, call: Box<StartCall>) -> Vec<Action> {
        match (&self.op, self.fence.as_deref()) {
            // Its outcome is on its way already.
            (Op::Committing { .. }, _) => vec![],
            (Op::None, None) if call.start.request.is_none() => {
                self.tasks = Tasks::Running;
                vec![Action::RunCold, Action::Started(Ok(()))]
            }
            (Op::None, Some(fence)) if fence.gone.is_some() => {
                vec![Action::Started(Err(Refusal::Unburied))]
            }
            (Op::None, Some(fence)) if self.restarts(fence) => {
                if self.rules.hold(Rule::ColdFirst) {
                    self.ask(call, true, true)
                } else {
                    self.run_cold()
                }
            }
            (Op::None, _) => {
                self.op = Op::Proving(call);
                vec![Action::Prove]
            }
            _ => vec![Action::Started(Err(Refusal::Busy))],
        }
    }

    /// The same life goes on, and nobody was offered it.
    fn restarts(&self, fence: &Fence) -> bool {
        fence.incarnation == self.incarnation && fence.state == FenceState::Owned && fence.lived
    }

    fn run_cold(&mut self) -> Vec<Action> {
        self.tasks = Tasks::Running;
        self.op = Op::None;
        vec![Action::RunCold, Action::Started(Ok(()))]
    }

    fn proved(&mut self, dead: bool) -> Vec<Action> {
        let Op::Proving(call) = &self.op else { return vec![] };
        let call = call.clone();
        if !dead && self.rules.hold(Rule::EmptyCgroups) {
            return self.fails(Refusal::OthersLive);
        }
        self.ask(call, false, dead)
    }

    fn ask(&mut self, call: Box<StartCall>, offline: bool, others_dead: bool) -> Vec<Action> {
        let ask = Ask {
            op: call.op,
            pod_uid: self.pod_uid.clone(),
            incarnation: self.incarnation,
            fence: self.fence.as_deref().cloned(),
            start: call.start.clone(),
            others_dead,
        };
        self.op = Op::Asking(Attempt { call, conn: None, offline });
        vec![Action::Ask(Box::new(ask))]
    }

    /// Nobody can be asked (any more).
    pub(super) fn lose_agent(&mut self) -> Vec<Action> {
        match &self.op {
            Op::Asking(attempt) if attempt.offline => self.run_owing(),
            Op::Asking(_) | Op::Restoring(_) | Op::Held(_) => self.drop_attempt(Refusal::AgentAway),
            _ => vec![],
        }
    }

    /// The stated exception.
    fn run_owing(&mut self) -> Vec<Action> {
        if let Op::Asking(attempt) = &self.op {
            self.owes_cold = Some(attempt.call.start.before.clone());
        }
        self.run_cold()
    }

    fn start_deadline(&mut self) -> Vec<Action> {
        match &self.op {
            Op::Proving(_) => self.fails(Refusal::OthersLive),
            Op::Asking(_) | Op::Restoring(_) | Op::Held(_) => {
                let told = self.aborted();
                told.into_iter().chain(self.drop_attempt(Refusal::StoreAway)).collect()
            }
            Op::Committing { .. } => vec![Action::Started(Err(Refusal::Settling))],
            _ => vec![],
        }
    }

    pub(super) fn plan(&mut self, from: Conn, checkpoint: CheckpointId) -> Vec<Action> {
        let early = !self.rules.hold(Rule::HoldFirst);
        match &self.op {
            Op::Asking(attempt) if attempt.conn == Some(from) && self.tasks == Tasks::Dead => {
                self.op = Op::Restoring(attempt.clone());
                vec![Action::Restore(checkpoint)]
            }
            Op::Committing { .. } if early => vec![Action::Restore(checkpoint)],
            _ => vec![refused(from, Refusal::Busy)],
        }
    }

    fn held(&mut self) -> Vec<Action> {
        match &self.op {
            Op::Restoring(attempt) => {
                let conn = attempt.conn;
                self.op = Op::Held(attempt.clone());
                self.tasks = Tasks::Held;
                conn.map(|conn| send(conn, ToAgent::Held)).into_iter().collect()
            }
            Op::Committing { conn, .. } if !self.rules.hold(Rule::HoldFirst) => {
                let conn = *conn;
                self.tasks = Tasks::Held;
                conn.map(|conn| send(conn, ToAgent::Held)).into_iter().collect()
            }
            _ => vec![],
        }
    }

    fn restore_failed(&mut self, never: bool) -> Vec<Action> {
        let message = ToAgent::RestoreFailed { never };
        match &self.op {
            Op::Restoring(attempt) => {
                let conn = attempt.conn;
                self.op = Op::Asking(Attempt { offline: false, ..attempt.clone() });
                conn.map(|conn| send(conn, message)).into_iter().collect()
            }
            Op::Committing { conn, .. } if !self.rules.hold(Rule::HoldFirst) => {
                conn.map(|conn| send(conn, message)).into_iter().collect()
            }
            _ => vec![],
        }
    }

    pub(super) fn commit(&mut self, from: Conn, at: LineageRef, entry: Box<Entry>) -> Vec<Action> {
        let attempt = match &self.op {
            Op::Asking(attempt) | Op::Held(attempt) if attempt.conn == Some(from) => attempt,
            _ => return vec![refused(from, Refusal::Busy)],
        };
        if !self.names_me(&entry) {
            return vec![refused(from, Refusal::Busy)];
        }
        let asked = attempt.call.asked;
        let written = if self.rules.hold(Rule::FenceFirst) {
            let fence = self.claim_fence(at, &entry);
            self.replace_fence(fence)
        } else {
            None
        };
        self.op = Op::Committing { entry, asked, conn: Some(from) };
        written.into_iter().chain([send(from, ToAgent::Committing)]).collect()
    }

    fn claim_fence(&self, at: LineageRef, entry: &Entry) -> Fence {
        let before = self.fence.as_deref();
        let same_life = before.filter(|fence| fence.incarnation == self.incarnation);
        let seen = before.filter(|fence| fence.at == at).and_then(|fence| fence.seen);
        Fence {
            at,
            incarnation: self.incarnation,
            state: FenceState::Armed,
            op: entry.op,
            lived: same_life.is_some_and(|fence| fence.lived),
            consumed: before.and_then(|fence| fence.consumed),
            slot: Some(entry.seq),
            seen,
            gone: None,
        }
    }

    pub(super) fn resume(&mut self, from: Conn, entry: &Entry) -> Vec<Action> {
        let (ours, asked) = match &self.op {
            Op::Committing { entry: committed, asked, .. } => {
                (entry.is_attempt(committed) && self.names_me(entry), *asked)
            }
            Op::Held(attempt) => {
                let sound = self.rules.hold(Rule::TakeOver) && self.rules.hold(Rule::Idempotence);
                (!sound, attempt.call.asked)
            }
            _ => (false, None),
        };
        if !ours {
            return vec![refused(from, Refusal::Settling)];
        }
        let held = self.tasks == Tasks::Held;
        self.tasks = Tasks::Running;
        let released = Released { seq: entry.seq, asked, conn: Some(from) };
        if held {
            let early =
                if self.rules.hold(Rule::LivesFirst) { None } else { self.lives(&released) };
            self.op = Op::Releasing(released);
            return early.into_iter().chain([Action::RunHeld]).collect();
        }
        let told = self.runs(&released);
        std::iter::once(Action::RunCold).chain(told).collect()
    }

    /// The held tasks run: only now is there a life that consumes its request. Their CRIU may die until the last moment, and who
    /// starts then must get its memory.
    fn released(&mut self) -> Vec<Action> {
        let Op::Releasing(released) = &self.op else { return vec![] };
        let released = released.clone();
        self.runs(&released)
    }

    /// Tells that they run, then writes it down: a life goes on whose fence still says less than is true.
    fn runs(&mut self, released: &Released) -> Vec<Action> {
        self.op = Op::None;
        let written = self.lives(released);
        let told = released.conn.map(|conn| send(conn, ToAgent::Resumed));
        told.into_iter().chain([Action::Started(Ok(()))]).chain(written).collect()
    }

    fn lives(&mut self, released: &Released) -> Option<Action> {
        let (incarnation, asked, seq) = (self.incarnation, released.asked, released.seq);
        self.mark(|fence| {
            fence.incarnation = incarnation;
            fence.state = FenceState::Owned;
            fence.lived = true;
            fence.consumed = asked.or(fence.consumed);
            fence.seen = fence.seen.max(Some(seq));
        })
    }

    pub(super) fn abort(&mut self, from: Conn, why: Refusal) -> Vec<Action> {
        match &self.op {
            Op::Asking(attempt) if attempt.offline && why == Refusal::StoreAway => {
                let ran = self.run_owing();
                std::iter::once(send(from, ToAgent::Done)).chain(ran).collect()
            }
            Op::Asking(_) | Op::Restoring(_) | Op::Held(_) | Op::Committing { .. } => {
                self.drop_attempt_for(Some(from), why)
            }
            _ => vec![refused(from, Refusal::Busy)],
        }
    }

    /// Only without [`Rule::CommittingWaits`] a lost connection aborts an attempt that may have its slot.
    pub(super) fn committing_and_alone(&mut self) -> Vec<Action> {
        if self.rules.hold(Rule::CommittingWaits) {
            return vec![];
        }
        self.drop_attempt(Refusal::AgentAway)
    }

    pub(super) fn drop_attempt(&mut self, why: Refusal) -> Vec<Action> {
        self.drop_attempt_for(None, why)
    }

    /// Ends the attempt: what is held or being restored is killed; other containers that run are not touched.
    fn drop_attempt_for(&mut self, reply: Option<Conn>, why: Refusal) -> Vec<Action> {
        let restores = matches!(self.op, Op::Restoring(_)) || self.tasks == Tasks::Held;
        if restores {
            return self.kill(reply, why);
        }
        let said = reply.map(|to| send(to, ToAgent::Done));
        said.into_iter().chain(self.fails(why)).collect()
    }

    fn fails(&mut self, why: Refusal) -> Vec<Action> {
        self.op = Op::None;
        vec![Action::Started(Err(why))]
    }
}
