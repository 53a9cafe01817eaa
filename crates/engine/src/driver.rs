//! Carries out what the machines of `godwit-ownership` decide.
//!
//! Owns: asking the store and the shim, timers, and the order of events. Decides nothing. A read that fails is answered
//! with [`Read::Unavailable`], a PUT of unknown outcome with [`Put::Unknown`]; nothing is made up here.
//!
//! One driver serves every machine: [`Driver::feed`] steps it until it is finished or wants work that only the caller can
//! do ([`Stop::Examine`], [`Stop::Ready`], [`Stop::Prepare`]); the caller does it and feeds the result.
//!
//! # Cancellation
//! Dropping the future between two steps is the same to every machine as the agent's death at that moment.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use godwit_ownership::{Action, Ending, Entry, Event, Machine, Presence, Put, Read, Timer};
use godwit_ownership::{ToAgent, ToShim};
use godwit_store::Clock;
use godwit_types::{CheckpointId, Seq};
use godwit_wire::failpoint;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);
/// Between two looks at the clock while nothing happens: the runtime's timers stand still while the machine is suspended.
const GLANCE: Duration = Duration::from_secs(60);

/// A lineage's log and the checkpoints of its tenant, as machines see them.
#[async_trait]
pub trait Log: Send + Sync {
    /// One LIST, and one GET of what is not known yet.
    async fn newest(&self) -> Read<Option<Box<Entry>>>;
    /// One GET.
    async fn slot(&self, seq: Seq) -> Read<Option<Box<Entry>>>;
    /// One create-only PUT, never retried.
    async fn put(&self, entry: &Entry) -> Put;
    /// Manifest and tombstone.
    async fn presence(&self, checkpoint: CheckpointId) -> Read<Presence>;
}

/// The shim as machines see it.
#[async_trait]
pub trait Peer: Send {
    /// Sends a message and waits for its answer; `None` if the connection ended.
    async fn tell(&mut self, message: ToShim) -> Option<ToAgent>;
    /// Waits for what the shim says unasked; `None` if the connection ended. Cancel safe.
    async fn hear(&mut self) -> Option<ToAgent>;
    /// Whether no task of the pod lives on this node.
    async fn prove_dead(&mut self) -> bool;
    /// Removes the fence of a pod that is gone.
    async fn remove_fence(&mut self);
}

/// Why [`Driver::feed`] came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// Can the source be checkpointed? Feed [`Event::Fit`] or [`Event::Cancel`].
    Examine,
    /// The source may be checkpointed: feed [`Event::Manifest`] when it is stored.
    Ready,
    /// This point is to be made ready: feed [`Event::Prepared`] or [`Event::CannotRestore`].
    Prepare(CheckpointId),
    /// The machine is finished.
    Done(Ending),
}

/// A machine with its world.
pub struct Driver<'w, M, P> {
    machine: M,
    log: &'w dyn Log,
    peer: &'w mut P,
    timers: Timers,
    /// After how long [`Timer::Reclaim`] fires.
    reclaim: Duration,
    queue: VecDeque<Event>,
    connected: bool,
    /// Told to the machine once, while it waits.
    cancel: Option<CancellationToken>,
    /// The same.
    age: Option<Age>,
}

/// When an operation is too old.
#[derive(Debug)]
struct Age {
    clock: Arc<dyn Clock>,
    /// Since boot.
    until: Duration,
}

impl Age {
    fn left(&self) -> Duration {
        self.until.saturating_sub(self.clock.since_boot())
    }

    /// Waits until it is too old.
    async fn over(&self) {
        while !self.left().is_zero() {
            tokio::time::sleep(self.left().min(GLANCE)).await;
        }
    }
}

#[derive(Debug, Default)]
struct Timers {
    retry: Option<Instant>,
    look: Option<Instant>,
    reclaim: Option<Instant>,
    backoff: Duration,
}

impl Timers {
    fn set(&mut self, timer: Timer, reclaim: Duration) {
        let now = Instant::now();
        match timer {
            Timer::Retry => {
                self.backoff = (self.backoff * 2).clamp(FIRST_RETRY, LAST_RETRY);
                self.retry = Some(now + self.backoff);
            }
            Timer::Look => self.look = Some(now + LOOK),
            Timer::Reclaim => self.reclaim = Some(now + reclaim),
        }
    }

    fn next(&self) -> Option<(Instant, Timer)> {
        let all =
            [(self.retry, Timer::Retry), (self.look, Timer::Look), (self.reclaim, Timer::Reclaim)];
        all.into_iter().filter_map(|(at, timer)| at.map(|at| (at, timer))).min_by_key(|(at, _)| *at)
    }

    fn fired(&mut self, timer: Timer) {
        match timer {
            Timer::Retry => self.retry = None,
            Timer::Look => self.look = None,
            Timer::Reclaim => self.reclaim = None,
        }
    }
}

impl<'w, M: Machine, P: Peer> Driver<'w, M, P> {
    /// A machine that has not begun.
    pub fn new(machine: M, log: &'w dyn Log, peer: &'w mut P, reclaim: Duration) -> Self {
        let (timers, queue) = (Timers::default(), VecDeque::new());
        let (connected, cancel, age) = (true, None, None);
        Self { machine, log, peer, timers, reclaim, queue, connected, cancel, age }
    }

    /// The same, and the machine hears of it when `cancel` is cancelled.
    #[must_use]
    pub fn cancelled_by(self, cancel: &CancellationToken) -> Self {
        Self { cancel: Some(cancel.clone()), ..self }
    }

    /// The same, and the machine hears once that its operation is too old (T/2 of its store) when `limit` has passed from now on.
    #[must_use]
    pub fn too_old_after(self, limit: Duration, clock: &Arc<dyn Clock>) -> Self {
        let until = clock.since_boot().saturating_add(limit);
        Self { age: Some(Age { clock: Arc::clone(clock), until }), ..self }
    }

    /// The shim, for the caller's work between two steps.
    pub fn peer(&mut self) -> &mut P {
        self.peer
    }

    /// Feeds one event and everything that follows from it.
    pub async fn feed(&mut self, event: Event) -> Stop {
        // The caller may have worked for long.
        if self.age.take_if(|age| age.left().is_zero()).is_some() {
            self.queue.push_back(Event::TooOld);
        }
        self.queue.push_back(event);
        loop {
            let event = match self.queue.pop_front() {
                Some(event) => event,
                None => self.wait().await,
            };
            tracing::debug!(?event, "ownership");
            for action in self.machine.step(event) {
                tracing::debug!(?action, "ownership");
                if let Some(stop) = self.act(action).await {
                    return stop;
                }
            }
        }
    }

    async fn act(&mut self, action: Action) -> Option<Stop> {
        let event = match action {
            Action::Tell(message) => self.tell(message).await,
            Action::ReadNewest => Event::Newest(self.log.newest().await),
            Action::ReadSlot(seq) => Event::Slot(self.log.slot(seq).await),
            Action::Put(entry) => Event::Put(self.put(&entry).await),
            Action::Check(checkpoint) => Event::Presence(self.log.presence(checkpoint).await),
            Action::ProveDead => Event::Dead(self.peer.prove_dead().await),
            Action::Wait(timer) => {
                self.timers.set(timer, self.reclaim);
                return None;
            }
            Action::RemoveFence => {
                self.peer.remove_fence().await;
                return None;
            }
            Action::Examine => return Some(Stop::Examine),
            Action::Ready => return Some(Stop::Ready),
            Action::Prepare(checkpoint) => return Some(Stop::Prepare(checkpoint)),
            Action::Done(ending) => return Some(Stop::Done(ending)),
        };
        self.queue.push_back(event);
        None
    }

    async fn tell(&mut self, message: ToShim) -> Event {
        let name = site(&message);
        failpoint::site(&format!("{name}.before"));
        let answer = self.peer.tell(message).await;
        failpoint::site(&format!("{name}.answered"));
        match answer {
            Some(answer) => Event::Shim(answer),
            None => {
                self.connected = false;
                Event::Ended
            }
        }
    }

    async fn put(&mut self, entry: &Entry) -> Put {
        let name = entry.kind.word();
        failpoint::site(&format!("put-{name}.before"));
        let put = self.log.put(entry).await;
        failpoint::site(&format!("put-{name}.answered"));
        if put == Put::Created {
            self.timers.backoff = Duration::ZERO;
        }
        put
    }

    /// The next event that nobody asked for.
    async fn wait(&mut self) -> Event {
        let timer = self.timers.next();
        let tick = async {
            match timer {
                Some((at, timer)) => {
                    tokio::time::sleep_until(at).await;
                    timer
                }
                None => std::future::pending().await,
            }
        };
        let cancel = self.cancel.clone();
        let cancelled = async {
            match &cancel {
                Some(cancel) => cancel.cancelled().await,
                None => std::future::pending().await,
            }
        };
        let aged = async {
            match &self.age {
                Some(age) => age.over().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = aged => {
                self.age = None;
                Event::TooOld
            }
            () = cancelled => {
                self.cancel = None;
                Event::Cancel
            }
            timer = tick => {
                self.timers.fired(timer);
                Event::Timer(timer)
            }
            heard = self.peer.hear(), if self.connected => match heard {
                Some(message) => Event::Shim(message),
                None => {
                    self.connected = false;
                    Event::Ended
                }
            }
        }
    }
}

/// The name of a message in failpoints.
fn site(message: &ToShim) -> &'static str {
    match message {
        ToShim::Attach => "attach",
        ToShim::Begin { .. } => "begin",
        ToShim::Freeze => "freeze",
        ToShim::Thaw => "thaw",
        ToShim::Cancel { .. } => "cancel",
        ToShim::Seal { .. } => "seal",
        ToShim::Hold { .. } => "hold",
        ToShim::Stands { .. } => "stands",
        ToShim::Unseal { .. } => "unseal",
        ToShim::Stopped { .. } => "stopped",
        ToShim::Moved { .. } => "moved",
        ToShim::Plan { .. } => "plan",
        ToShim::Commit { .. } => "committing",
        ToShim::Resume { .. } => "resume",
        ToShim::Abort { .. } => "abort",
    }
}

#[cfg(test)]
mod tests;
