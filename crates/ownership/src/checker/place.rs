//! One pod on one node as the checker simulates it: kubelet's object, fence file, shim, tasks, agent, connection.
//!
//! Everything that decides is the production machine; this only carries out its actions and feeds the results back.

mod agent;
mod faults;
mod tasks;

use serde::{Deserialize, Serialize};

use super::ids;
use crate::Pen;
use crate::fence::Fence;
use crate::keeper::Keeper;
use crate::look::Look;
use crate::machine;
use crate::message::{Before, OnFailure, OnLost, Request, Start, ToAgent, ToShim};
use crate::rules::Rules;
use crate::shim::{self, Conn, Phase, ShimMachine, StartCall};
use crate::source::Source;
use crate::state::ColdReason;
use crate::target::Target;
use godwit_types::{Outcome, Seq};

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
    /// There are no pod objects: every life of every place is begun by a person who asks for the pod's memory. Off: the pod objects of
    /// the targets repeat their request.
    pub asks_anew: bool,
    /// Who asks begins the lineage where there is nothing to continue.
    pub begins: bool,
    /// A life consumes its own request (off: any life consumes any).
    pub own_request: bool,
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
    /// CRIU lets them go.
    pub releasing: bool,
    /// What the restored tasks know of the pod's connections.
    pub connections: Connections,
}

/// What somebody who is made ready to take a pod over knows of its connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Connections {
    /// They are closed.
    #[default]
    No,
    /// What their peers know: nobody has used them since the pod was given away.
    Fresh,
    /// Less than their peers know.
    Stale,
}

impl Sandbox {
    pub(super) fn new(life: u8, machine: ShimMachine, truth: Truth) -> Self {
        let connections = Connections::No;
        Self { life, machine, truth, ran: false, restoring: None, releasing: false, connections }
    }
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
    /// Somebody asked for the pod's memory, and no life has begun since.
    pub asked: bool,
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
    /// They began from the image although somebody had asked for the pod's memory.
    pub ignored: bool,
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
            consumed: None,
            slot: None,
            seen: Some(Seq(ids::NEWEST - 2)),
            gone: None,
        });
        let mut machine =
            ShimMachine::under(setting.rules, ids::pod_uid(0), ids::incarnation(0, 0), None);
        // A first start without a lineage; then the fence that its first entry would have made.
        let first = start_call(0, None, true, true, OnLost::Image);
        machine.step(shim::Event::Start(Box::new(first)));
        machine.adopt_fence(fence.clone());
        let sandbox = Sandbox::new(0, machine, Truth::Running);
        Self { fence, shim: Some(Box::new(sandbox)), ..Self::target(0) }
    }

    pub(super) fn target(n: u8) -> Self {
        Self {
            n,
            up: true,
            agent: true,
            pod: true,
            asked: n > 0,
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

    /// CRIU lets the tasks go: they run next, or never.
    pub(super) fn is_releasing(&self) -> bool {
        self.shim.as_ref().is_some_and(|shim| shim.releasing)
    }

    /// Its restore is made ready; with the pod's connections, if that was given away.
    pub(super) fn keeps(&mut self, given: bool) {
        if let Some(shim) = &mut self.shim {
            shim.connections = if given { Connections::Fresh } else { Connections::No };
        }
    }

    /// Another copy runs.
    pub(super) fn outrun(&mut self) {
        if let Some(shim) = self.shim.as_mut().filter(|s| s.connections == Connections::Fresh) {
            shim.connections = Connections::Stale;
        }
    }

    pub(super) fn connections(&self) -> Connections {
        self.shim.as_ref().map_or(Connections::No, |shim| shim.connections)
    }

    /// Whether the agent has sent its word that the tasks may run.
    fn permitted(&self) -> bool {
        let permits = |m: &ToShim| matches!(m, ToShim::Resume { .. } | ToShim::Unseal { .. });
        self.is_releasing()
            || self.link.as_ref().is_some_and(|link| link.to_shim.iter().any(permits))
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
        // A log only grows: that something was seen matters, not where.
        let in_shim = self.shim.as_mut().and_then(|shim| shim.machine.fence_mut());
        for fence in self.fence.iter_mut().chain(in_shim) {
            fence.seen = fence.seen.map(|_| Seq(ids::NEWEST - 2));
        }
        let live = matches!(self.truth(), Truth::Running | Truth::Frozen);
        self.ex &= live || self.permitted();
        if let Some(shim) = &mut self.shim
            && matches!(shim.machine.phase(), Phase::Idle)
        {
            shim.ran = false;
            shim.connections = Connections::No;
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
}

fn pen(place: u8, life: u8, nonce: u8) -> Pen {
    let (me, nonce) = (ids::owner(place, life), ids::nonce(place, nonce));
    Pen { me, op: None, nonce, at_ms: 0 }
}

fn start_call(
    place: u8,
    request: Option<Request>,
    standing: bool,
    same: bool,
    on_lost: OnLost,
) -> StartCall {
    let asked = request.as_ref().map(Request::asked);
    let reason = if same { ColdReason::Exited } else { ColdReason::SandboxLost };
    let before = Before { container: ids::pod_uid(place), reason, lived_s: None };
    let start = Start { request, standing, before, on_lost, on_failure: OnFailure::Cold };
    StartCall { op: ids::op(), start, asked }
}
