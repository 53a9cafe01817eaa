//! One pod on one node as the checker simulates it: kubelet's object, fence file, shim, tasks, agent, connection.
//!
//! Everything that decides is the production machine; this file only carries out its actions and feeds the results back.

use serde::{Deserialize, Serialize};

use super::ids;
use crate::fence::Fence;
use crate::keeper::{Keeper, KeeperSpec};
use crate::look::{Look, LookSpec};
use crate::machine::{self, Machine, Timer};
use crate::message::{Before, Force, OnFailure, OnLost, Request, Start, ToAgent, ToShim};
use crate::rules::{Rule, Rules};
use crate::shim::{self, Conn, CriuEnd, Phase, ShimMachine, StartCall};
use crate::source::{Source, SourceSpec};
use crate::state::ColdReason;
use crate::target::{Target, TargetSpec};
use crate::{Entry, Gone, Pen};
use godwit_types::Outcome;

/// The only connection of a place at a time.
const CONN: Conn = Conn(0);

/// What is the same in a whole search.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting {
    pub rules: Rules,
    /// The fence is a file by pod uid (off: it lives in the bundle).
    pub fence_on_disk: bool,
    /// A new sandbox is another incarnation (off: numbers repeat).
    pub fresh_lives: bool,
    /// Targets carry a forced request.
    pub force: bool,
    /// Messages arrive at once. Sound: an arrival touches only its own place, so it commutes with whatever other places and the store
    /// do; what the place itself may do between sending and arrival it may as well do before. Not for the news that cross a
    /// message: `Aborted` and the end of a connection take their time.
    pub eager: bool,
}

/// What the tasks really do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Truth {
    Dead,
    Running,
    Frozen,
    Held,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Sandbox {
    pub life: u8,
    pub machine: ShimMachine,
    pub truth: Truth,
    /// They ran after the dump of the operation on its way.
    pub ran: bool,
    /// CRIU restores this point.
    pub restoring: Option<u8>,
}

/// Tasks that run although their shim is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Orphan {
    pub life: u8,
    pub ex: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Worker {
    Source(Box<Source>),
    Target(Box<Target>),
    Look(Look),
    Keeper(Keeper),
}

/// The engine between `Ready` and `Manifest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Engine {
    Idle,
    Freezing,
    Thawing,
    Storing,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Task {
    pub worker: Worker,
    /// The question to the store that has no answer yet.
    pub ask: Option<machine::Action>,
    /// Timers that run: retry, look, reclaim.
    pub timers: [bool; 3],
    pub engine: Engine,
    /// The checkpoint that is made.
    pub point: Option<u8>,
    pub outcome: Option<Outcome>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Link {
    pub to_shim: Vec<ToShim>,
    pub to_agent: Vec<ToAgent>,
    pub agent_open: bool,
    pub shim_open: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Place {
    pub n: u8,
    pub up: bool,
    pub agent: bool,
    /// kubelet's object.
    pub pod: bool,
    pub wanted: bool,
    pub fence: Option<Fence>,
    pub shim: Option<Box<Sandbox>>,
    pub orphan: Option<Orphan>,
    pub task: Option<Box<Task>>,
    pub link: Option<Box<Link>>,
    /// Its tasks ran, or had the permission to, when a forced take-over landed: excused until its agent looks.
    pub ex: bool,
}

/// What a step did beyond its place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Effect {
    /// Tasks began to run; by the stated exception (nobody could be asked)?
    pub ran: Option<bool>,
    /// A fault, or a person, ended tasks that counted.
    pub lost: bool,
    /// A stop killed its tasks.
    pub acked: Option<u8>,
    /// A manifest was written.
    pub manifest: Option<u8>,
    /// Every restore of it will fail.
    pub bad: bool,
    /// A PUT that nobody waits for any more.
    pub forgotten: bool,
}

impl Place {
    pub(super) fn source(setting: &Setting, fenced: bool) -> Self {
        let fence = fenced.then(|| Fence {
            at: ids::lineage(),
            incarnation: ids::incarnation(0, 0),
            state: crate::FenceState::Owned,
            op: None,
            lived: true,
            slot: None,
            gone: None,
        });
        let mut machine =
            ShimMachine::under(setting.rules, ids::pod_uid(0), ids::incarnation(0, 0), None);
        // A first start without a lineage; then the fence that its first entry would have made.
        machine.step(shim::Event::Start(Box::new(start_call(0, None, true, OnLost::Image))));
        machine.adopt_fence(fence.clone());
        let sandbox =
            Sandbox { life: 0, machine, truth: Truth::Running, ran: false, restoring: None };
        Self { fence, shim: Some(Box::new(sandbox)), ..Self::target(0) }
    }

    pub(super) fn target(n: u8) -> Self {
        Self {
            n,
            up: true,
            agent: true,
            pod: true,
            wanted: false,
            fence: None,
            shim: None,
            orphan: None,
            task: None,
            link: None,
            ex: false,
        }
    }

    pub(super) fn truth(&self) -> Truth {
        self.shim.as_ref().map_or(Truth::Dead, |shim| shim.truth)
    }

    pub(super) fn phase(&self) -> Phase {
        self.shim.as_ref().map_or(Phase::Idle, |shim| shim.machine.phase())
    }

    pub(super) fn life(&self) -> u8 {
        self.shim.as_ref().map_or(0, |shim| shim.life)
    }

    /// Whether the agent has sent its word that the tasks may run.
    fn permitted(&self) -> bool {
        let permits = |m: &ToShim| matches!(m, ToShim::Resume { .. } | ToShim::Unseal { .. });
        self.link.as_ref().is_some_and(|link| link.to_shim.iter().any(permits))
    }

    /// A forced take-over landed elsewhere.
    pub(super) fn forced_away(&mut self) {
        self.ex |= matches!(self.truth(), Truth::Running | Truth::Frozen) || self.permitted();
        if let Some(orphan) = &mut self.orphan {
            orphan.ex = true;
        }
    }

    /// Lets arrive what arrives at once, and forgets what can not matter any more, so that equal situations are equal.
    pub(super) fn settle(&mut self, setting: &Setting, effect: &mut Effect) {
        while setting.eager && (self.arrives(setting, effect) || self.ends(effect)) {}
        self.forget();
    }

    fn arrives(&mut self, setting: &Setting, effect: &mut Effect) -> bool {
        let Some(link) = &self.link else { return false };
        if link.shim_open && !link.to_shim.is_empty() {
            self.shim_receives(effect);
            return true;
        }
        let news = matches!(link.to_agent.first(), None | Some(ToAgent::Aborted | ToAgent::Ask(_)));
        if link.agent_open && !news {
            self.agent_receives(setting, 0, effect);
            return true;
        }
        false
    }

    /// The end of a connection, where nothing follows from it.
    fn ends(&mut self, effect: &mut Effect) -> bool {
        let Some(link) = &self.link else { return false };
        if link.agent_open
            && self.task.is_none()
            && !matches!(link.to_agent.first(), Some(ToAgent::Ask(_)))
        {
            if let Some(link) = &mut self.link {
                link.agent_open = false;
            }
            return true;
        }
        if link.shim_open && !link.agent_open && link.to_shim.is_empty() {
            let mut ended = self.clone();
            let mut nothing = Effect::default();
            ended.shim_receives(&mut nothing);
            let same = self.shim.as_ref().map(|shim| &shim.machine);
            if ended.shim.as_ref().map(|shim| &shim.machine) == same && nothing == Effect::default()
            {
                *self = ended;
                let _ = effect;
                self.forget();
                return true;
            }
        }
        false
    }

    fn forget(&mut self) {
        let live = matches!(self.truth(), Truth::Running | Truth::Frozen);
        self.ex &= live || self.permitted();
        if let Some(shim) = &mut self.shim
            && matches!(shim.machine.phase(), Phase::Idle)
        {
            shim.ran = false;
        }
        if self.link.as_ref().is_some_and(|link| !link.agent_open && !link.shim_open) {
            self.link = None;
        }
    }

    /// Whether a fault of this kind could change anything here.
    pub(super) fn is_bare(&self) -> bool {
        let shim = self.truth() == Truth::Dead && self.phase() == Phase::Idle;
        shim && self.fence.is_none()
            && self.orphan.is_none()
            && self.task.is_none()
            && self.link.is_none()
    }

    // ---- the shim ------------------------------------------------------------------------------------------------------

    pub(super) fn shim_hears(&mut self, event: shim::Event, effect: &mut Effect) {
        let Some(shim) = &mut self.shim else { return };
        for action in shim.machine.step(event) {
            self.shim_does(action, effect);
        }
    }

    fn shim_does(&mut self, action: shim::Action, effect: &mut Effect) {
        let orphans = self.orphan.is_some();
        match action {
            shim::Action::WriteFence(fence) => self.fence = fence.map(|fence| *fence),
            shim::Action::Send { message, .. } => {
                if let Some(link) = self.link.as_mut().filter(|link| link.agent_open) {
                    link.to_agent.push(message);
                }
            }
            shim::Action::Ask(ask) => {
                let reached = self.agent && self.link.is_none();
                if reached {
                    let to_agent = vec![ToAgent::Ask(ask)];
                    let (agent_open, shim_open) = (true, true);
                    let link = Link { to_shim: vec![], to_agent, agent_open, shim_open };
                    self.link = Some(Box::new(link));
                }
                let event = if reached { shim::Event::Asked(CONN) } else { shim::Event::AgentAway };
                self.shim_hears(event, effect);
            }
            shim::Action::Prove => self.shim_hears(shim::Event::Proved(!orphans), effect),
            shim::Action::Freeze => {
                self.set(Truth::Frozen, false);
                self.shim_hears(shim::Event::CriuStarted, effect);
                self.shim_hears(shim::Event::Frozen, effect);
                let end = CriuEnd { dumped: true, frozen: true, killed: false };
                self.shim_hears(shim::Event::CriuEnded(end), effect);
            }
            shim::Action::Thaw => {
                self.runs(effect);
                self.shim_hears(shim::Event::Thawed, effect);
            }
            shim::Action::Kill => {
                self.set(Truth::Dead, false);
                self.shim_hears(shim::Event::Killed, effect);
            }
            shim::Action::Restore(point) => {
                if let Some(shim) = &mut self.shim {
                    shim.restoring = Some(ids::index(point));
                }
            }
            shim::Action::RunHeld | shim::Action::RunCold => self.runs(effect),
            shim::Action::Started(_) => {}
        }
    }

    fn set(&mut self, truth: Truth, ran: bool) {
        if let Some(shim) = &mut self.shim {
            shim.truth = truth;
            shim.ran = ran;
            shim.restoring = None;
        }
    }

    fn runs(&mut self, effect: &mut Effect) {
        self.set(Truth::Running, true);
        let offline = self.shim.as_ref().is_some_and(|shim| shim.machine.owes_cold());
        effect.ran = Some(offline);
    }

    /// CRIU failed and rolled back: the tasks run, the shim has not told anybody.
    pub(super) fn criu_rolls_back(&mut self, effect: &mut Effect) {
        self.runs(effect);
        self.shim_hears(shim::Event::CriuStarted, effect);
        let end = CriuEnd { dumped: false, frozen: false, killed: false };
        self.shim_hears(shim::Event::CriuEnded(end), effect);
    }

    /// The restore of the point ends.
    pub(super) fn restored(&mut self, fails: bool, effect: &mut Effect) {
        self.set(if fails { Truth::Dead } else { Truth::Held }, false);
        let event =
            if fails { shim::Event::RestoreFailed { never: true } } else { shim::Event::Held };
        self.shim_hears(event, effect);
    }

    pub(super) fn start(
        &mut self,
        setting: &Setting,
        on_lost: OnLost,
        nonce: u8,
        effect: &mut Effect,
    ) {
        let life = self.life();
        let same = self
            .fence
            .as_ref()
            .is_some_and(|fence| fence.incarnation == ids::incarnation(self.n, life));
        let request = (self.n > 0).then(|| Request::Continue {
            checkpoint: None,
            force: setting.force.then(|| Force { who: "x".to_owned(), why: "y".to_owned() }),
        });
        let call = start_call(self.n, request, same, on_lost);
        self.shim_hears(shim::Event::Start(Box::new(call)), effect);
        let asks = self.link.as_ref().is_some_and(|link| !link.to_agent.is_empty());
        if setting.eager && asks {
            self.agent_receives(setting, nonce, effect);
        }
    }

    /// Whether a start now would be refused at once and change nothing.
    pub(super) fn start_is_vain(&self, setting: &Setting, on_lost: OnLost, newest: &Entry) -> bool {
        if !setting.eager || !self.agent {
            return false;
        }
        let mut tried = self.clone();
        let mut effect = Effect::default();
        tried.start(setting, on_lost, 0, &mut effect);
        if tried.task.is_none() {
            return effect == Effect::default();
        }
        let newest = Some(Box::new(newest.clone()));
        tried.answered(machine::Event::Newest(machine::Read::Known(newest)), &mut effect);
        tried.settle(setting, &mut effect);
        effect == Effect::default() && tried.task.is_none() && tried.phase() == Phase::Idle
    }

    /// A message of the agent, or the end of its connection, reaches the shim.
    pub(super) fn shim_receives(&mut self, effect: &mut Effect) {
        let Some(link) = &mut self.link else { return };
        if link.to_shim.is_empty() {
            link.shim_open = false;
            return self.shim_hears(shim::Event::Ended(CONN), effect);
        }
        let message = link.to_shim.remove(0);
        let stop = match &message {
            ToShim::Stopped { entry } => entry.commits().map(ids::index),
            _ => None,
        };
        let lived = self.truth() != Truth::Dead;
        self.shim_hears(shim::Event::Message { from: CONN, message }, effect);
        if lived && self.truth() == Truth::Dead {
            effect.acked = stop;
        }
    }

    // ---- the agent -----------------------------------------------------------------------------------------------------

    pub(super) fn agent_hears(&mut self, event: machine::Event, effect: &mut Effect) {
        let Some(task) = &mut self.task else { return };
        let actions = match &mut task.worker {
            Worker::Source(source) => source.step(event),
            Worker::Target(target) => target.step(event),
            Worker::Look(look) => look.step(event),
            Worker::Keeper(keeper) => keeper.step(event),
        };
        for action in actions {
            self.agent_does(action, effect);
        }
    }

    fn agent_does(&mut self, action: machine::Action, effect: &mut Effect) {
        use machine::Action;
        match action {
            Action::Tell(message) => self.tell(message),
            Action::ReadNewest
            | Action::ReadSlot(_)
            | Action::Put(_)
            | Action::Check(_)
            | Action::Prepare(_) => {
                let task = self.task.as_mut().expect("an action without a machine");
                assert!(task.ask.is_none(), "two questions at once: {:?}, {action:?}", task.ask);
                task.ask = Some(action);
            }
            Action::ProveDead => {
                let dead = self.orphan.is_none() && self.truth() == Truth::Dead;
                self.agent_hears(machine::Event::Dead(dead), effect);
            }
            Action::Wait(timer) if self.fires_at_once(timer) => {
                self.agent_hears(machine::Event::Timer(timer), effect);
            }
            Action::Wait(timer) => {
                let task = self.task.as_mut().expect("an action without a machine");
                task.timers[timer as usize] = true;
            }
            Action::Ready => {
                self.task.as_mut().expect("an action without a machine").engine = Engine::Freezing;
                self.tell(ToShim::Freeze);
            }
            Action::RemoveFence => {
                assert!(!self.pod, "a fence is removed while its pod lives");
                self.fence = None;
            }
            Action::Done(_) => {
                effect.forgotten |= self.put_in_progress().is_some();
                self.task = None;
                if let Some(link) = &mut self.link {
                    link.agent_open = false;
                    link.to_agent.clear();
                }
            }
        }
    }

    /// A timer before a question to the store: the question may wait as long as the timer would have. Not the wait before a PUT
    /// of a checkpoint, which what happens meanwhile may turn into a reclaim.
    fn fires_at_once(&self, timer: Timer) -> bool {
        let worker = self.task.as_ref().map(|task| &task.worker);
        match timer {
            Timer::Look => true,
            Timer::Retry => matches!(worker, Some(Worker::Target(_) | Worker::Keeper(_))),
            Timer::Reclaim => false,
        }
    }

    fn tell(&mut self, message: ToShim) {
        if let Some(link) = self.link.as_mut().filter(|link| link.shim_open) {
            link.to_shim.push(message);
        }
    }

    /// The entry whose PUT has no answer yet.
    pub(super) fn put_in_progress(&self) -> Option<&Entry> {
        match self.task.as_ref()?.ask.as_ref()? {
            machine::Action::Put(entry) => Some(entry),
            _ => None,
        }
    }

    /// A message of the shim, or the end of its connection, reaches the agent.
    pub(super) fn agent_receives(&mut self, setting: &Setting, nonce: u8, effect: &mut Effect) {
        let Some(link) = &mut self.link else { return };
        if link.to_agent.is_empty() {
            link.agent_open = false;
            return self.agent_hears(machine::Event::Ended, effect);
        }
        let message = link.to_agent.remove(0);
        if let (None, ToAgent::Ask(ask)) = (&self.task, &message) {
            let pen = pen(self.n, self.life(), nonce);
            let spec = TargetSpec { pen, at: ids::lineage(), ask: (**ask).clone() };
            self.work(Worker::Target(Box::new(Target::under(setting.rules, spec))), None, effect);
            return;
        }
        self.engine_hears(setting, &message);
        self.agent_hears(machine::Event::Shim(message), effect);
    }

    fn engine_hears(&mut self, setting: &Setting, message: &ToAgent) {
        let Some(task) = &mut self.task else { return };
        let leaves = task.outcome == Some(Outcome::Run) && setting.rules.hold(Rule::LeaveRunning);
        match (task.engine, message) {
            (Engine::Freezing, ToAgent::Frozen) if leaves => {
                task.engine = Engine::Thawing;
                self.tell(ToShim::Thaw);
            }
            (Engine::Freezing, ToAgent::Frozen) | (Engine::Thawing, ToAgent::Thawed) => {
                task.engine = Engine::Storing;
            }
            _ => {}
        }
    }

    fn work(&mut self, worker: Worker, made: Option<(u8, Outcome)>, effect: &mut Effect) {
        self.task = Some(Box::new(Task {
            worker,
            ask: None,
            timers: [false; 3],
            engine: Engine::Idle,
            point: made.map(|(point, _)| point),
            outcome: made.map(|(_, outcome)| outcome),
        }));
        self.agent_hears(machine::Event::Begin, effect);
    }

    fn connect(&mut self) {
        let (agent_open, shim_open) = (true, true);
        let link = Link { to_shim: vec![], to_agent: vec![], agent_open, shim_open };
        self.link = Some(Box::new(link));
    }

    pub(super) fn checkpoint(
        &mut self,
        setting: &Setting,
        outcome: Outcome,
        point: u8,
        nonce: u8,
        effect: &mut Effect,
    ) {
        self.connect();
        let spec = SourceSpec {
            pen: pen(self.n, self.life(), nonce),
            op: ids::op(),
            at: ids::lineage(),
            fenced: self.fence.is_some(),
            checkpoint: ids::point(point),
            outcome,
            to: None,
            reclaim_after_s: (outcome == Outcome::Offer).then_some(1),
        };
        let source = Box::new(Source::under(setting.rules, spec));
        self.work(Worker::Source(source), Some((point, outcome)), effect);
    }

    pub(super) fn look(&mut self, setting: &Setting, old: bool, effect: &mut Effect) {
        self.connect();
        let me = ids::owner(self.n, 0);
        let spec = LookSpec {
            cluster: me.cluster,
            node: me.node,
            epoch: 0,
            nonce: ids::nonce(self.n, ids::LOOK_NONCE),
            at_ms: 0,
            old,
        };
        self.work(Worker::Look(Look::under(setting.rules, spec)), None, effect);
    }

    pub(super) fn keep(&mut self, setting: &Setting, effect: &mut Effect) {
        let Some(fence) = self.fence.clone() else { return };
        let life = (0..ids::LIVES)
            .find(|life| ids::incarnation(self.n, *life) == fence.incarnation)
            .expect("a life of this place");
        let wanted = fence.gone == Some(Gone::Wanted) || self.wanted;
        let pen = pen(self.n, life, ids::KEEPER_NONCE);
        let spec = KeeperSpec { pen, fence, wanted, slot_expired: false };
        self.work(Worker::Keeper(Keeper::under(setting.rules, spec)), None, effect);
    }

    /// The engine has stored everything but the entry.
    pub(super) fn stored(&mut self, point: u8, bad: bool, effect: &mut Effect) {
        effect.manifest = Some(point);
        effect.bad = bad;
        if let Some(task) = &mut self.task {
            task.engine = Engine::Idle;
        }
        self.agent_hears(machine::Event::Manifest, effect);
    }

    pub(super) fn timer(&mut self, timer: Timer, effect: &mut Effect) {
        if let Some(task) = &mut self.task {
            task.timers[timer as usize] = false;
        }
        self.agent_hears(machine::Event::Timer(timer), effect);
    }

    /// The store, or the engine, answers.
    pub(super) fn answered(&mut self, event: machine::Event, effect: &mut Effect) {
        if let Some(task) = &mut self.task {
            task.ask = None;
        }
        self.agent_hears(event, effect);
    }

    /// A person cancels the checkpoint.
    pub(super) fn cancelled(&mut self, effect: &mut Effect) {
        self.agent_hears(machine::Event::Cancel, effect);
    }

    /// T/2 has passed since the checkpoint on its way was stored.
    pub(super) fn too_old(&mut self, effect: &mut Effect) {
        let gives = self.task.as_ref().is_some_and(|task| {
            let gives = matches!(task.worker, Worker::Source(_) | Worker::Look(_));
            gives && task.engine == Engine::Idle
        });
        if gives {
            self.agent_hears(machine::Event::TooOld, effect);
        }
    }

    pub(super) fn owes_cold(&self) -> bool {
        self.shim.as_ref().is_some_and(|shim| shim.machine.owes_cold())
    }

    // ---- faults and people ---------------------------------------------------------------------------------------------

    pub(super) fn agent_crashes(&mut self, effect: &mut Effect) {
        effect.forgotten = self.put_in_progress().is_some();
        self.agent = false;
        self.task = None;
        if let Some(link) = &mut self.link {
            link.agent_open = false;
            link.to_agent.clear();
        }
    }

    /// Messages that were sent before the crash may be lost with it.
    pub(super) fn lose_messages(&mut self) {
        if let Some(link) = &mut self.link {
            link.to_shim.clear();
        }
    }

    pub(super) fn shim_crashes(&mut self, setting: &Setting, effect: &mut Effect) {
        let (truth, sealed) = (self.truth(), self.phase() == Phase::Sealed);
        effect.lost = matches!(truth, Truth::Running | Truth::Frozen);
        // A pod without a lineage is containerd's business alone.
        if effect.lost && !sealed && self.fence.is_some() {
            self.orphan = Some(Orphan { life: self.life(), ex: self.ex });
        }
        self.drop_shim();
        if !setting.fence_on_disk {
            self.fence = None;
        }
    }

    fn drop_shim(&mut self) {
        self.shim = None;
        if let Some(link) = &mut self.link {
            link.shim_open = false;
            link.to_shim.clear();
        }
    }

    pub(super) fn tasks_die(&mut self, effect: &mut Effect) {
        effect.lost = matches!(self.truth(), Truth::Running | Truth::Frozen);
        self.set(Truth::Dead, false);
        self.shim_hears(shim::Event::Died, effect);
    }

    pub(super) fn power_fails(&mut self, setting: &Setting, effect: &mut Effect) {
        effect.lost =
            matches!(self.truth(), Truth::Running | Truth::Frozen) || self.orphan.is_some();
        effect.forgotten = self.put_in_progress().is_some();
        let fence = self.fence.take().filter(|_| setting.fence_on_disk);
        let (pod, wanted) = (self.pod, self.wanted);
        *self = Self { up: false, agent: false, pod, wanted, fence, ..Self::target(self.n) };
    }

    pub(super) fn pod_deleted(&mut self, effect: &mut Effect) {
        let (truth, phase) = (self.truth(), self.phase());
        effect.lost = matches!(truth, Truth::Running | Truth::Frozen);
        self.wanted = truth == Truth::Running && phase == Phase::Idle;
        let gone = if self.wanted { Gone::Wanted } else { Gone::Lost };
        self.pod = false;
        self.shim_hears(shim::Event::Kill, effect);
        self.shim_hears(shim::Event::Gone(gone), effect);
        self.drop_shim();
    }

    pub(super) fn sandbox(&mut self, setting: &Setting, life: u8) {
        let incarnation = ids::incarnation(self.n, life);
        let fence = self.fence.clone();
        let machine = ShimMachine::under(setting.rules, ids::pod_uid(self.n), incarnation, fence);
        let (truth, ran, restoring) = (Truth::Dead, false, None);
        self.shim = Some(Box::new(Sandbox { life, machine, truth, ran, restoring }));
    }
}

fn pen(place: u8, life: u8, nonce: u8) -> Pen {
    let (me, nonce) = (ids::owner(place, life), ids::nonce(place, nonce));
    Pen { me, op: None, nonce, at_ms: 0 }
}

fn start_call(place: u8, request: Option<Request>, same: bool, on_lost: OnLost) -> StartCall {
    let reason = if same { ColdReason::Exited } else { ColdReason::SandboxLost };
    let before = Before { container: ids::pod_uid(place), reason, lived_s: None };
    let start = Start { request, before, on_lost, on_failure: OnFailure::Cold };
    StartCall { op: ids::op(), start }
}
