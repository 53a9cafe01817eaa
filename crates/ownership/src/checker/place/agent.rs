//! The agent of a place: carries out what its machine says; checkpoints, looks, gone pods; what comes from the shim and the store.

use godwit_types::Outcome;

use super::super::ids;
use super::{Effect, Engine, Link, Place, Setting, Task, Truth, Worker, pen};
use crate::keeper::{Keeper, KeeperSpec};
use crate::look::{Look, LookSpec};
use crate::machine::{self, Machine, Timer};
use crate::message::{ToAgent, ToShim};
use crate::rules::Rule;
use crate::source::{Source, SourceSpec};
use crate::target::{Target, TargetSpec};
use crate::{Entry, Gone};

impl Place {
    pub(in crate::checker) fn agent_hears(&mut self, event: machine::Event, effect: &mut Effect) {
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

    pub(super) fn agent_does(&mut self, action: machine::Action, effect: &mut Effect) {
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
            // One that cannot be is cancelled, as at any other moment.
            Action::Examine => self.agent_hears(machine::Event::Fit, effect),
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
    pub(super) fn fires_at_once(&self, timer: Timer) -> bool {
        let worker = self.task.as_ref().map(|task| &task.worker);
        match timer {
            Timer::Look => true,
            Timer::Retry => matches!(worker, Some(Worker::Target(_) | Worker::Keeper(_))),
            Timer::Reclaim => false,
        }
    }

    pub(super) fn tell(&mut self, message: ToShim) {
        if let Some(link) = self.link.as_mut().filter(|link| link.shim_open) {
            link.to_shim.push(message);
        }
    }

    /// The entry whose PUT has no answer yet.
    pub(in crate::checker) fn put_in_progress(&self) -> Option<&Entry> {
        match self.task.as_ref()?.ask.as_ref()? {
            machine::Action::Put(entry) => Some(entry),
            _ => None,
        }
    }

    /// A message of the shim, or the end of its connection, reaches the agent.
    pub(in crate::checker) fn agent_receives(
        &mut self,
        setting: &Setting,
        nonce: u8,
        effect: &mut Effect,
    ) {
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

    pub(super) fn engine_hears(&mut self, setting: &Setting, message: &ToAgent) {
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

    pub(super) fn work(
        &mut self,
        worker: Worker,
        made: Option<(u8, Outcome)>,
        effect: &mut Effect,
    ) {
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

    pub(super) fn connect(&mut self) {
        let (agent_open, shim_open) = (true, true);
        let link = Link { to_shim: vec![], to_agent: vec![], agent_open, shim_open };
        self.link = Some(Box::new(link));
    }

    pub(in crate::checker) fn checkpoint(
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
            fence: self.fence.clone(),
            checkpoint: ids::point(point),
            outcome,
            to: None,
            reclaim_after_s: (outcome == Outcome::Offer).then_some(1),
        };
        let source = Box::new(Source::under(setting.rules, spec));
        self.work(Worker::Source(source), Some((point, outcome)), effect);
    }

    pub(in crate::checker) fn look(&mut self, setting: &Setting, old: bool, effect: &mut Effect) {
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

    pub(in crate::checker) fn keep(&mut self, setting: &Setting, effect: &mut Effect) {
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
    pub(in crate::checker) fn stored(&mut self, point: u8, bad: bool, effect: &mut Effect) {
        effect.manifest = Some(point);
        effect.bad = bad;
        if let Some(task) = &mut self.task {
            task.engine = Engine::Idle;
        }
        self.agent_hears(machine::Event::Manifest, effect);
    }

    pub(in crate::checker) fn timer(&mut self, timer: Timer, effect: &mut Effect) {
        if let Some(task) = &mut self.task {
            task.timers[timer as usize] = false;
        }
        self.agent_hears(machine::Event::Timer(timer), effect);
    }

    /// The store, or the engine, answers.
    pub(in crate::checker) fn answered(&mut self, event: machine::Event, effect: &mut Effect) {
        if let Some(task) = &mut self.task {
            task.ask = None;
        }
        self.agent_hears(event, effect);
    }

    /// A person cancels the checkpoint.
    pub(in crate::checker) fn cancelled(&mut self, effect: &mut Effect) {
        self.agent_hears(machine::Event::Cancel, effect);
    }

    /// T/2 has passed since the checkpoint on its way was stored.
    pub(in crate::checker) fn too_old(&mut self, effect: &mut Effect) {
        let gives = self.task.as_ref().is_some_and(|task| {
            let gives = matches!(task.worker, Worker::Source(_) | Worker::Look(_));
            gives && task.engine == Engine::Idle
        });
        if gives {
            self.agent_hears(machine::Event::TooOld, effect);
        }
    }

    pub(in crate::checker) fn owes_cold(&self) -> bool {
        self.shim.as_ref().is_some_and(|shim| shim.machine.owes_cold())
    }
}
