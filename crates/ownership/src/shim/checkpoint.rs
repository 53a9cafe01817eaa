//! The shim during a checkpoint: from `Begin` to running, stopped or moved.
//!
//! Keeps: before the seal the shim thaws by itself when the deadline passes or the connection ends; a seal is granted only to a pod
//! that was frozen without a gap since its dump; after it only a settled slot lets the pod go.

use godwit_types::{OpId, Outcome};

use super::{
    Action, AfterThaw, Checkpoint, Conn, CriuEnd, Event, Members, Op, ShimMachine, Tasks, refused,
    send,
};
use crate::admit::Refusal;
use crate::entry::Entry;
use crate::fence::{Fence, FenceState, LineageRef};
use crate::message::ToAgent;
use crate::rules::Rule;
use crate::state::Kind;

impl ShimMachine {
    pub(super) fn begin(
        &mut self,
        from: Conn,
        op: OpId,
        outcome: Outcome,
        at: LineageRef,
    ) -> Vec<Action> {
        if self.op != Op::None || self.tasks != Tasks::Running {
            return vec![refused(from, Refusal::Busy)];
        }
        let arms = outcome.gives_away() && self.rules.hold(Rule::Armed);
        let fence = Fence {
            at,
            incarnation: self.incarnation,
            state: if arms { FenceState::Armed } else { FenceState::Owned },
            op: Some(op),
            lived: true,
            consumed: self.fence.as_ref().and_then(|fence| fence.consumed),
            slot: self.slot(),
            seen: self.fence.as_ref().and_then(|fence| fence.seen),
            gone: None,
        };
        let written = self.replace_fence(fence);
        let (live, dumped, frozen, intact) = (0, Members::new(), 0, true);
        let checkpoint = Checkpoint { op, outcome, conn: from, live, dumped, frozen, intact };
        self.op = Op::Checkpoint(checkpoint);
        written.into_iter().chain([send(from, ToAgent::Begun)]).collect()
    }

    pub(super) fn freeze(&mut self, from: Conn) -> Vec<Action> {
        match &self.op {
            Op::Checkpoint(checkpoint)
                if checkpoint.conn == from && self.tasks == Tasks::Running =>
            {
                vec![Action::Freeze]
            }
            _ => vec![refused(from, Refusal::Busy)],
        }
    }

    pub(super) fn on_checkpoint_event(&mut self, event: Event) -> Vec<Action> {
        if event == Event::Thawed {
            return self.thawed();
        }
        let Op::Checkpoint(checkpoint) = &mut self.op else { return vec![] };
        match event {
            Event::Frozen { members } => {
                let to = checkpoint.conn;
                checkpoint.frozen = members;
                checkpoint.intact = true;
                self.tasks = Tasks::Frozen;
                vec![send(to, ToAgent::Frozen)]
            }
            Event::FreezeFailed => self.roll_back(Some(ToAgent::Aborted)),
            Event::FreezeDeadline => self.roll_back(Some(ToAgent::Aborted)),
            Event::Woken => {
                checkpoint.intact = false;
                vec![]
            }
            Event::CriuStarted => {
                checkpoint.live = checkpoint.live.saturating_add(1);
                vec![]
            }
            Event::CriuEnded(end) => self.criu_ended(end),
            _ => vec![],
        }
    }

    fn criu_ended(&mut self, end: CriuEnd) -> Vec<Action> {
        if end.killed {
            return self.on_kill();
        }
        let Op::Checkpoint(checkpoint) = &mut self.op else { return vec![] };
        checkpoint.live = checkpoint.live.saturating_sub(1);
        checkpoint.dumped.extend(end.dumped.then_some(end.member));
        // Whoever reads it as thawed: what this operation has frozen is let go by its thaw, and by nothing else.
        checkpoint.intact &= end.dumped && end.frozen;
        vec![]
    }

    pub(super) fn thaw(&mut self, from: Conn) -> Vec<Action> {
        match &self.op {
            Op::Checkpoint(checkpoint) if checkpoint.conn == from && checkpoint.live == 0 => {
                self.roll_back(Some(ToAgent::Thawed))
            }
            _ => vec![refused(from, Refusal::Busy)],
        }
    }

    pub(super) fn cancel(&mut self, from: Conn, unfence: bool) -> Vec<Action> {
        match &self.op {
            Op::Checkpoint(checkpoint) if checkpoint.conn == from => {
                let fence = if unfence { AfterThaw::Removed } else { AfterThaw::Owned };
                self.go_on(Some((from, ToAgent::Done)), fence)
            }
            Op::Sealed { .. } => vec![refused(from, Refusal::Settling)],
            _ => vec![send(from, ToAgent::Done)],
        }
    }

    /// Ends the unsealed checkpoint; the pod runs on.
    pub(super) fn roll_back(&mut self, reply: Option<ToAgent>) -> Vec<Action> {
        let Op::Checkpoint(checkpoint) = &self.op else { return vec![] };
        let reply = reply.map(|message| (checkpoint.conn, message));
        self.go_on(reply, AfterThaw::Owned)
    }

    /// Lets the pod run. From now on its tasks may run, whatever the thaw has done so far.
    fn go_on(&mut self, reply: Option<(Conn, ToAgent)>, fence: AfterThaw) -> Vec<Action> {
        let was = self.tasks;
        self.op = Op::Thawing { reply, fence };
        if was == Tasks::Frozen {
            self.tasks = Tasks::Running;
            return vec![Action::Thaw];
        }
        self.thawed()
    }

    fn thawed(&mut self) -> Vec<Action> {
        let Op::Thawing { reply, fence } = &mut self.op else { return vec![] };
        let (reply, fence) = (reply.take(), *fence);
        self.op = Op::None;
        let written = match fence {
            AfterThaw::Owned => self.mark(|fence| fence.state = FenceState::Owned),
            AfterThaw::Removed => Some(self.write_fence(None)),
        };
        written.into_iter().chain(reply.map(|(to, message)| send(to, message))).collect()
    }

    pub(super) fn seal(
        &mut self,
        from: Conn,
        entry: Box<Entry>,
        reclaim_after_s: Option<u64>,
    ) -> Vec<Action> {
        let Op::Checkpoint(checkpoint) = &self.op else {
            return vec![refused(from, Refusal::NotContinuous)];
        };
        let may = checkpoint.outcome.gives_away() || !self.rules.hold(Rule::LeaveRunning);
        let still = self.tasks == Tasks::Frozen && checkpoint.intact;
        // A dump of each, and none that counts for another.
        let whole = checkpoint.live == 0
            && checkpoint.frozen > 0
            && (0..checkpoint.frozen).all(|member| checkpoint.dumped.contains(&member));
        if checkpoint.conn != from || !self.is_me(&entry.by) || !may {
            return vec![refused(from, Refusal::Busy)];
        }
        if !(whole && still) && self.rules.hold(Rule::Continuous) {
            return self.roll_back(Some(ToAgent::NotContinuous));
        }
        self.tasks = Tasks::Frozen;
        self.op = Op::Sealed { entry, reclaim_after_s, conn: Some(from) };
        vec![send(from, ToAgent::Sealed)]
    }

    /// Only without [`Rule::SealedHolds`] a lost connection thaws a sealed pod.
    pub(super) fn sealed_and_alone(&mut self) -> Vec<Action> {
        if self.rules.hold(Rule::SealedHolds) {
            return vec![];
        }
        self.go_on(None, AfterThaw::Owned)
    }

    pub(super) fn hold(&mut self, from: Conn, entry: &Entry) -> Vec<Action> {
        if !matches!(self.op, Op::Sealed { .. } | Op::Checkpoint(_)) || !self.names_me(entry) {
            return vec![refused(from, Refusal::Busy)];
        }
        let written = if self.rules.hold(Rule::FenceSettled) {
            self.mark(|fence| fence.slot = Some(entry.seq))
        } else {
            None
        };
        written.into_iter().chain([send(from, ToAgent::Done)]).collect()
    }

    pub(super) fn stands(&mut self, from: Conn, entry: &Entry) -> Vec<Action> {
        if !matches!(self.op, Op::Checkpoint(_)) || !self.names_me(entry) {
            return vec![refused(from, Refusal::Busy)];
        }
        let written = self.mark(|fence| fence.seen = fence.seen.max(Some(entry.seq)));
        written.into_iter().chain([send(from, ToAgent::Done)]).collect()
    }

    pub(super) fn unseal(&mut self, from: Conn, entry: &Entry, unwritten: bool) -> Vec<Action> {
        let names_me = self.names_me(entry);
        match &self.op {
            Op::Sealed { entry: sealed, .. } if self.lets_go(sealed, entry, unwritten) => {
                self.go_on(Some((from, ToAgent::Done)), AfterThaw::Owned)
            }
            Op::Checkpoint(_) if !self.rules.hold(Rule::Seal) => {
                self.go_on(Some((from, ToAgent::Done)), AfterThaw::Owned)
            }
            Op::None | Op::Thawing { .. } if names_me && self.tasks == Tasks::Running => {
                self.owes_cold = None;
                vec![send(from, ToAgent::Done)]
            }
            _ => vec![refused(from, Refusal::Settling)],
        }
    }

    /// The sealed slot is settled, or its entry was never written, and the newest entry names us.
    fn lets_go(&self, sealed: &Entry, newest: &Entry, unwritten: bool) -> bool {
        let before = unwritten && newest.seq.next() == sealed.seq;
        let settled = before || newest.seq >= sealed.seq || !self.rules.hold(Rule::Not404);
        let ours = self.names_me(newest) || !self.rules.hold(Rule::ReclaimSettles);
        settled && ours
    }

    pub(super) fn stopped(&mut self, from: Conn, entry: &Entry) -> Vec<Action> {
        let ours = match &self.op {
            Op::Sealed { entry: sealed, .. } => entry.is_attempt(sealed),
            Op::Checkpoint(_) => !self.rules.hold(Rule::Seal),
            _ => false,
        };
        let stops = matches!(entry.kind, Kind::Stop { .. });
        if !ours || !stops && self.rules.hold(Rule::KillAtTakeOver) {
            return vec![refused(from, Refusal::Settling)];
        }
        self.kill(Some(from), Refusal::Cancelled)
    }
}
