//! What is asked for and what may go wrong, by name.

use super::world::{Budget, Budgets};

/// A search's budgets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scenario {
    pub name: &'static str,
    pub budgets: Budgets,
    pub nodes: usize,
    /// Targets may force.
    pub force: bool,
    /// Every life is begun by a person who asks for the memory (see `Setting`).
    pub asks_anew: bool,
    /// The lineage has begun.
    pub begun: bool,
    pub sweepers: usize,
    /// Messages arrive at once (see `Setting`).
    pub eager: bool,
}

const fn with(pairs: &[(Budget, u8)]) -> Budgets {
    let mut budgets = [0; 14];
    let mut at = 0;
    while at < pairs.len() {
        budgets[pairs[at].0 as usize] = pairs[at].1;
        at += 1;
    }
    budgets
}

const fn scenario(name: &'static str, pairs: &[(Budget, u8)]) -> Scenario {
    let budgets = with(pairs);
    let (nodes, force, asks_anew, begun, sweepers, eager) = (2, false, false, true, 1, true);
    Scenario { name, budgets, nodes, force, asks_anew, begun, sweepers, eager }
}

use Budget::{
    AgentCrash, Away, Bad, Cancel, Deadline, Delete, Hard, Look, Offer, Refuse, Run, Stop, Tick,
};

pub(super) const MOVE: Scenario =
    scenario("move", &[(AgentCrash, 1), (Hard, 1), (Offer, 1), (Bad, 1)]);
pub(super) const STOP: Scenario = scenario("stop", &[(AgentCrash, 1), (Hard, 1), (Stop, 1)]);
pub(super) const RUN: Scenario = scenario("run", &[(AgentCrash, 1), (Hard, 1), (Run, 1)]);
pub(super) const FIRST: Scenario =
    Scenario { begun: false, ..scenario("first", &[(AgentCrash, 1), (Hard, 1), (Offer, 1)]) };
pub(super) const GC: Scenario = scenario("gc", &[(AgentCrash, 1), (Hard, 1), (Stop, 1), (Tick, 2)]);
pub(super) const GCMOVE: Scenario =
    scenario("gcmove", &[(AgentCrash, 1), (Hard, 1), (Offer, 1), (Bad, 1), (Tick, 2), (Delete, 1)]);
pub(super) const FORCE: Scenario =
    Scenario { force: true, ..scenario("force", &[(AgentCrash, 1), (Hard, 1), (Run, 1)]) };
pub(super) const FORCEMOVE: Scenario = Scenario {
    force: true,
    ..scenario("forcemove", &[(AgentCrash, 1), (Hard, 1), (Offer, 1), (Run, 1)])
};
pub(super) const CANCEL: Scenario =
    scenario("cancel", &[(AgentCrash, 1), (Hard, 1), (Offer, 1), (Delete, 1), (Cancel, 1)]);
pub(super) const CANCELSTOP: Scenario =
    scenario("cancelstop", &[(AgentCrash, 1), (Hard, 1), (Stop, 1), (Delete, 1), (Cancel, 1)]);
pub(super) const MIXED: Scenario =
    scenario("mixed", &[(AgentCrash, 1), (Hard, 1), (Offer, 1), (Stop, 1)]);
pub(super) const BACK: Scenario =
    Scenario { nodes: 3, ..scenario("back", &[(AgentCrash, 1), (Offer, 2)]) };
pub(super) const THREE: Scenario =
    Scenario { nodes: 3, ..scenario("three", &[(AgentCrash, 1), (Hard, 1), (Offer, 1)]) };
pub(super) const DEADLINES: Scenario =
    scenario("deadlines", &[(AgentCrash, 1), (Hard, 1), (Stop, 1), (Deadline, 1), (Look, 1)]);
/// A target that dies twice: in its attempt, and after it.
pub(super) const TWODEATHS: Scenario =
    scenario("twodeaths", &[(AgentCrash, 1), (Hard, 2), (Stop, 1)]);
/// A pod without a pod object that dies twice after a checkpoint, and whose user asks for its memory each time.
pub(super) const AGAIN: Scenario =
    Scenario { asks_anew: true, ..scenario("again", &[(AgentCrash, 1), (Hard, 2), (Run, 1)]) };
/// The same with an offer between.
pub(super) const AGAINMOVE: Scenario = Scenario {
    asks_anew: true,
    ..scenario("againmove", &[(AgentCrash, 1), (Hard, 1), (Run, 1), (Offer, 1)])
};
/// The store refuses a PUT of a move.
pub(super) const REFUSED: Scenario =
    scenario("refused", &[(AgentCrash, 1), (Hard, 1), (Offer, 1), (Refuse, 1)]);
/// The store refuses PUTs of a stop that is cancelled.
pub(super) const REFUSEDSTOP: Scenario =
    scenario("refusedstop", &[(AgentCrash, 1), (Stop, 1), (Cancel, 1), (Refuse, 2)]);
/// The store is not mounted when the log of a pod that moves, dies or is deleted is looked at.
pub(super) const AWAY: Scenario =
    scenario("away", &[(Hard, 1), (Offer, 1), (Delete, 1), (Away, 1)]);
/// The same around a stop and the agent's death.
pub(super) const AWAYSTOP: Scenario =
    scenario("awaystop", &[(AgentCrash, 1), (Hard, 1), (Stop, 1), (Away, 1)]);
pub(super) const SLOWRUN: Scenario =
    Scenario { eager: false, ..scenario("slowrun", &[(AgentCrash, 1), (Hard, 1), (Run, 1)]) };
pub(super) const SLOWMOVE: Scenario =
    Scenario { eager: false, ..scenario("slowmove", &[(AgentCrash, 1), (Hard, 1), (Offer, 1)]) };
pub(super) const TWOSWEEPS: Scenario =
    Scenario { sweepers: 2, ..scenario("twosweeps", &[(Stop, 1), (Tick, 2)]) };
