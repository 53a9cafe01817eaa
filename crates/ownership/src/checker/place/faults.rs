//! What goes wrong at a place, and what people do to it.

use super::super::ids;
use super::{Effect, Orphan, Place, Sandbox, Setting, Truth};
use crate::Gone;
use crate::shim::{self, Phase, ShimMachine};

impl Place {
    pub(in crate::checker) fn agent_crashes(&mut self, effect: &mut Effect) {
        effect.forgotten = self.put_in_progress().is_some();
        self.agent = false;
        self.task = None;
        if let Some(link) = &mut self.link {
            link.agent_open = false;
            link.to_agent.clear();
        }
    }

    /// Messages that were sent before the crash may be lost with it.
    pub(in crate::checker) fn lose_messages(&mut self) {
        if let Some(link) = &mut self.link {
            link.to_shim.clear();
        }
    }

    pub(in crate::checker) fn shim_crashes(&mut self, setting: &Setting, effect: &mut Effect) {
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

    pub(super) fn drop_shim(&mut self) {
        self.shim = None;
        if let Some(link) = &mut self.link {
            link.shim_open = false;
            link.to_shim.clear();
        }
    }

    pub(in crate::checker) fn tasks_die(&mut self, effect: &mut Effect) {
        effect.lost = matches!(self.truth(), Truth::Running | Truth::Frozen);
        self.set(Truth::Dead, false);
        self.shim_hears(shim::Event::Died, effect);
    }

    /// Memory of a life that was restored does not come: it is killed, and is to be asked for again.
    pub(in crate::checker) fn memory_fails(&mut self, effect: &mut Effect) {
        effect.lost = true;
        self.asked = true;
        self.shim_hears(shim::Event::Unfilled, effect);
    }

    pub(in crate::checker) fn power_fails(&mut self, setting: &Setting, effect: &mut Effect) {
        effect.lost =
            matches!(self.truth(), Truth::Running | Truth::Frozen) || self.orphan.is_some();
        effect.forgotten = self.put_in_progress().is_some();
        let fence = self.fence.take().filter(|_| setting.fence_on_disk);
        let (pod, asked, wanted) = (self.pod, self.asked, self.wanted);
        *self = Self { up: false, agent: false, pod, asked, wanted, fence, ..Self::target(self.n) };
    }

    pub(in crate::checker) fn pod_deleted(&mut self, effect: &mut Effect) {
        let (truth, phase) = (self.truth(), self.phase());
        effect.lost = matches!(truth, Truth::Running | Truth::Frozen);
        self.wanted = truth == Truth::Running && phase == Phase::Idle;
        let gone = if self.wanted { Gone::Wanted } else { Gone::Lost };
        self.pod = false;
        self.shim_hears(shim::Event::Kill, effect);
        self.shim_hears(shim::Event::Gone(gone), effect);
        self.drop_shim();
    }

    pub(in crate::checker) fn sandbox(&mut self, setting: &Setting, life: u8) {
        let incarnation = ids::incarnation(self.n, life);
        let fence = self.fence.clone();
        self.asked |= setting.asks_anew;
        let machine = ShimMachine::under(setting.rules, ids::pod_uid(self.n), incarnation, fence);
        self.shim = Some(Box::new(Sandbox::new(life, machine, Truth::Dead)));
    }
}
