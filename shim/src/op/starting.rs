//! A start of containerd: asking the agent, restoring, and the answer.
//!
//! The containers of a checkpoint are restored one after another, as the kubelet starts them, and none runs before all are held. The
//! first one's connection decides for the pod; the others ([`join`]) ask for their plans on connections of their own.

mod join;
mod member;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use godwit_ownership::Refusal;
use godwit_ownership::message::Ask;
use godwit_ownership::shim::{Conn, Event, Phase, StartCall};
use godwit_types::{Code, OpId};
use godwit_wire::WireError;
use godwit_wire::agent_op::{AskStart, BeginRestore, HeldTask, Join, Plan, Resumed, ToAgentBody};
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tracing::{info, warn};

use super::actor::Actor;
use super::hydrating::Hydrating;
use super::input::{Asked, Input, StartAnswer, StartInput};
use super::{describe, words};
use crate::container::{Container, Origin};
use crate::error::{Error, Result, chain};
use crate::hooks::Restored;
use crate::restore::attempt::{self, Attempt};
use crate::restore::hydrate;
use crate::restore::quiet::Quiet;
use crate::restore::work_dir::WorkDir;

pub(super) use member::{Attempt as Held, Member};

/// What is attempted before and after the question of a start.
const ASK: &str = "ask the agent";
const READ: &str = "read the agent's answer, shim and agent may be of different versions";

/// The start that is on its way.
#[derive(Debug)]
pub(super) struct Starting {
    /// Whose connection decides.
    head: Member,
    /// Those that have joined it.
    joined: Vec<Member>,
    /// Names of all that must be held before any runs; empty: the head alone.
    pod: Vec<String>,
    /// The machine has answered, and the restored inits are awaited.
    pub(super) granted: bool,
    /// On which connection an abort is to be answered.
    pub(super) aborting: Option<Conn>,
    /// Ends the wait for containers that do not come.
    waits: Option<AbortHandle>,
}

/// Which checkpoint is restored, for `Status`.
#[derive(Debug, Clone)]
pub(super) struct Point {
    pub(super) op: OpId,
    pub(super) store: String,
    pub(super) tenant: String,
    pub(super) checkpoint: String,
}

impl Starting {
    fn new(
        op: OpId,
        container: Arc<Container>,
        answer: Option<oneshot::Sender<StartAnswer>>,
    ) -> Self {
        let head = Member::new(op, container, answer);
        let (joined, pod) = (Vec::new(), Vec::new());
        Self { head, joined, pod, granted: false, aborting: None, waits: None }
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        std::iter::once(&self.head).chain(&self.joined)
    }

    pub(super) fn members_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        std::iter::once(&mut self.head).chain(&mut self.joined)
    }

    fn member(&mut self, op: OpId) -> Option<&mut Member> {
        self.members_mut().find(|member| member.op == op)
    }

    /// Names of the others that have got a plan: their files are in place.
    fn placed(&self, op: OpId) -> Vec<String> {
        let placed = self.members().filter(|m| m.op != op && m.point.is_some());
        placed.map(|member| member.container.name().to_owned()).collect()
    }

    /// Whether it is of several containers.
    pub(super) fn is_of_several(&self) -> bool {
        !self.joined.is_empty()
    }

    /// Whether this container is one of them.
    pub(super) fn has(&self, container: &Container) -> bool {
        self.members().any(|member| member.container.id() == container.id())
    }

    /// Whether they wait for their slot in the log.
    pub(super) fn note_claim(&self, claims: bool) {
        self.members().for_each(|member| member.container.note_claim(claims));
    }

    /// Gives all attempts up, unless their tasks run.
    pub(super) fn abort(&mut self) -> Vec<Held> {
        let granted = self.granted;
        let attempts = self.members_mut().filter_map(Member::abort).collect();
        if granted { Vec::new() } else { attempts }
    }

    /// What is told with `Held`.
    pub(super) fn tasks(&self) -> Vec<HeldTask> {
        self.members().flat_map(Member::tasks).collect()
    }

    /// What each connection is told when the tasks run.
    pub(super) fn resumed(&self) -> Vec<(Conn, Resumed)> {
        let told = |member: &Member| {
            let tasks = member.tasks().filter(|task| task.vpid == 1).collect();
            Some((member.conn?, Resumed { tasks }))
        };
        self.members().filter_map(told).collect()
    }

    /// The agent has read the last word on this connection. `false`: it is none of this start's.
    pub(super) fn noted(&mut self, conn: Conn) -> bool {
        let granted = self.granted;
        let member = self.members_mut().find(|member| member.conn == Some(conn));
        member.map(|member| member.noted |= granted).is_some()
    }

    /// The container whose connection decides.
    pub(super) fn container(&self) -> &str {
        self.head.container.id()
    }

    /// Why the first that failed did.
    pub(super) fn failure(&self) -> Option<(&str, &attempt::Failure)> {
        self.members().find_map(|m| Some((m.container.id(), m.failure.as_deref()?)))
    }

    /// The sentence for containerd: what does not die; else what the agent said, what went wrong here, or the machine's own. Those that
    /// were given up for another one say so last.
    fn told(&self, why: &Refusal) -> godwit_wire::Refusal {
        let said =
            |which: fn(&Member) -> Option<godwit_wire::Refusal>| self.members().find_map(which);
        let told = said(Member::lives_on)
            .or_else(|| said(|member| member.sentence.clone()))
            .or_else(|| said(|member| member.failed().filter(|why| why.means() != Code::Cancelled)))
            .or_else(|| said(Member::failed));
        told.unwrap_or_else(|| words::refusal(why, self.container()))
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(waits) = &self.waits {
            waits.abort();
        }
    }
}

impl Actor {
    pub(super) async fn start(&mut self, start: StartInput) {
        if self.starting.is_some() {
            return self.start_beside(start);
        }
        let StartInput { op, container, answer } = start;
        let restores = matches!(container.origin(), Origin::Restore { .. });
        let before = self.past.before(&container, self.machine.fence().is_some());
        let asked = words::asked(container.origin());
        let call = StartCall { op, start: words::start(restores, before), asked };
        info!(container = container.id(), op = %op, restores, "start");
        self.starting = Some(Starting::new(op, container, Some(answer)));
        self.feed(Event::Start(Box::new(call))).await;
    }

    pub(super) async fn start_deadline(&mut self, op: OpId) {
        let waits = |member: &Member| member.op == op && member.answer.is_some();
        let current = self.starting.as_ref().is_some_and(|starting| starting.members().any(waits));
        // After `Committing` no deadline ends it: only the settled slot does.
        if current && self.machine.phase() == Phase::Starting {
            self.feed(Event::StartDeadline).await;
        }
    }

    /// The machine asks.
    pub(super) fn ask(&mut self, ask: &Ask) {
        let Some(starting) = &mut self.starting else { return };
        starting.head.op = ask.op;
        self.connect(ask.op);
    }

    /// Whether this is the connection that decides for the start.
    pub(super) fn decides(&self, conn: Conn) -> bool {
        self.starting.as_ref().is_some_and(|starting| starting.head.conn == Some(conn))
    }

    /// The start is over. Agents hear that nothing follows for containers that had joined it and do not run.
    fn end_starting(&mut self) {
        self.close_joined();
        if let Some(over) = self.starting.take() {
            over.note_claim(false);
        }
    }

    /// Connects to the agent beside the actor.
    fn connect(&self, op: OpId) {
        let (path, inputs) = (self.places.agent.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let socket = Asked::connect(&path).await;
            // An actor that is gone needs no word.
            let _ = inputs.send(Input::Asked(op, socket)).await;
        });
    }

    /// The agent is there: asks it. Or it is not.
    pub(super) async fn asked(&mut self, op: OpId, socket: Result<Asked, WireError>) {
        let Some(starting) = &mut self.starting else { return };
        if starting.head.op != op {
            return self.asked_to_join(op, socket).await;
        }
        if self.machine.phase() != Phase::Starting {
            return;
        }
        let socket = match socket {
            Ok(socket) => socket,
            Err(why) if is_away(&why) => return self.agent_away(&why).await,
            Err(why) => return self.end_start(Code::Unavailable, ASK, chain(&why)).await,
        };
        let (body, spec) = match self.question(op) {
            Ok(question) => question,
            Err(why) => return self.end_start(why.code(), ASK, why.chain()).await,
        };
        match self.put(op, socket, body, spec).await {
            Ok(conn) => self.feed(Event::Asked(conn)).await,
            Err(why) => self.agent_away(&why).await,
        }
    }

    /// Puts the question; the connection is the member's from now on.
    async fn put(
        &mut self,
        op: OpId,
        socket: Asked,
        body: ToAgentBody,
        spec: Option<OwnedFd>,
    ) -> Result<Conn, WireError> {
        let fds: Vec<_> = spec.iter().map(std::os::fd::AsFd::as_fd).collect();
        socket.send(body, &fds).await?;
        let conn = self.conns.ask(socket);
        if let Some(member) = self.starting.as_mut().and_then(|starting| starting.member(op)) {
            member.conn = Some(conn);
        }
        Ok(conn)
    }

    async fn agent_away(&mut self, why: &WireError) {
        warn!(%why, "the agent cannot be asked");
        self.feed(Event::AgentAway).await;
    }

    /// The agent answers what this shim cannot read: asking again would bring the same. Nothing but the end of the start may follow,
    /// and after `Committing` not even that.
    pub(super) async fn unreadable(&mut self, from: Conn, why: &WireError) {
        let of = |starting: &Starting| starting.members().any(|member| member.conn == Some(from));
        if self.starting.as_ref().is_some_and(of) && !is_away(why) {
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

    fn question(&mut self, op: OpId) -> Result<(ToAgentBody, Option<OwnedFd>)> {
        let fence = self.machine.fence().map(godwit_ownership::Fence::encode).transpose();
        let fence = fence.map_err(|why| Error::Invalid(why.to_string()))?.unwrap_or_default();
        let (pod_key, incarnation) = (self.key.clone(), self.incarnation());
        let others_dead = self.others_dead();
        let starting = self.starting.as_mut().ok_or_else(over)?;
        let point = starting.head.point.as_ref().filter(|_| starting.head.op != op);
        let joins = point.map(|point| Join {
            checkpoint: point.checkpoint.clone(),
            members: starting.placed(op),
        });
        let member = starting.member(op).ok_or_else(over)?;
        let container = Arc::clone(&member.container);
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
                op: op.to_string(),
                others_dead,
                namespace: container.namespace().to_owned(),
                annotations,
            };
            return Ok((ask.into(), None));
        }
        member.work = None;
        let work = WorkDir::make(op)?;
        let begin = BeginRestore {
            op: op.to_string(),
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
            joins,
        };
        member.work = Some(work);
        Ok((begin.into(), Some(describe::spec(&container)?)))
    }

    /// The plan of the container whose connection decides.
    pub(super) fn note_plan(&mut self, plan: Plan, fds: Vec<OwnedFd>) {
        if let Some(starting) = &mut self.starting {
            starting.pod.clone_from(&plan.pod);
            starting.head.plan = Some((plan, fds));
        }
    }

    pub(super) fn note_sentence(&mut self, why: Option<godwit_wire::Refusal>) {
        if let Some(starting) = &mut self.starting {
            starting.head.sentence = why;
        }
    }

    pub(super) fn note_abort(&mut self, from: Conn) {
        if let Some(starting) = &mut self.starting {
            starting.aborting = Some(from);
        }
    }

    /// The machine says: restore.
    pub(super) fn begin_restore(&mut self) -> Result<()> {
        let op = self.starting.as_ref().ok_or_else(over)?.head.op;
        self.begin_attempt(op)
    }

    /// Starts the attempt of the plan that came.
    fn begin_attempt(&mut self, op: OpId) -> Result<()> {
        let (inputs, reaper) = (self.inputs.clone(), self.pod.reaper().clone());
        let alone = !self.pod.members().iter().any(|member| member.state().executes());
        let member = self.starting.as_mut().and_then(|starting| starting.member(op));
        let member = member.ok_or_else(over)?;
        let taken = member.plan.take().zip(member.work.take());
        let ((plan, pager_fds), work) =
            taken.ok_or_else(|| Error::Refused("the agent's plan did not come".into()))?;
        let wanted = usize::try_from(plan.pager_fds).unwrap_or(usize::MAX);
        if pager_fds.len() != wanted {
            return Err(Error::Refused(format!(
                "the agent's plan came with {} descriptors instead of {wanted}",
                pager_fds.len()
            )));
        }
        let at = plan.at.clone().unwrap_or_default();
        member.point = Some(Point {
            op,
            store: at.store,
            tenant: at.tenant,
            checkpoint: plan.checkpoint.clone(),
        });
        let container = Arc::clone(&member.container);
        // Beside others that run and are heard it is restored as it is.
        let network = if alone { Quiet::of(&self.pod, &container)? } else { None };
        let attempt = Attempt { container, reaper, plan, pager_fds, work, network };
        let (decision, decided) = oneshot::channel();
        let (done, over) = watch::channel(false);
        let (held, holds) = oneshot::channel();
        member.attempt = Some(Held { decision: Some(decision), over });
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

    /// A container is restored and held: the machine hears it when all are.
    pub(super) async fn held(&mut self, op: OpId, held: attempt::Held) {
        let Some(starting) = &mut self.starting else { return };
        let Some(member) = starting.member(op) else { return };
        info!(container = member.container.id(), tasks = held.tasks.len(), "restored and held");
        member.held = Some(held);
        match starting.is_complete() {
            true => self.feed(Event::Held).await,
            false => self.wait_for_others(op),
        }
    }

    /// The machine's answer to a start.
    pub(super) fn started(&mut self, result: Result<(), Refusal>) {
        let Some(starting) = &mut self.starting else { return };
        match result {
            Ok(()) if starting.granted => {
                // Answered when runc has ended: see `over`.
                starting.members().for_each(|member| self.past.began(&member.container, true));
            }
            Ok(()) => {
                self.past.began(&starting.head.container, false);
                starting.head.answer(StartAnswer::Cold);
                self.end_starting();
            }
            Err(why) => {
                let told = starting.told(&why);
                // A look at the pod is over soon, and a checkpoint has an end.
                let again = matches!(why, Refusal::AgentAway | Refusal::Busy);
                starting.members_mut().for_each(|member| member.refuse(&told, again));
                if !starting.granted {
                    self.end_starting();
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
        let current = self.starting.as_mut().and_then(|starting| starting.member(op)).is_some();
        match (result, current) {
            (Ok(restored), true) => self.runs(op, restored),
            (Ok(restored), false) => {
                // It was granted: nobody else can have ended it.
                warn!(pid = restored.pid, "a restore that nobody waits for runs");
                self.feed(Event::Kill).await;
            }
            (Err(failure), true) => self.failed(op, failure).await,
            (Err(_), false) => {}
        }
    }

    fn runs(&mut self, op: OpId, restored: attempt::Restored) {
        let Some(starting) = &mut self.starting else { return };
        let Some(member) = starting.member(op) else { return };
        let attempt::Restored { pid, pager, work } = restored;
        member.runs = true;
        member.tell(Restored::Running { pid, hydrating: pager.is_some() });
        let (container, conn) = (Arc::clone(&member.container), member.conn);
        let (point, noted) = (member.point.take(), member.noted);
        if starting.members().all(|member| member.runs) {
            self.end_starting();
        }
        let (Some(pager), Some(point)) = (pager, point) else {
            drop(work);
            if let Some(conn) = conn.filter(|_| noted) {
                self.conns.close(conn);
            }
            return;
        };
        let id = container.id().to_owned();
        self.hydrating.insert(id, Hydrating { point, conn, begun: Instant::now() });
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            // An actor that is gone needs no word.
            let tell = async || drop(inputs.send(Input::Unfilled).await);
            let outcome = hydrate::supervise(Arc::clone(&container), pager, work, tell).await;
            let _ = inputs.send(Input::Hydrated(container, outcome)).await;
        });
    }

    async fn failed(&mut self, op: OpId, failure: Box<attempt::Failure>) {
        let Some(starting) = &mut self.starting else { return };
        let (granted, several) = (starting.granted, !starting.pod.is_empty());
        let Some(member) = starting.member(op) else { return };
        member.attempt = None;
        member.held = None;
        if granted {
            member.runs = true;
            let why = failure.told(member.container.id());
            member.refuse(&why, false);
        }
        member.failure = Some(failure);
        let none_left = granted && starting.members().all(|member| member.runs);
        match self.machine.phase() {
            // The kill that ended it waits for it by itself.
            Phase::Killing => {}
            // Its exit is told like any other; those that run beside it go on.
            _ if granted && several => {}
            // Held, or waiting for its slot, or running: it died by itself.
            _ if granted
                || !several && self.machine.tasks() != godwit_ownership::shim::Tasks::Dead =>
            {
                self.feed(Event::Died).await;
            }
            // Those that are held beside it die with it: nothing of the pod has run.
            _ if several => self.feed(Event::Kill).await,
            _ => self.feed(Event::RestoreFailed { never: false }).await,
        }
        if none_left {
            self.end_starting();
        }
    }
}

fn over() -> Error {
    Error::Cancelled("the start is over".into())
}

/// Whether asking again may help: nobody answers, or does not any more.
fn is_away(why: &WireError) -> bool {
    use WireError::{Busy, Closed, Io, NobodyListens, Timeout};
    matches!(why, Io { .. } | NobodyListens { .. } | Busy { .. } | Closed | Timeout { .. })
}

fn refuse(sender: oneshot::Sender<StartAnswer>, why: &godwit_wire::Refusal, again: bool) {
    let why = error_of(why);
    // containerd's request may be gone.
    let _ = sender.send(StartAnswer::No { why, again });
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
    use crate::restore::attempt::Decision;

    /// A start whose tasks are held: what is decided about them, and the end of the attempt.
    pub(in crate::op) fn held(
        container: &Arc<Container>,
    ) -> (Starting, oneshot::Receiver<Decision>, watch::Sender<bool>) {
        let (decision, decided) = oneshot::channel();
        let (done, over) = watch::channel(false);
        let mut starting = Starting::new(OpId::mint(), Arc::clone(container), None);
        starting.head.attempt = Some(member::Attempt { decision: Some(decision), over });
        (starting, decided, done)
    }
}
