//! The one task that owns a pod's [`ShimMachine`]: it hears everything ([`Input`]), turns it into events, and carries out the
//! actions, each completely before the next.
//!
//! Decides nothing about ownership. What takes its time and may be overtaken by a kill (thaw, kill, restore, asking the agent) runs
//! beside it and comes back as an input; late words of a job that was overtaken are known by their number and dropped.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use godwit_ownership::shim::{Action, Conn, Event, Phase, ShimMachine, Tasks};
use godwit_ownership::{Fence, ToAgent, ToShim};
use godwit_types::Code;
use godwit_wire::agent_op::{FromAgentBody, HydrationOver};
use godwit_wire::failpoint::site;
use godwit_wire::shim_op::ToShimBody;
use godwit_wire::{Received, Refusal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, error, info, warn};

use super::checkpoint::{Checkpoint, Trouble};
use super::conns::Conns;
use super::gone::PastLives;
use super::hydrating::Hydrating;
use super::input::Input;
use super::starting::Starting;
use super::{Places, words};
use crate::container::Container;
use crate::fence::FenceFile;
use crate::pod::Pod;

/// How long a shim that is to end waits for what is under way.
const LAST_JOB: Duration = Duration::from_secs(10);

/// What the actor knows of its pod. Fields are used by the files of this folder, one concern each.
pub(super) struct Actor {
    pub(super) pod: Arc<Pod>,
    pub(super) key: String,
    pub(super) places: Places,
    pub(super) fence: FenceFile,
    pub(super) machine: ShimMachine,
    pub(super) conns: Conns,
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) heard: mpsc::Receiver<Input>,
    /// What was heard and waits until held tasks run.
    pub(super) later: VecDeque<Input>,
    pub(super) checkpoint: Option<Checkpoint>,
    pub(super) trouble: Option<Trouble>,
    /// The connection of the operation.
    pub(super) operator: Option<Conn>,
    pub(super) starting: Option<Starting>,
    pub(super) hydrating: BTreeMap<String, Hydrating>,
    /// The last words on connections that their agents have not noted yet.
    pub(super) untold: BTreeMap<Conn, HydrationOver>,
    /// What says them to another agent; ends with the actor.
    pub(super) telling: JoinSet<()>,
    pub(super) past: PastLives,
    jobs: u64,
    job: Option<(u64, AbortHandle)>,
    /// Deletions that wait for the job's end.
    pub(super) put_off: Vec<(Arc<Container>, oneshot::Sender<()>)>,
    waiting: Vec<oneshot::Sender<()>>,
}

/// What follows from an action.
enum Next {
    /// The next action.
    Go,
    /// The next action; this event afterwards.
    Then(Event),
    /// No further action of this list; this event instead.
    Instead(Event),
}

impl Actor {
    pub(super) fn new(
        pod: Arc<Pod>,
        key: String,
        places: Places,
        fence: FenceFile,
        machine: ShimMachine,
        (inputs, heard): (mpsc::Sender<Input>, mpsc::Receiver<Input>),
    ) -> Self {
        Self {
            pod,
            key,
            places,
            fence,
            machine,
            conns: Conns::new(inputs.clone()),
            inputs,
            heard,
            later: VecDeque::new(),
            checkpoint: None,
            trouble: None,
            operator: None,
            starting: None,
            hydrating: BTreeMap::new(),
            untold: BTreeMap::new(),
            telling: JoinSet::new(),
            past: PastLives::default(),
            jobs: 0,
            job: None,
            put_off: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// Hears until the shim ends.
    pub(super) async fn run(mut self) {
        let mut ending: Option<oneshot::Sender<()>> = None;
        while let Some(input) = self.next_input().await {
            debug!(?input, phase = ?self.machine.phase(), "operation");
            match input {
                Input::Shutdown(done) if self.is_at_work() && ending.is_none() => {
                    ending = Some(done);
                    self.end_in_any_case();
                }
                Input::Shutdown(done) => {
                    // Nobody may wait for it any more.
                    let _ = done.send(());
                    return;
                }
                input => self.take(input).await,
            }
            if !self.is_at_work() {
                for (container, done) in std::mem::take(&mut self.put_off) {
                    self.deleted(&container, done).await;
                }
            }
            self.after_each();
            if !self.is_at_work()
                && let Some(done) = ending.take()
            {
                let _ = done.send(());
                return;
            }
        }
    }

    /// What is under way is told before the shim ends, but not waited for for ever.
    fn end_in_any_case(&self) {
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LAST_JOB).await;
            // An actor that is gone needs no word.
            let _ = inputs.send(Input::Shutdown(oneshot::channel().0)).await;
        });
    }

    pub(super) async fn take(&mut self, input: Input) {
        match input {
            Input::Accepted(socket) => drop(self.conns.serve(socket)),
            Input::Message(from, message) => self.on_message(from, message).await,
            Input::Answer(from, message) => self.on_answer(from, message).await,
            Input::Unreadable(conn, why) => self.unreadable(conn, &why).await,
            Input::Ended(conn) => {
                self.conns.forget(conn);
                self.lost(conn);
                self.note_end(conn);
                self.on_join_end(conn).await;
                self.feed(Event::Ended(conn)).await;
            }
            Input::Asked(op, socket) => self.asked(op, socket).await,
            Input::Quiet(from, begin, holds) => self.quiet(from, begin, holds).await,
            Input::Job(number, event) => self.job_done(number, event).await,
            Input::Damaged(number, container, reason) => {
                if self.is_current(number) {
                    self.trouble = Some(Trouble::Damaged { container, reason });
                    self.feed(Event::Kill).await;
                }
            }
            Input::CriuOver(session, frost) => self.criu_over(session, frost).await,
            Input::Start(start) => self.start(*start).await,
            Input::StartDeadline(op) => self.start_deadline(op).await,
            Input::Held(op, held) => self.held(op, held).await,
            Input::Over(op, result) => self.over(op, result).await,
            Input::NobodyCame(head) => self.nobody_came(head).await,
            Input::Hydrated(container, outcome) => self.hydrated(&container, outcome).await,
            Input::Unfilled => self.unfilled().await,
            Input::GiveUp(container, done) => self.give_up(&container, done).await,
            Input::Exited(container) => self.exited(&container).await,
            Input::Deleted(container, done) => self.deleted(&container, done).await,
            Input::Shutdown(_) => {}
        }
    }

    async fn on_message(&mut self, from: Conn, message: Received<ToShimBody>) {
        let means = match words::of_agent(&message.body) {
            Ok(means) => means,
            Err(why) => {
                let refusal = Refusal::new(Code::Corrupt, why.to_string());
                return self.conns.tell(from, refusal, &[]).await;
            }
        };
        match (message.body, means) {
            (ToShimBody::BeginCheckpoint(begin), Some(_)) => self.wait_quiet(from, begin).await,
            (ToShimBody::CriuStarted(started), _) => {
                self.criu_started(from, &started.container, message.fds).await;
            }
            (ToShimBody::Freeze(freeze), Some(means)) => {
                if self.note_deadline(from, freeze.deadline_ms).await {
                    self.feed(Event::Message { from, message: means }).await;
                }
            }
            (ToShimBody::Seal(_), Some(means)) => {
                if !self.stands_still() {
                    self.feed(Event::Woken).await;
                }
                self.feed(Event::Message { from, message: means }).await;
            }
            (ToShimBody::AbortHeld(abort), Some(means)) => {
                self.note_sentence(abort.why);
                self.feed(Event::Message { from, message: means }).await;
            }
            (_, Some(means)) => self.feed(Event::Message { from, message: means }).await,
            (_, None) => {}
        }
    }

    async fn on_answer(&mut self, from: Conn, message: Received<FromAgentBody>) {
        if self.has_joined(from) {
            return self.on_join_answer(from, message).await;
        }
        let of_start = !matches!(message.body, FromAgentBody::Noted(_) | FromAgentBody::Settled(_));
        if of_start && !self.decides(from) {
            // Of a start that is over.
            return self.conns.close(from);
        }
        let means = match words::of_answer(&message.body) {
            Ok(means) => means,
            Err(why) => {
                warn!(%why, "the agent's answer cannot be read");
                self.unreadable(from, &why).await;
                return self.conns.close(from);
            }
        };
        match message.body {
            FromAgentBody::Plan(plan) => self.note_plan(plan, message.fds),
            FromAgentBody::Abort(abort) => {
                self.note_sentence(abort.why);
                self.note_abort(from);
            }
            FromAgentBody::Refusal(why) => self.note_sentence(Some(why)),
            FromAgentBody::Noted(_) => self.noted(from),
            FromAgentBody::Finished(_) => self.finished().await,
            _ => {}
        }
        if let Some(message) = means {
            self.feed(Event::Message { from, message }).await;
        }
    }

    /// Steps the machine and carries out what it says, until nothing follows.
    pub(super) async fn feed(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            debug!(?event, "ownership");
            let mut actions = self.machine.step(event).into_iter();
            while let Some(action) = actions.next() {
                debug!(?action, "ownership");
                match self.act(action).await {
                    Next::Go => {}
                    Next::Then(event) => events.push_back(event),
                    Next::Instead(event) => {
                        self.drop_rest(actions);
                        events.push_front(event);
                        break;
                    }
                }
            }
        }
    }

    async fn act(&mut self, action: Action) -> Next {
        match action {
            Action::WriteFence(fence) => return self.write_fence(fence.map(|fence| *fence)).await,
            Action::Send { to, message } => self.send(to, message).await,
            Action::Ask(ask) => self.ask(&ask),
            Action::Prove => return Next::Then(Event::Proved(self.others_dead())),
            Action::Freeze => return Next::Then(self.freeze().await),
            Action::Thaw => self.begin_thaw(),
            Action::Kill => self.begin_kill(),
            Action::Restore(_) => {
                if let Err(why) = self.begin_restore() {
                    warn!(why = why.chain(), "a restore could not begin");
                    return Next::Then(Event::RestoreFailed { never: false });
                }
            }
            Action::RunHeld => {
                let several = self.starting.as_ref().is_some_and(Starting::is_of_several);
                return Next::Then(match self.run_held().await {
                    true => Event::Released,
                    // Of several, some may run.
                    false if several => Event::Kill,
                    false => Event::Died,
                });
            }
            // Whoever called Start does it when it is answered, which is next.
            Action::RunCold => {}
            Action::Started(result) => self.started(result),
        }
        Next::Go
    }

    async fn write_fence(&mut self, fence: Option<Fence>) -> Next {
        site("shim.fence.before");
        let file = self.fence.clone();
        let written = tokio::task::spawn_blocking(move || match &fence {
            Some(fence) => file.write(fence),
            None => file.remove(),
        });
        let written = written.await.unwrap_or_else(|why| {
            Err(crate::Error::Unavailable(format!("the fence's writer failed: {why}")))
        });
        site("shim.fence.written");
        match written {
            Ok(()) => Next::Go,
            Err(why) => {
                error!(why = why.chain(), "a fence could not be written");
                Next::Instead(Event::FenceFailed)
            }
        }
    }

    /// An agent whose answer was dropped must not wait for it.
    fn drop_rest(&mut self, actions: impl Iterator<Item = Action>) {
        for action in actions {
            match action {
                Action::Send { to, .. } => self.conns.close(to),
                Action::Started(result) => {
                    self.started(result.and(Err(godwit_ownership::Refusal::Interrupted)))
                }
                _ => {}
            }
        }
    }

    async fn send(&mut self, to: Conn, message: ToAgent) {
        if self.conns.is_question(to) {
            self.reply(to, message).await;
        } else {
            self.tell(to, message).await;
        }
    }

    /// Starts a job beside the actor; a job before it is overtaken.
    pub(super) fn begin_job(
        &mut self,
        job: impl Future<Output = Input> + Send + 'static,
        number: u64,
    ) {
        let inputs = self.inputs.clone();
        let task = tokio::spawn(async move {
            let done = job.await;
            // An actor that is gone needs no word.
            let _ = inputs.send(done).await;
        });
        if let Some((_, former)) = self.job.replace((number, task.abort_handle())) {
            former.abort();
        }
    }

    /// The number of the next job.
    pub(super) fn next_job(&mut self) -> u64 {
        self.jobs += 1;
        self.jobs
    }

    /// Whether a job is under way.
    pub(super) fn is_at_work(&self) -> bool {
        self.job.is_some()
    }

    pub(super) fn is_current(&self, number: u64) -> bool {
        self.job.as_ref().is_some_and(|(current, _)| *current == number)
    }

    async fn job_done(&mut self, number: u64, event: Event) {
        let deadline = event == Event::FreezeDeadline;
        if deadline && !self.is_deadline(number) || !deadline && !self.is_current(number) {
            return;
        }
        match &event {
            Event::FreezeDeadline => self.deadline_passed(),
            Event::Thawed => self.thawed(),
            Event::Killed => self.said_farewell(),
            _ => {}
        }
        if !deadline {
            self.job = None;
        }
        self.feed(event).await;
    }

    /// SIGKILL for a container that an operation holds: it is given up first.
    async fn give_up(&mut self, container: &Container, done: oneshot::Sender<()>) {
        info!(container = container.id(), phase = ?self.machine.phase(), "given up for a kill");
        self.waiting.push(done);
        match self.machine.phase() {
            Phase::Checkpointing => {
                let why = Refusal::new(Code::Cancelled, "the container was killed");
                self.trouble = Some(Trouble::Aborted(why));
                self.feed(Event::FreezeDeadline).await;
            }
            // Others of the pod run: they are none of this start's.
            Phase::Starting if self.machine.tasks() == Tasks::Running => {
                self.feed(Event::StartDeadline).await;
            }
            Phase::Committing | Phase::Releasing if self.machine.tasks() == Tasks::Running => {}
            Phase::Starting | Phase::Committing | Phase::Releasing => {
                self.feed(Event::Kill).await;
            }
            Phase::Idle | Phase::Sealed | Phase::Thawing | Phase::Killing => {}
        }
    }

    fn after_each(&mut self) {
        if let Some(starting) = &self.starting {
            starting.note_claim(starting.granted || self.machine.phase() == Phase::Committing);
        }
        if matches!(self.machine.phase(), Phase::Idle) {
            self.end_checkpoint();
        }
        if matches!(self.machine.phase(), Phase::Idle | Phase::Sealed) {
            for waiting in self.waiting.drain(..) {
                // Whoever waited may be gone.
                let _ = waiting.send(());
            }
        }
    }

    /// What an agent that only looks must know: see `status`.
    pub(super) fn holds(&mut self) -> Option<godwit_ownership::message::Status> {
        // Attaching never changes who is answered about a seal unless the agent does it itself.
        let mut look = self.machine.clone();
        look.step(Event::Message { from: Conn(0), message: ToShim::Attach }).into_iter().find_map(
            |action| match action {
                Action::Send { message: ToAgent::Status(status), .. } => Some(*status),
                _ => None,
            },
        )
    }
}
