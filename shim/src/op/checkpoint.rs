//! The shim's part of a checkpoint: the containers of the operation, CRIU's sessions, freeze and thaw.
//!
//! *Frozen continuously* holds iff, when each CRIU's pidfd becomes readable, its cgroup reads FROZEN before anybody writes to it: a
//! CRIU that ends by itself writes FROZEN again, one that is killed leaves the tasks running at once. So the watcher of a session
//! looks first, and nothing thaws before every watcher has looked.

mod freeze;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use godwit_ownership::ToShim;
use godwit_ownership::shim::{Conn, CriuEnd, Event, Phase};
use godwit_types::Code;
use godwit_wire::shim_op::{BeginCheckpoint, CRIU_GRACE_MS, Noted, StuckTask};
use godwit_wire::{Refusal, Watched};
use rustix::process::{Signal, pidfd_send_signal};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::{error, info, warn};

use super::actor::Actor;
use super::input::Input;
use super::kill::Farewell;
use super::words;
use crate::container::{Container, ExecHold};
use crate::error::{Error, Result};
use crate::freezer::{Freezer, Frost};
use crate::network::{Network, OPENS, Silenced};
use crate::state::{State, Step};

/// How long executed processes may take to end before the agent is told that they run.
const EXECS_END: Duration = Duration::from_secs(5);
/// Longest freeze deadline.
const LONGEST_FREEZE: Duration = Duration::from_secs(600);
/// How long a cgroup that was told to freeze by CRIU may take to read FROZEN.
const SETTLE: Duration = Duration::from_millis(100);

/// The operation that has begun.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) containers: Vec<Arc<Container>>,
    /// Somebody else goes on with the pod: one that runs on answers for itself.
    gives_away: bool,
    /// Networks of its containers that have fallen silent, or may have.
    pub(super) silent: Vec<Network>,
    /// Keeps new processes from being executed while it lasts.
    _holds: Vec<ExecHold>,
    /// The process that leads the operation.
    agent: Option<Arc<OwnedFd>>,
    sessions: Vec<Session>,
    /// Whether an end of CRIU counts as one in the freeze.
    frozen: Arc<AtomicBool>,
    since: Option<Instant>,
    frozen_for: Duration,
    deadline: Duration,
    /// A point may come of it, whatever becomes of the containers.
    pub(super) sealed: bool,
    timer: Option<(u64, AbortHandle)>,
}

/// One CRIU of the agent's.
#[derive(Debug, Clone)]
pub(super) struct Session {
    number: u64,
    /// Of the container, among those of the operation.
    member: u16,
    container: Arc<Container>,
    pub(super) pidfd: Arc<OwnedFd>,
    /// What was seen at its end.
    over: watch::Receiver<Option<End>>,
}

impl Session {
    /// Waits for CRIU's end; `None`: its watcher is gone with the runtime.
    async fn over(&self) -> Option<End> {
        self.over.clone().wait_for(Option::is_some).await.ok().and_then(|end| *end)
    }
}

/// A CRIU's end as its watcher saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    /// The operation had frozen the container: from then on CRIU may be told to dump.
    in_freeze: bool,
    /// The freezer had not been opened since.
    intact: bool,
}

impl End {
    /// CRIU was at work, and did not put things back.
    fn is_damage(self) -> bool {
        self.in_freeze && !self.intact
    }

    /// What it is to the machine. `frozen`: the operation keeps the container frozen *now*. A CRIU that died while the freezing
    /// was under way had not touched a task, and the container is frozen all the same.
    fn told(self, member: u16, frozen: bool) -> CriuEnd {
        let killed = self.is_damage();
        CriuEnd { member, dumped: self.in_freeze && self.intact, frozen: frozen && !killed, killed }
    }
}

/// What the agent is told when the shim ends an operation by itself.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Some task did not stop.
    FreezeTimeout(Vec<StuckTask>),
    /// A CRIU died or hung; its container was killed.
    Damaged { container: String, reason: String },
    /// An init exited.
    Exited { container: String, status: u32 },
    /// Anything else.
    Aborted(Refusal),
}

impl Actor {
    /// Lets executed processes end before an operation begins; new ones wait.
    pub(super) async fn wait_quiet(&mut self, from: Conn, begin: BeginCheckpoint) {
        if self.machine.phase() != Phase::Idle || begin.look {
            return self.begin(from, begin, Vec::new()).await;
        }
        let containers = self.pod.members();
        let holds: Vec<ExecHold> = containers.iter().map(Container::hold_execs).collect();
        let mut counts: Vec<_> = containers.iter().map(|c| c.running_execs()).collect();
        if counts.iter().all(|count| *count.borrow() == 0) {
            return self.begin(from, begin, holds).await;
        }
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let ended = async {
                for count in &mut counts {
                    // A container that is gone executes nothing.
                    let _ = count.wait_for(|running| *running == 0).await;
                }
            };
            // The agent is told how many are left, and refuses by name.
            let _ = tokio::time::timeout(EXECS_END, ended).await;
            let _ = inputs.send(Input::Quiet(from, begin, holds)).await;
        });
    }

    /// Executed processes have ended, or had their time. Whoever asked may be gone by now: nobody would ever end the operation.
    pub(super) async fn quiet(&mut self, from: Conn, begin: BeginCheckpoint, holds: Vec<ExecHold>) {
        if self.conns.is_live(from) {
            self.begin(from, begin, holds).await;
        }
    }

    /// Begins an operation: the containers first, then the machine.
    async fn begin(&mut self, from: Conn, begin: BeginCheckpoint, holds: Vec<ExecHold>) {
        let message = match words::of_agent(&begin.clone().into()) {
            Ok(Some(message)) => message,
            _ => return,
        };
        if self.machine.phase() == Phase::Idle {
            match self.enter(&begin, &message) {
                Ok(containers) => {
                    self.trouble = None;
                    let agent = self.conns.agent(from);
                    self.checkpoint = Some(Checkpoint::new(containers, holds, agent, &message));
                }
                Err(why) => {
                    let why = Refusal::new(why.code(), why.chain());
                    return self.conns.tell(from, why, &[]).await;
                }
            }
        }
        info!(op = begin.op, "checkpoint begins");
        self.feed(Event::Message { from, message }).await;
    }

    /// Moves every container of the operation to `Checkpointing`, or none.
    fn enter(&self, begin: &BeginCheckpoint, message: &ToShim) -> Result<Vec<Arc<Container>>> {
        let alive = |c: &Arc<Container>| !matches!(c.state(), State::Stopped | State::Creating);
        let all: Vec<Arc<Container>> = self.pod.members().into_iter().filter(alive).collect();
        let chosen: Vec<Arc<Container>> = if begin.containers.is_empty() {
            all.clone()
        } else {
            begin.containers.iter().map(|id| self.pod.container(id)).collect::<Result<_>>()?
        };
        let whole = chosen.len() == all.len();
        if gives_away(message) && !whole {
            return Err(Error::Refused("a pod is given away whole or not at all".into()));
        }
        if chosen.is_empty() {
            return Err(Error::Precondition(format!("{} does not run", self.key)));
        }
        for (done, container) in chosen.iter().enumerate() {
            if let Err(why) = container.shift(Step::Begin) {
                for entered in chosen.iter().take(done) {
                    // It may have exited meanwhile.
                    let _ = entered.shift(Step::End);
                }
                return Err(why);
            }
        }
        Ok(chosen)
    }

    /// A CRIU of the operation was started by the agent.
    pub(super) async fn criu_started(&mut self, from: Conn, id: &str, fds: Vec<OwnedFd>) {
        let (phase, number) = (self.machine.phase(), self.next_job());
        let found = self.checkpoint.as_mut().filter(|_| phase == Phase::Checkpointing);
        let watched = match found {
            None => Err(Refusal::new(Code::Precondition, "no checkpoint has begun")),
            Some(checkpoint) => match <[OwnedFd; 1]>::try_from(fds) {
                Err(_) => Err(Refusal::new(Code::Corrupt, "CriuStarted comes with one pidfd")),
                Ok([pidfd]) => checkpoint
                    .watch(number, id, pidfd, self.inputs.clone())
                    .map_err(|why| Refusal::new(why.code(), why.chain())),
            },
        };
        match watched {
            Err(why) => self.conns.tell(from, why, &[]).await,
            Ok(()) => {
                self.feed(Event::CriuStarted).await;
                self.conns.tell(from, Noted {}, &[]).await;
            }
        }
    }

    /// A CRIU ended. If its container was frozen and is not any more, it was killed in the middle.
    pub(super) async fn criu_over(&mut self, number: u64, frost: std::io::Result<Frost>) {
        let Some(checkpoint) = &self.checkpoint else { return };
        let Some(session) = checkpoint.sessions.iter().find(|s| s.number == number) else { return };
        let Some(end) = *session.over.borrow() else { return };
        let container = session.container.id().to_owned();
        let end = end.told(session.member, checkpoint.since.is_some());
        info!(container, ?frost, damaged = end.killed, "CRIU ended");
        if end.killed && self.machine.phase() == Phase::Checkpointing {
            self.trouble = Some(Trouble::Damaged { container, reason: was_killed() });
        }
        self.feed(Event::CriuEnded(end)).await;
    }

    /// Checks and remembers the freeze deadline; `false`: refused.
    pub(super) async fn note_deadline(&mut self, from: Conn, deadline_ms: u64) -> bool {
        let deadline = Duration::from_millis(deadline_ms);
        if deadline.is_zero() || deadline > LONGEST_FREEZE {
            let why =
                Refusal::new(Code::Refused, "a freeze deadline is between 1 ms and 10 minutes");
            self.conns.tell(from, why, &[]).await;
            return false;
        }
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.deadline = deadline;
        }
        true
    }

    /// A connection is over: what follows is the machine's, this is for whoever reads the log.
    pub(super) fn note_end(&self, ended: Conn) {
        if self.operator == Some(ended) && self.machine.phase() == Phase::Checkpointing {
            warn!(pod = self.key, "the agent of a checkpoint is gone: it is undone");
        }
    }

    /// Whether every container of the operation reads FROZEN: somebody else may have thawed one.
    pub(super) fn stands_still(&self) -> bool {
        let freezers = self.checkpoint.as_ref().map(Checkpoint::freezers).unwrap_or_default();
        freezers.iter().all(|f| matches!(look(f), Ok(Frost::Frozen | Frost::Gone)))
    }

    /// How long the pod was frozen by the operation: microseconds.
    pub(super) fn frozen_us(&self) -> u64 {
        let frozen = self.checkpoint.as_ref().map(|checkpoint| checkpoint.frozen_for);
        frozen.map_or(0, |frozen| u64::try_from(frozen.as_micros()).unwrap_or(u64::MAX))
    }

    /// Thaws beside the actor: every CRIU must have ended first, each seen by its watcher.
    pub(super) fn begin_thaw(&mut self) {
        let number = self.next_job();
        let Some(checkpoint) = &mut self.checkpoint else {
            error!("a thaw without an operation");
            return;
        };
        checkpoint.disarm();
        let (sessions, freezers) = (checkpoint.sessions.clone(), checkpoint.freezers());
        let silenced = (self.pod.silenced().clone(), checkpoint.silent.clone());
        let agent = checkpoint.agent.clone();
        let first = checkpoint.first();
        self.begin_job(
            async move {
                match thaw(sessions, silenced, freezers, agent, first).await {
                    Ok(()) => Input::Job(number, Event::Thawed),
                    Err((container, reason)) => Input::Damaged(number, container, reason),
                }
            },
            number,
        );
    }

    /// The thaw is done: the containers run.
    pub(super) fn thawed(&mut self) {
        let Some(checkpoint) = &mut self.checkpoint else { return };
        checkpoint.frozen.store(false, Ordering::SeqCst);
        checkpoint.silent.clear();
        checkpoint.frozen_for = checkpoint.since.take().map_or(Duration::ZERO, |at| at.elapsed());
        checkpoint.leave();
        info!(pod = self.key, frozen_ms = checkpoint.frozen_for.as_millis(), "thawed");
    }

    /// Everyone was killed, and whoever may has heard of it: whoever comes next has the network.
    pub(super) fn said_farewell(&mut self) {
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.silent.clear();
        }
    }

    /// The operation is over: new processes may be executed.
    pub(super) fn end_checkpoint(&mut self) {
        if let Some(mut checkpoint) = self.checkpoint.take() {
            checkpoint.disarm();
            checkpoint.leave();
            if !checkpoint.silent.is_empty() {
                let farewell = Farewell::of(Some(&checkpoint), self.pod.silenced());
                self.pod.tasks().spawn(farewell.say());
            }
        }
    }

    /// The pod is sealed: no deadline counts any more.
    pub(super) fn sealed(&mut self) {
        let Some(checkpoint) = &mut self.checkpoint else { return };
        checkpoint.disarm();
        checkpoint.sealed = true;
        for container in &checkpoint.containers {
            // An exit in the middle is told by itself.
            let _ = container.shift(Step::Seal);
        }
        info!("sealed: only a settled log slot lets the pod go");
    }

    pub(super) fn is_deadline(&self, number: u64) -> bool {
        let timer = self.checkpoint.as_ref().and_then(|checkpoint| checkpoint.timer.as_ref());
        timer.is_some_and(|(current, _)| *current == number)
    }

    pub(super) fn deadline_passed(&mut self) {
        let deadline = self.checkpoint.as_ref().map_or(Duration::ZERO, |c| c.deadline);
        let why = format!(
            "the container was frozen for {deadline:?} and its checkpoint was not complete: it runs on; let it write less meanwhile, or allow more: freeze_deadline in agent.toml, and its own liveness probes"
        );
        warn!(pod = self.key, why, "freeze deadline");
        self.trouble = Some(Trouble::Aborted(Refusal::new(Code::Cancelled, why)));
    }

    fn arm(&mut self, begun: Instant) {
        let number = self.next_job();
        let Some(checkpoint) = &mut self.checkpoint else { return };
        let left = checkpoint.deadline.saturating_sub(begun.elapsed());
        let inputs = self.inputs.clone();
        let task = tokio::spawn(async move {
            tokio::time::sleep(left).await;
            // An actor that is gone needs no word.
            let _ = inputs.send(Input::Job(number, Event::FreezeDeadline)).await;
        });
        checkpoint.disarm();
        checkpoint.timer = Some((number, task.abort_handle()));
    }
}

impl Checkpoint {
    fn new(
        containers: Vec<Arc<Container>>,
        holds: Vec<ExecHold>,
        agent: Option<OwnedFd>,
        message: &ToShim,
    ) -> Self {
        Self {
            containers,
            gives_away: gives_away(message),
            silent: Vec::new(),
            _holds: holds,
            agent: agent.map(Arc::new),
            sessions: Vec::new(),
            frozen: Arc::default(),
            since: None,
            frozen_for: Duration::ZERO,
            deadline: LONGEST_FREEZE,
            sealed: false,
            timer: None,
        }
    }

    /// How many containers it has.
    pub(super) fn members(&self) -> u16 {
        u16::try_from(self.containers.len()).unwrap_or(u16::MAX)
    }

    /// pidfds of the CRIUs that live.
    pub(super) fn live_criu(&self) -> Vec<Arc<OwnedFd>> {
        let live = self.sessions.iter().filter(|session| session.over.borrow().is_none());
        live.map(|session| Arc::clone(&session.pidfd)).collect()
    }

    fn watch(
        &mut self,
        number: u64,
        id: &str,
        pidfd: OwnedFd,
        inputs: tokio::sync::mpsc::Sender<Input>,
    ) -> Result<()> {
        let mut members = (0..).zip(&self.containers);
        let (member, container) = members
            .find(|(_, container)| container.id() == id)
            .ok_or_else(|| Error::NotFound(format!("{id} is not a container of this operation")))?;
        let container = Arc::clone(container);
        let freezer = freezer(&container)?;
        let copy = pidfd.try_clone().map_err(Error::io("duplicate CRIU's pidfd"))?;
        let watched = Watched::new(copy).map_err(Error::io("watch CRIU"))?;
        let (end, over) = watch::channel(None);
        let frozen = Arc::clone(&self.frozen);
        tokio::spawn(async move {
            // An error is the end of the runtime.
            let _ = watched.readable().await;
            let in_freeze = frozen.load(Ordering::SeqCst);
            let frost = look(&freezer);
            let intact = matches!(frost, Ok(Frost::Frozen | Frost::Gone));
            end.send_replace(Some(End { in_freeze, intact }));
            let _ = inputs.send(Input::CriuOver(number, frost)).await;
        });
        self.sessions.push(Session { number, member, container, pidfd: Arc::new(pidfd), over });
        Ok(())
    }

    /// Who stands for the pod where one is to be named.
    fn first(&self) -> String {
        self.containers.first().map(|container| container.id().to_owned()).unwrap_or_default()
    }

    fn freezers(&self) -> Vec<Freezer> {
        self.containers.iter().filter_map(|container| freezer(container).ok()).collect()
    }

    fn disarm(&mut self) {
        if let Some((_, timer)) = self.timer.take() {
            timer.abort();
        }
    }

    /// The containers go back to where they were before the operation, as far as they live.
    fn leave(&self) {
        for container in &self.containers {
            let step = match container.state() {
                State::Checkpointing => Step::End,
                State::Frozen => Step::Thaw,
                State::Sealed => Step::Unseal,
                _ => continue,
            };
            // It may exit at any moment.
            let _ = container.shift(step);
        }
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        self.disarm();
    }
}

fn gives_away(message: &ToShim) -> bool {
    matches!(message, ToShim::Begin { outcome, .. } if outcome.gives_away())
}

fn freezer(container: &Container) -> Result<Freezer> {
    let cgroup = container.cgroup();
    let cgroup =
        cgroup.ok_or_else(|| Error::NotFound(format!("{} has no cgroup", container.id())))?;
    Freezer::of(&cgroup).map_err(Error::io(format!("find the freezer of {}", container.id())))
}

/// CRIU has just written FROZEN, or was killed: then the tasks run and it reads THAWED at once.
fn look(freezer: &Freezer) -> std::io::Result<Frost> {
    match freezer.look()? {
        Frost::Freezing => freezer.wait_frozen(Instant::now() + SETTLE),
        other => Ok(other),
    }
}

/// Goes on past a failure and tells the first.
fn thaw_all(freezers: &[Freezer]) -> std::io::Result<()> {
    freezers.iter().map(Freezer::thaw).fold(Ok(()), std::io::Result::and)
}

/// Waits for every CRIU, then thaws what is heard again. One that does not end in time waits for its agent, which hangs: that is
/// killed, and CRIU has as much time again.
///
/// # Errors
/// The container whose CRIU was killed in the freeze or hangs, or that cannot be heard, and what was seen: it must be killed.
async fn thaw(
    sessions: Vec<Session>,
    (silenced, silent): (Silenced, Vec<Network>),
    freezers: Vec<Freezer>,
    agent: Option<Arc<OwnedFd>>,
    first: String,
) -> std::result::Result<(), (String, String)> {
    let begun = tokio::time::Instant::now();
    let grace = Duration::from_millis(CRIU_GRACE_MS);
    let mut until = begun + grace;
    if tokio::time::timeout_at(until, all_over(&sessions)).await.is_err()
        && end_hung(agent.as_deref())
    {
        until += grace;
    }
    for session in sessions {
        let container = session.container.id().to_owned();
        match tokio::time::timeout_at(until, session.over()).await {
            Ok(Some(end)) if end.is_damage() => return Err((container, was_killed())),
            Ok(_) => {}
            Err(_) => {
                let waited = begun.elapsed().as_millis();
                let reason = format!("CRIU did not end within {waited} ms after it was cancelled");
                return Err((container, reason));
            }
        }
    }
    silenced.open_all(&silent, OPENS).await.map_err(|why| (first, is_unheard(&why)))?;
    let thawed = tokio::task::spawn_blocking(move || thaw_all(&freezers)).await;
    if let Ok(Err(why)) = thawed {
        // The tasks may run as soon as whoever froze them above us lets them.
        error!(%why, "a container stays frozen after it was thawed");
    }
    Ok(())
}

async fn all_over(sessions: &[Session]) {
    for session in sessions {
        session.over().await;
    }
}

/// Nothing is lost with an agent: the next one finds what it did. But CRIU would wait for a hung one until both are killed. `false`:
/// there is none to end.
fn end_hung(agent: Option<&OwnedFd>) -> bool {
    let Some(agent) = agent else { return false };
    warn!("CRIU has not ended after it was cancelled: its agent hangs, and is killed");
    // One that has ended by itself is as good.
    let _ = pidfd_send_signal(agent, Signal::KILL);
    true
}

fn is_unheard(why: &Error) -> String {
    format!("its network could not be opened again: {}", why.chain())
}

fn was_killed() -> String {
    "CRIU was killed while it worked: a process may have lost its place".to_owned()
}

#[cfg(test)]
mod tests;
