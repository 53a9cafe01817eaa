//! One container of a start: its question, its attempt, and who waits for it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use godwit_ownership::shim::Conn;
use godwit_types::{Code, OpId};
use godwit_wire::Refusal;
use godwit_wire::agent_op::{HeldTask, Plan};
use tokio::sync::{oneshot, watch};

use super::{Point, error_of};
use crate::container::Container;
use crate::error::Error;
use crate::hooks::Restored;
use crate::op::input::StartAnswer;
use crate::restore::attempt::{self, Decision};
use crate::restore::work_dir::WorkDir;

/// A container that starts.
#[derive(Debug)]
pub(in crate::op) struct Member {
    pub(super) op: OpId,
    pub(super) container: Arc<Container>,
    /// Who called Start, until it is answered.
    pub(super) answer: Option<oneshot::Sender<StartAnswer>>,
    /// What becomes of one whose Start was answered while it is held.
    pub(super) outcome: Option<oneshot::Sender<Result<Restored, Error>>>,
    pub(super) plan: Option<(Plan, Vec<OwnedFd>)>,
    /// Of the plan that is carried out.
    pub(super) point: Option<Point>,
    pub(in crate::op) attempt: Option<Attempt>,
    pub(super) held: Option<attempt::Held>,
    pub(super) work: Option<WorkDir>,
    pub(in crate::op) failure: Option<Box<attempt::Failure>>,
    /// The agent's own sentence about its last refusal.
    pub(super) sentence: Option<Refusal>,
    /// The connection on which the agent was asked.
    pub(super) conn: Option<Conn>,
    /// The agent has noted that it runs.
    pub(super) noted: bool,
    /// It is restored, and nothing is awaited of it any more.
    pub(super) runs: bool,
}

/// The handle of an attempt that runs.
#[derive(Debug)]
pub(in crate::op) struct Attempt {
    pub(in crate::op) decision: Option<oneshot::Sender<Decision>>,
    pub(in crate::op) over: watch::Receiver<bool>,
}

impl Attempt {
    /// Waits until nothing of it is left. Whoever waits has decided.
    pub(in crate::op) async fn over(mut self) {
        drop(self.decision.take());
        // Its task is gone: it was over.
        let _ = self.over.wait_for(|over| *over).await;
    }
}

impl Member {
    pub(super) fn new(
        op: OpId,
        container: Arc<Container>,
        answer: Option<oneshot::Sender<StartAnswer>>,
    ) -> Self {
        Self {
            op,
            container,
            answer,
            outcome: None,
            plan: None,
            point: None,
            attempt: None,
            held: None,
            work: None,
            failure: None,
            sentence: None,
            conn: None,
            noted: false,
            runs: false,
        }
    }

    /// Gives the attempt up.
    pub(super) fn abort(&mut self) -> Option<Attempt> {
        let mut attempt = self.attempt.take()?;
        if let Some(decision) = attempt.decision.take() {
            // An attempt that has failed already needs no decision.
            let _ = decision.send(Decision::Abort);
        }
        Some(attempt)
    }

    /// Its tasks, once they are held.
    pub(super) fn tasks(&self) -> impl Iterator<Item = HeldTask> + '_ {
        let tasks = self.held.iter().flat_map(|held| &held.tasks);
        tasks.map(|task| HeldTask {
            container: self.container.id().to_owned(),
            pid: task.pid,
            vpid: task.vpid,
        })
    }

    /// Pid of its init, once it is held.
    pub(super) fn init(&self) -> Option<u32> {
        self.tasks().find(|task| task.vpid == 1).map(|task| task.pid)
    }

    /// Answers whoever waits.
    pub(super) fn answer(&mut self, what: StartAnswer) {
        if let Some(sender) = self.answer.take() {
            // containerd's request may be gone.
            let _ = sender.send(what);
        }
    }

    /// It runs: whoever waits is told.
    pub(super) fn tell(&mut self, restored: Restored) {
        match self.outcome.take() {
            // The life side may be gone.
            Some(outcome) => drop(outcome.send(Ok(restored))),
            None => self.answer(StartAnswer::Runs(restored)),
        }
    }

    /// It does not start: whoever waits is told.
    pub(super) fn refuse(&mut self, why: &Refusal, again: bool) {
        if let Some(outcome) = self.outcome.take() {
            // The life side may be gone.
            let _ = outcome.send(Err(error_of(why)));
        }
        self.answer(StartAnswer::No { why: error_of(why), again });
    }

    /// Why its attempt failed.
    pub(super) fn failed(&self) -> Option<Refusal> {
        Some(self.failure.as_ref()?.told(self.container.id()))
    }

    /// That something of its attempt does not die.
    pub(super) fn lives_on(&self) -> Option<Refusal> {
        let failure = self.failure.as_ref().filter(|failure| !failure.proved_dead)?;
        Some(failure.told(self.container.id()))
    }

    /// Whether the agent may think otherwise of it in a moment.
    pub(super) fn may_try_again(&self) -> bool {
        self.sentence.as_ref().is_some_and(|why| why.means() == Code::Unavailable)
    }
}
