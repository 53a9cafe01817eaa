//! A start of containerd: asking the agent, restoring, and the answer.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use godwit_ownership::Refusal;
use godwit_ownership::message::Ask;
use godwit_ownership::shim::{Conn, Event, Phase, StartCall};
use godwit_types::{Code, OpId};
use godwit_wire::WireError;
use godwit_wire::agent_op::{AskStart, BeginRestore, HeldTask, Plan, Resumed, ToAgentBody};
use tokio::sync::{oneshot, watch};
use tracing::{info, warn};

use super::actor::Actor;
use super::hydrating::Hydrating;
use super::input::{Asked, Input, StartAnswer, StartInput};
use super::{describe, words};
use crate::container::{Container, Origin};
use crate::error::{Error, Result, chain};
use crate::hooks::Restored;
use crate::restore::attempt::{self, Attempt, Decision};
use crate::restore::hydrate;
use crate::restore::work_dir::WorkDir;

/// What is attempted before and after the question of a start.
const ASK: &str = "ask the agent";
const READ: &str = "read the agent's answer, shim and agent may be of different versions";

/// The start that is on its way.
#[derive(Debug)]
pub(super) struct Starting {
    op: OpId,
    container: Arc<Container>,
    answer: Option<oneshot::Sender<StartAnswer>>,
    /// The agent's own sentence about its last refusal.
    sentence: Option<godwit_wire::Refusal>,
    plan: Option<(Plan, Vec<OwnedFd>)>,
    /// Of the plan that is carried out.
    point: Option<Point>,
    pub(super) attempt: Option<Held>,
    held: Option<attempt::Held>,
    work: Option<WorkDir>,
    pub(super) failure: Option<Box<attempt::Failure>>,
    /// The machine has answered, and the restored init is awaited.
    pub(super) granted: bool,
    /// On which connection an abort is to be answered.
    pub(super) aborting: Option<Conn>,
    /// The connection of the operation.
    conn: Option<Conn>,
    /// The agent has noted that it runs.
    noted: bool,
}

/// Which checkpoint is restored, for `Status`.
#[derive(Debug, Clone)]
pub(super) struct Point {
    pub(super) op: OpId,
    pub(super) store: String,
    pub(super) tenant: String,
    pub(super) checkpoint: String,
}

/// The handle of an attempt that runs.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) decision: Option<oneshot::Sender<Decision>>,
    pub(super) over: watch::Receiver<bool>,
}

impl Held {
    /// Waits until nothing of it is left. Whoever waits has decided.
    pub(super) async fn over(mut self) {
        drop(self.decision.take());
        // Its task is gone: it was over.
        let _ = self.over.wait_for(|over| *over).await;
    }
}

impl Starting {
    fn new(
        op: OpId,
        container: Arc<Container>,
        answer: Option<oneshot::Sender<StartAnswer>>,
    ) -> Self {
        Self {
            op,
            container,
            answer,
            sentence: None,
            plan: None,
            point: None,
            attempt: None,
            held: None,
            work: None,
            failure: None,
            granted: false,
            aborting: None,
            conn: None,
            noted: false,
        }
    }

    /// Gives the attempt up, unless its tasks run.
    pub(super) fn abort(&mut self) -> Option<Held> {
        let attempt = self.attempt.as_mut()?;
        if let Some(decision) = attempt.decision.take() {
            // An attempt that has failed already needs no decision.
            let _ = decision.send(Decision::Abort);
        }
        self.attempt.take().filter(|_| !self.granted)
    }

    /// What is told with `Held` and `Resumed`.
    pub(super) fn tasks(&self) -> Vec<HeldTask> {
        let tasks = self.held.iter().flat_map(|held| &held.tasks);
        let told = tasks.map(|task| HeldTask {
            container: self.container.id().to_owned(),
            pid: task.pid,
            vpid: task.vpid,
        });
        told.collect()
    }

    pub(super) fn resumed(&self) -> Resumed {
        Resumed { tasks: self.tasks().into_iter().filter(|task| task.vpid == 1).collect() }
    }

    /// The agent has read the last word on this connection.
    pub(super) fn noted(&mut self, conn: Conn) {
        self.noted |= self.granted && self.conn == Some(conn);
    }

    pub(super) fn container(&self) -> &str {
        self.container.id()
    }
}

impl Actor {
    pub(super) async fn start(&mut self, start: StartInput) {
        let StartInput { op, container, answer } = start;
        if let Some(starting) = &mut self.starting {
            if starting.container.id() == container.id() && starting.answer.is_none() {
                // The outcome of the former try is on its way already.
                starting.answer = Some(answer);
                return;
            }
            let why = words::refusal(&Refusal::Busy, container.id());
            return refuse(answer, &why, false);
        }
        let restores = matches!(container.origin(), Origin::Restore { .. });
        let before = self.past.before(&container, self.machine.fence().is_some());
        let asked = words::asked(container.origin());
        let call = StartCall { op, start: words::start(restores, before), asked };
        info!(container = container.id(), op = %op, restores, "start");
        self.starting = Some(Starting::new(op, container, Some(answer)));
        self.feed(Event::Start(Box::new(call))).await;
    }

    pub(super) async fn start_deadline(&mut self, op: OpId) {
        let current = self.starting.as_ref().is_some_and(|starting| starting.op == op);
        // After `Committing` no deadline ends it: only the settled slot does.
        if current && self.machine.phase() == Phase::Starting {
            self.feed(Event::StartDeadline).await;
        }
    }

    /// Connects to the agent beside the actor.
    pub(super) fn ask(&mut self, ask: &Ask) {
        let Some(starting) = &mut self.starting else { return };
        let (path, inputs, op) = (self.places.agent.clone(), self.inputs.clone(), ask.op);
        starting.op = op;
        tokio::spawn(async move {
            let socket = Asked::connect(&path).await;
            // An actor that is gone needs no word.
            let _ = inputs.send(Input::Asked(op, socket)).await;
        });
    }

    /// The agent is there: asks it. Or it is not.
    pub(super) async fn asked(&mut self, op: OpId, socket: Result<Asked, WireError>) {
        let waits = self.starting.as_ref().is_some_and(|starting| starting.op == op);
        if !waits || self.machine.phase() != Phase::Starting {
            return;
        }
        let socket = match socket {
            Ok(socket) => socket,
            Err(why) if is_away(&why) => return self.agent_away(&why).await,
            Err(why) => return self.end_start(Code::Unavailable, ASK, chain(&why)).await,
        };
        let (body, spec) = match self.question() {
            Ok(question) => question,
            Err(why) => return self.end_start(why.code(), ASK, why.chain()).await,
        };
        let fds: Vec<_> = spec.iter().map(std::os::fd::AsFd::as_fd).collect();
        if let Err(why) = socket.send(body, &fds).await {
            return self.agent_away(&why).await;
        }
        let conn = self.conns.ask(socket);
        if let Some(starting) = &mut self.starting {
            starting.conn = Some(conn);
        }
        self.feed(Event::Asked(conn)).await;
    }

    async fn agent_away(&mut self, why: &WireError) {
        warn!(%why, "the agent cannot be asked");
        self.feed(Event::AgentAway).await;
    }

    /// The agent answers what this shim cannot read: asking again would bring the same. Nothing but the end of the start may follow,
    /// and after `Committing` not even that.
    pub(super) async fn unreadable(&mut self, from: Conn, why: &WireError) {
        let asked = self.starting.as_ref().is_some_and(|starting| starting.conn == Some(from));
        if asked && !is_away(why) {
            self.end_start(Code::Corrupt, READ, chain(why)).await;
        }
    }

    /// Ends a start that has no slot yet, with a sentence of this shim's own.
    async fn end_start(&mut self, code: Code, attempt: &str, why: String) {
        let sentence = format!("could not {attempt}: {why}");
        warn!(why = sentence, "a start is given up");
        if self.machine.phase() == Phase::Starting {
            self.note_sentence(Some(godwit_wire::Refusal::new(code, sentence)));
            self.feed(Event::StartDeadline).await;
        }
    }

    fn question(&mut self) -> Result<(ToAgentBody, Option<OwnedFd>)> {
        let fence = self.machine.fence().map(godwit_ownership::Fence::encode).transpose();
        let fence = fence.map_err(|why| Error::Invalid(why.to_string()))?.unwrap_or_default();
        let (pod_key, incarnation) = (self.key.clone(), self.incarnation());
        let others_dead = self.others_dead();
        let starting = self.starting.as_mut();
        let starting = starting.ok_or_else(|| Error::Cancelled("the start is over".into()))?;
        let container = Arc::clone(&starting.container);
        let before = Some(words::before(&self.past.before(&container, !fence.is_empty())));
        let annotations = describe::annotations(container.spec());
        if !matches!(container.origin(), Origin::Restore { .. }) {
            let ask = AskStart {
                pod_uid: pod_key.clone(),
                pod_key,
                incarnation,
                container: container.id().to_owned(),
                fence,
                before,
                op: starting.op.to_string(),
                others_dead,
                namespace: container.namespace().to_owned(),
                annotations,
            };
            return Ok((ask.into(), None));
        }
        starting.work = None;
        let work = WorkDir::make(starting.op)?;
        let begin = BeginRestore {
            op: starting.op.to_string(),
            pod_uid: pod_key.clone(),
            pod_key,
            incarnation,
            namespace: container.namespace().to_owned(),
            container: container.id().to_owned(),
            annotations,
            rootfs: container.rootfs().display().to_string(),
            fence,
            work_dir: work.path().display().to_string(),
            before,
            others_dead,
        };
        starting.work = Some(work);
        Ok((begin.into(), Some(describe::spec(&container)?)))
    }

    pub(super) fn note_plan(&mut self, plan: Plan, fds: Vec<OwnedFd>) {
        if let Some(starting) = &mut self.starting {
            starting.plan = Some((plan, fds));
        }
    }

    pub(super) fn note_sentence(&mut self, why: Option<godwit_wire::Refusal>) {
        if let Some(starting) = &mut self.starting {
            starting.sentence = why;
        }
    }

    pub(super) fn note_abort(&mut self, from: Conn) {
        if let Some(starting) = &mut self.starting {
            starting.aborting = Some(from);
        }
    }

    /// Starts the attempt of the plan that came.
    pub(super) fn begin_restore(&mut self) -> Result<()> {
        let (inputs, reaper) = (self.inputs.clone(), self.pod.reaper().clone());
        let starting = self.starting.as_mut();
        let starting = starting.ok_or_else(|| Error::Cancelled("the start is over".into()))?;
        let taken = starting.plan.take().zip(starting.work.take());
        let ((plan, pager_fds), work) =
            taken.ok_or_else(|| Error::Refused("the agent's plan did not come".into()))?;
        let wanted = usize::try_from(plan.pager_fds).unwrap_or(usize::MAX);
        if pager_fds.len() != wanted {
            return Err(Error::Refused(format!(
                "the agent's plan came with {} descriptors instead of {wanted}",
                pager_fds.len()
            )));
        }
        let op = starting.op;
        let at = plan.at.clone().unwrap_or_default();
        starting.point = Some(Point {
            op,
            store: at.store,
            tenant: at.tenant,
            checkpoint: plan.checkpoint.clone(),
        });
        let container = Arc::clone(&starting.container);
        let attempt = Attempt { container, reaper, plan, pager_fds, work };
        let (decision, decided) = oneshot::channel();
        let (done, over) = watch::channel(false);
        let (held, holds) = oneshot::channel();
        starting.attempt = Some(Held { decision: Some(decision), over });
        let news = inputs.clone();
        tokio::spawn(async move {
            if let Ok(held) = holds.await {
                // An actor that is gone needs no word.
                let _ = news.send(Input::Held(op, held)).await;
            }
        });
        tokio::spawn(async move {
            let result = attempt.run(held, decided).await;
            done.send_replace(true);
            let _ = inputs.send(Input::Over(op, result)).await;
        });
        Ok(())
    }

    pub(super) async fn held(&mut self, op: OpId, held: attempt::Held) {
        let Some(starting) = self.starting.as_mut().filter(|starting| starting.op == op) else {
            return;
        };
        info!(container = starting.container(), tasks = held.tasks.len(), "restored and held");
        starting.held = Some(held);
        self.feed(Event::Held).await;
    }

    /// The machine's answer to a start.
    pub(super) fn started(&mut self, result: Result<(), Refusal>) {
        let Some(starting) = &mut self.starting else { return };
        match result {
            Ok(()) if starting.granted => {
                // Answered when runc has ended: see `over`.
                self.past.began(&starting.container, true);
            }
            Ok(()) => {
                self.past.began(&starting.container, false);
                answer(starting, StartAnswer::Cold);
                self.starting = None;
            }
            Err(why) => {
                let told = starting.told(&why);
                if let Some(sender) = starting.answer.take() {
                    refuse(sender, &told, why == Refusal::AgentAway);
                }
                if !starting.granted {
                    self.starting = None;
                }
            }
        }
    }

    /// An attempt is over: it runs, or nothing of it does.
    pub(super) async fn over(
        &mut self,
        op: OpId,
        result: Result<attempt::Restored, Box<attempt::Failure>>,
    ) {
        let current = self.starting.as_ref().is_some_and(|starting| starting.op == op);
        match (result, current) {
            (Ok(restored), true) => self.runs(restored),
            (Ok(restored), false) => {
                // It was granted: nobody else can have ended it.
                warn!(pid = restored.pid, "a restore that nobody waits for runs");
                self.feed(Event::Kill).await;
            }
            (Err(failure), true) => self.failed(failure).await,
            (Err(_), false) => {}
        }
    }

    fn runs(&mut self, restored: attempt::Restored) {
        let Some(mut starting) = self.starting.take() else { return };
        let hydrating = restored.pager.is_some();
        answer(
            &mut starting,
            StartAnswer::Runs(Restored::Running { pid: restored.pid, hydrating }),
        );
        let attempt::Restored { pager, work, .. } = restored;
        let (Some(pager), Some(point)) = (pager, starting.point) else {
            drop(work);
            if let Some(conn) = starting.conn.filter(|_| starting.noted) {
                self.conns.close(conn);
            }
            return;
        };
        let container = starting.container;
        let id = container.id().to_owned();
        self.hydrating.insert(id, Hydrating { point, conn: starting.conn, begun: Instant::now() });
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let outcome = hydrate::supervise(Arc::clone(&container), pager, work).await;
            // An actor that is gone needs no word.
            let _ = inputs.send(Input::Hydrated(container, outcome)).await;
        });
    }

    async fn failed(&mut self, failure: Box<attempt::Failure>) {
        let Some(starting) = &mut self.starting else { return };
        let granted = starting.granted;
        starting.attempt = None;
        starting.held = None;
        if let Some(sender) = starting.answer.take_if(|_| granted) {
            let why = failure.told(starting.container.id());
            refuse(sender, &why, false);
        }
        starting.failure = Some(failure);
        match self.machine.phase() {
            // The kill that ended it waits for it by itself.
            Phase::Killing => {}
            // Held, or waiting for its slot, or running: it died by itself.
            _ if granted || self.machine.tasks() != godwit_ownership::shim::Tasks::Dead => {
                self.feed(Event::Died).await;
                if granted {
                    self.starting = None;
                }
            }
            _ => self.feed(Event::RestoreFailed { never: false }).await,
        }
    }
}

impl Starting {
    /// The sentence for containerd: what the agent said, what went wrong here, or the machine's own.
    fn told(&self, why: &Refusal) -> godwit_wire::Refusal {
        let id = self.container.id();
        match (&self.failure, &self.sentence) {
            (Some(failure), _) if !failure.proved_dead => failure.told(id),
            (_, Some(sentence)) => sentence.clone(),
            (Some(failure), None) => failure.told(id),
            (None, None) => words::refusal(why, id),
        }
    }
}

/// Whether asking again may help: nobody answers, or does not any more.
fn is_away(why: &WireError) -> bool {
    use WireError::{Busy, Closed, Io, NobodyListens, Timeout};
    matches!(why, Io { .. } | NobodyListens { .. } | Busy { .. } | Closed | Timeout { .. })
}

fn answer(starting: &mut Starting, what: StartAnswer) {
    if let Some(sender) = starting.answer.take() {
        // containerd's request may be gone.
        let _ = sender.send(what);
    }
}

fn refuse(sender: oneshot::Sender<StartAnswer>, why: &godwit_wire::Refusal, agent_away: bool) {
    let why = error_of(why);
    // containerd's request may be gone.
    let _ = sender.send(StartAnswer::No { why, agent_away });
}

/// A refusal as containerd reads it.
fn error_of(why: &godwit_wire::Refusal) -> Error {
    let told = why.reason.clone();
    match why.means() {
        Code::Unavailable => Error::Unavailable(told),
        Code::Precondition => Error::Precondition(told),
        Code::Cancelled => Error::Cancelled(told),
        Code::AlreadyExists => Error::AlreadyExists(told),
        Code::NotFound | Code::Refused | Code::Corrupt | Code::Internal => Error::Refused(told),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A start whose tasks are held: what is decided about them, and the end of the attempt.
    pub(in crate::op) fn held(
        container: &Arc<Container>,
    ) -> (Starting, oneshot::Receiver<Decision>, watch::Sender<bool>) {
        let (decision, decided) = oneshot::channel();
        let (done, over) = watch::channel(false);
        let mut starting = Starting::new(OpId::mint(), Arc::clone(container), None);
        starting.attempt = Some(Held { decision: Some(decision), over });
        (starting, decided, done)
    }
}
