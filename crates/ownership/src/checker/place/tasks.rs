//! The shim of a place: carries out what its machine says; kubelet's starts; what comes from the agent.

use super::super::ids;
use super::{CONN, Connections, Effect, Link, Place, Setting, Truth, start_call};
use crate::Entry;
use crate::machine;
use crate::message::{Force, OnLost, Request, ToAgent, ToShim};
use crate::shim::{self, CriuEnd, Phase};

impl Place {
    pub(in crate::checker) fn shim_hears(&mut self, event: shim::Event, effect: &mut Effect) {
        let Some(shim) = &mut self.shim else { return };
        for action in shim.machine.step(event) {
            self.shim_does(action, effect);
        }
    }

    pub(super) fn shim_does(&mut self, action: shim::Action, effect: &mut Effect) {
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
                self.shim_hears(shim::Event::Frozen { members: 1 }, effect);
                let end = CriuEnd { member: 0, dumped: true, frozen: true, killed: false };
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
            shim::Action::RunCold => {
                effect.ignored = self.asked;
                self.runs(effect);
            }
            shim::Action::RunHeld => {
                if let Some(shim) = &mut self.shim {
                    shim.releasing = true;
                }
            }
            shim::Action::Started(_) => {}
        }
    }

    pub(super) fn set(&mut self, truth: Truth, ran: bool) {
        if let Some(shim) = &mut self.shim {
            shim.truth = truth;
            shim.ran = ran;
            shim.restoring = None;
            shim.releasing = false;
            if truth != Truth::Held {
                shim.connections = Connections::No;
            }
        }
    }

    pub(super) fn runs(&mut self, effect: &mut Effect) {
        self.set(Truth::Running, true);
        self.asked = false;
        let offline = self.shim.as_ref().is_some_and(|shim| shim.machine.owes_cold());
        effect.ran = Some(offline);
    }

    /// CRIU failed and rolled back: the tasks run, the shim has not told anybody.
    pub(in crate::checker) fn criu_rolls_back(&mut self, effect: &mut Effect) {
        self.runs(effect);
        self.shim_hears(shim::Event::CriuStarted, effect);
        let end = CriuEnd { member: 0, dumped: false, frozen: false, killed: false };
        self.shim_hears(shim::Event::CriuEnded(end), effect);
    }

    /// CRIU has let the tasks go, or has died of it.
    pub(in crate::checker) fn released(&mut self, fails: bool, effect: &mut Effect) {
        if fails {
            self.set(Truth::Dead, false);
            return self.shim_hears(shim::Event::Died, effect);
        }
        self.runs(effect);
        self.shim_hears(shim::Event::Released, effect);
    }

    /// The restore of the point ends.
    pub(in crate::checker) fn restored(&mut self, fails: bool, effect: &mut Effect) {
        self.set(if fails { Truth::Dead } else { Truth::Held }, false);
        let event =
            if fails { shim::Event::RestoreFailed { never: true } } else { shim::Event::Held };
        self.shim_hears(event, effect);
    }

    pub(in crate::checker) fn start(
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
        let lived = self.fence.as_ref().is_some_and(|fence| fence.lived);
        let asks = self.n > 0 || setting.asks_anew;
        let request = (asks && (setting.own_request || !lived)).then(|| Request::Continue {
            checkpoint: None,
            force: setting.force.then(|| Force { who: "x".to_owned(), why: "y".to_owned() }),
            begins: setting.begins,
        });
        let call = start_call(self.n, request, !setting.asks_anew, same, on_lost);
        self.shim_hears(shim::Event::Start(Box::new(call)), effect);
        let asks = self.link.as_ref().is_some_and(|link| !link.to_agent.is_empty());
        if setting.eager && asks {
            self.agent_receives(setting, nonce, effect);
        }
    }

    /// Whether a start now would be refused at once and change nothing.
    pub(in crate::checker) fn start_is_vain(
        &self,
        setting: &Setting,
        on_lost: OnLost,
        newest: &Entry,
    ) -> bool {
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
    pub(in crate::checker) fn shim_receives(&mut self, effect: &mut Effect) {
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
}
