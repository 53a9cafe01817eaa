//! What one place may do whatever the rest of the world is like: faults, people, messages, timers.

use std::rc::Rc;

use godwit_types::Outcome;

use super::super::ids;
use super::super::place::{Effect, Engine, Place, Setting, Truth, Worker};
use super::{Budget, Explorer};
use crate::machine::Timer;
use crate::shim::{self, Phase};

/// One of them.
#[derive(Clone, Copy)]
pub(super) struct Move {
    pub label: u32,
    pub fair: bool,
    pub cost: Budget,
    pub to: u32,
    pub effect: Effect,
}

impl Explorer {
    pub(super) fn moves_of(&mut self, id: u32) -> Rc<[Move]> {
        let index = id as usize;
        if self.moves.len() <= index {
            self.moves.resize(index + 1, None);
        }
        if let Some(moves) = &self.moves[index] {
            return moves.clone();
        }
        let place = self.places.get(id).clone();
        let setting = self.setting;
        let mut moves = Moves { explorer: self, place: &place, found: Vec::new() };
        moves.all(&setting);
        let moves: Rc<[Move]> = moves.found.into();
        self.moves[index] = Some(moves.clone());
        moves
    }
}

struct Moves<'a> {
    explorer: &'a mut Explorer,
    place: &'a Place,
    found: Vec<Move>,
}

impl Moves<'_> {
    fn add(
        &mut self,
        label: &str,
        fair: bool,
        cost: Budget,
        change: impl FnOnce(&mut Place, &mut Effect),
    ) {
        let mut place = self.place.clone();
        let mut effect = Effect::default();
        change(&mut place, &mut effect);
        place.settle(&self.explorer.setting, &mut effect);
        let label = format!("{}: {label}", ids::letter(self.place.n));
        let label = self.explorer.labels.id(label);
        let to = self.explorer.places.id(place);
        self.found.push(Move { label, fair, cost, to, effect });
    }

    fn all(&mut self, setting: &Setting) {
        if !self.place.up {
            return self.add("node boots", true, Budget::Free, |p, _| p.up = true);
        }
        if self.place.is_releasing() {
            return self.release();
        }
        self.agent_faults();
        self.hard_faults(setting);
        self.people();
        self.shim();
        self.agent(setting);
    }

    /// They run, or CRIU dies at the very end.
    fn release(&mut self) {
        self.add("the held tasks are let go", true, Budget::Free, |p, e| p.released(false, e));
        let label = "CRIU dies as it lets the held tasks go: none runs";
        self.add(label, false, Budget::Hard, |p, e| p.released(true, e));
    }

    fn agent_faults(&mut self) {
        let place = self.place;
        if !place.agent {
            return self.add("agent starts", true, Budget::Free, |p, _| p.agent = true);
        }
        // An idle agent's crash is seen only by a start that finds it away.
        let matters = place.task.is_some() || place.link.is_some();
        let asked = place.fence.is_some() && place.truth() == Truth::Dead;
        if matters || asked {
            self.add("agent crashes", false, Budget::AgentCrash, Place::agent_crashes);
        }
        if place.link.as_ref().is_some_and(|link| !link.to_shim.is_empty()) {
            self.add("agent crashes, what it sent is lost", false, Budget::AgentCrash, |p, e| {
                p.agent_crashes(e);
                p.lose_messages();
            });
        }
    }

    fn hard_faults(&mut self, setting: &Setting) {
        let place = self.place;
        let (phase, truth) = (place.phase(), place.truth());
        let busy = truth != Truth::Dead || phase != Phase::Idle;
        let two = place.orphan.is_some() && matches!(truth, Truth::Running | Truth::Frozen);
        if place.shim.is_some() && busy && !two {
            let label = format!("shim crashes ({phase:?}, tasks {truth:?})");
            self.add(&label, false, Budget::Hard, |p, e| p.shim_crashes(setting, e));
        }
        if truth != Truth::Dead {
            let label = format!("tasks die ({phase:?}, {truth:?})");
            self.add(&label, false, Budget::Hard, Place::tasks_die);
        }
        let is_restored = place.fence.as_ref().is_some_and(|f| f.lived && f.consumed.is_some());
        if is_restored && phase == Phase::Idle && truth == Truth::Running {
            let label = "memory does not come: the pod is killed";
            self.add(label, false, Budget::Hard, Place::memory_fails);
        }
        if !place.is_bare() {
            self.add("power fails", false, Budget::Hard, |p, e| p.power_fails(setting, e));
        }
    }

    fn people(&mut self) {
        let place = self.place;
        if place.pod && place.orphan.is_none() && place.shim.is_some() {
            self.add("pod object deleted", false, Budget::Delete, Place::pod_deleted);
        }
        let checkpoints = place.task.as_ref().is_some_and(|task| {
            matches!(task.worker, Worker::Source(_)) && task.engine == Engine::Idle
        });
        if checkpoints {
            self.add("a person cancels", false, Budget::Cancel, Place::cancelled);
        }
    }

    fn shim(&mut self) {
        let place = self.place;
        if place.orphan.is_some() {
            self.add("containerd cleans up after the dead shim", true, Budget::Free, |p, e| {
                p.orphan = None;
                e.lost = true;
            });
        }
        if let Some(link) = &place.link
            && link.shim_open
            && place.shim.is_some()
            && (!link.to_shim.is_empty() || !link.agent_open)
        {
            let what = link.to_shim.first().map_or("the end of the connection".to_owned(), word);
            self.add(&format!("shim ← {what}"), true, Budget::Free, Place::shim_receives);
        }
        let phase = place.phase();
        if phase == Phase::Checkpointing && place.truth() == Truth::Frozen {
            self.add("the freeze deadline passes: shim thaws", true, Budget::Free, |p, e| {
                p.shim_hears(shim::Event::FreezeDeadline, e);
            });
            let label = "CRIU failed and rolled back: tasks run";
            self.add(label, true, Budget::Free, Place::criu_rolls_back);
        }
        if phase == Phase::Starting {
            self.add("start's deadline passes", false, Budget::Deadline, |p, e| {
                p.shim_hears(shim::Event::StartDeadline, e);
            });
        }
    }

    fn agent(&mut self, setting: &Setting) {
        let place = self.place;
        if !place.agent {
            return;
        }
        let Some(task) = &place.task else {
            let gone = !place.pod && place.fence.is_some();
            if gone && place.link.is_none() && place.shim.is_none() {
                let label = "agent cares for the gone pod";
                self.add(label, true, Budget::Free, |p, e| p.keep(setting, e));
            }
            return;
        };
        for timer in [Timer::Retry, Timer::Look, Timer::Reclaim] {
            if task.timers[timer as usize] {
                let label = format!("{timer:?} timer");
                self.add(&label, true, Budget::Free, |p, e| p.timer(timer, e));
            }
        }
        if task.engine == Engine::Storing {
            self.stored(task.point.unwrap_or(0), task.outcome == Some(Outcome::Offer));
        }
    }

    fn stored(&mut self, point: u8, may_be_bad: bool) {
        let label = format!("manifest of c{point} is written");
        self.add(&label, true, Budget::Free, |p, e| p.stored(point, false, e));
        if may_be_bad {
            let label = format!("{label}; it can never be restored");
            self.add(&label, false, Budget::Bad, |p, e| p.stored(point, true, e));
        }
    }
}

/// The first word of a message.
fn word<T: std::fmt::Debug>(message: &T) -> String {
    let text = format!("{message:?}");
    text.chars().take_while(|c| c.is_alphanumeric()).collect()
}
