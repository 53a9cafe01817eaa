//! The agent looks at a pod that nobody works on: after its own restart, after a reconnect of the store, and each minute.
//!
//! ```text
//! Attach ─► Status ─┬─ sealed ──────► [`crate::giving`]: settle it, then what the log says
//!                   ├─ committing ──► [`crate::claiming`]: settle it, then Resume or Abort
//!                   ├─ running ─────► newest entry ─┬─ names it ─► (a `cold` that is owed) ─► Fine
//!                   │                               └─ names another ─► Moved: a zombie is killed
//!                   └─ else ────────► Fine
//! ```
//! An agent settles what is sealed or committing on every pod before it serves anything.

use godwit_types::{Nonce, Owner};

use crate::claiming::{Claim, Claiming};
use crate::entry::{Basis, Entry, Pen};
use crate::fence::Fence;
use crate::giving::Giving;
use crate::machine::{Action, Ending, Event, Machine, Read};
use crate::message::{Before, Holds, Status, ToAgent, ToShim};
use crate::rules::{Rule, Rules};
use crate::settle::{Settle, Verdict};
use crate::state::Kind;

/// What a look needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub struct LookSpec {
    /// Id of the cluster.
    pub cluster: String,
    /// Name of the node.
    pub node: String,
    /// The node's epoch.
    pub epoch: u64,
    /// Minted for this look.
    pub nonce: Nonce,
    /// See [`crate::Entry::at_ms`].
    pub at_ms: u64,
    /// Whether more than T/2 has passed since the operation began that is sealed; `true` if that is not known.
    pub old: bool,
}

/// One look.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub struct Look {
    rules: Rules,
    spec: LookSpec,
    /// What the shim has.
    fence: Option<Box<Fence>>,
    step: Step,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
enum Step {
    New,
    Attaching,
    /// It runs: does the log name it?
    Reading {
        me: Owner,
        owes: Option<Before>,
    },
    /// The `cold` that is owed.
    Owed {
        me: Owner,
        settle: Settle,
    },
    Giving(Giving),
    Claiming(Claiming),
    /// The shim does it.
    Telling(Box<Ending>),
}

impl Look {
    /// A new one; its first event is [`Event::Begin`].
    #[must_use]
    pub fn new(spec: LookSpec) -> Self {
        Self { rules: Rules::ALL, spec, fence: None, step: Step::New }
    }

    #[cfg(test)]
    pub(crate) fn under(rules: Rules, spec: LookSpec) -> Self {
        Self { rules, ..Self::new(spec) }
    }

    fn advance(&mut self, event: &Event) -> Vec<Action> {
        match (&mut self.step, event) {
            (Step::New, Event::Begin) => {
                self.step = Step::Attaching;
                vec![Action::Tell(ToShim::Attach)]
            }
            (Step::Attaching, Event::Shim(ToAgent::Status(status))) => self.on_status(status),
            (Step::Reading { me, owes }, Event::Newest(Read::Known(newest))) => {
                let (me, owes) = (me.clone(), owes.clone());
                self.on_newest(me, owes, newest.as_deref())
            }
            (Step::Reading { .. }, Event::Newest(Read::Unavailable)) => fine(),
            (Step::Owed { me, settle }, event) => match settle.step(event) {
                // It is still owed.
                Ok(Verdict::NotWritten) => fine(),
                Ok(_) => {
                    let me = me.clone();
                    self.read(me, None)
                }
                Err(actions) => actions,
            },
            (Step::Claiming(claiming), event) => {
                let entry = Box::new(claiming.entry().clone());
                match claiming.step(event) {
                    Claim::Won => {
                        let ending = Ending::Resumed(entry.clone());
                        self.tells(ToShim::Resume { entry }, ending)
                    }
                    Claim::Lost(why) => {
                        let ending = Ending::Refused(why.clone());
                        self.tells(ToShim::Abort { why }, ending)
                    }
                    Claim::Open(actions) => actions,
                }
            }
            (Step::Telling(ending), Event::Shim(ToAgent::Done | ToAgent::Resumed)) => {
                vec![Action::Done((**ending).clone())]
            }
            _ => vec![],
        }
    }

    fn on_status(&mut self, status: &Status) -> Vec<Action> {
        let me = self.owner(status);
        self.fence = status.fence.clone().map(Box::new);
        match &status.holds {
            Holds::Sealed { entry, reclaim_after_s } => {
                let reclaims = reclaim_after_s.is_some();
                let (giving, actions) =
                    Giving::found(self.rules, entry.clone(), reclaims, self.spec.old);
                self.step = Step::Giving(giving);
                actions
            }
            Holds::Committing { entry } => {
                let (claiming, actions) = Claiming::found(self.rules, entry.clone());
                self.step = Step::Claiming(claiming);
                actions
            }
            Holds::Running { owes_cold } if status.fence.is_some() => {
                self.read(me, owes_cold.clone())
            }
            Holds::Running { .. } | Holds::Nothing | Holds::Starting => fine(),
        }
    }

    fn owner(&self, status: &Status) -> Owner {
        Owner {
            cluster: self.spec.cluster.clone(),
            node: self.spec.node.clone(),
            epoch: self.spec.epoch,
            pod_uid: status.pod_uid.clone(),
            incarnation: status.incarnation,
        }
    }

    fn read(&mut self, me: Owner, owes: Option<Before>) -> Vec<Action> {
        self.step = Step::Reading { me, owes };
        vec![Action::ReadNewest]
    }

    fn on_newest(
        &mut self,
        me: Owner,
        owes: Option<Before>,
        newest: Option<&Entry>,
    ) -> Vec<Action> {
        let Some(newest) = newest else { return fine() };
        let another = newest.state.owner().is_some_and(|owner| *owner != me);
        match owes {
            Some(before) if newest.state.lets_run(&me) => self.write_cold(me, before, newest),
            _ if another && self.rules.hold(Rule::Look) => {
                let entry = Box::new(newest.clone());
                self.tells(ToShim::Moved { entry: entry.clone() }, Ending::Moved(entry))
            }
            None if newest.state.lets_run(&me) && newest.nonce == self.spec.nonce => {
                let entry = Box::new(newest.clone());
                self.tells(ToShim::Unseal { entry, unwritten: false }, Ending::Fine)
            }
            _ => fine(),
        }
    }

    fn write_cold(&mut self, me: Owner, before: Before, newest: &Entry) -> Vec<Action> {
        let Before { container, reason, lived_s } = before;
        let kind = Kind::Cold { container, reason, lived_s };
        let pen = Pen { me: me.clone(), op: None, nonce: self.spec.nonce, at_ms: self.spec.at_ms };
        match Basis::of(Some(newest)).next(&pen, kind) {
            Ok(entry) => {
                let (settle, actions) = Settle::put(self.rules, Box::new(entry), false);
                self.step = Step::Owed { me, settle };
                actions
            }
            Err(_) => fine(),
        }
    }

    fn tells(&mut self, message: ToShim, ending: Ending) -> Vec<Action> {
        self.step = Step::Telling(Box::new(ending));
        vec![Action::Tell(message)]
    }
}

fn fine() -> Vec<Action> {
    vec![Action::Done(Ending::Fine)]
}

impl Machine for Look {
    fn step(&mut self, event: Event) -> Vec<Action> {
        let event = event.doubted(self.fence.as_deref(), self.rules);
        match (&mut self.step, &event) {
            (Step::Giving(giving), event) => giving.step(event),
            (_, Event::Ended | Event::Shim(ToAgent::Aborted | ToAgent::Refused(_))) => {
                vec![Action::Done(Ending::Detached)]
            }
            (_, event) => self.advance(event),
        }
    }
}

#[cfg(test)]
mod tests;
