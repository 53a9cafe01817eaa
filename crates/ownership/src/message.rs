//! What agent and shim tell each other about ownership, as plain enums.
//!
//! `godwit-wire` carries each of them as one message with more fields (containers, descriptors, plans); the names differ where one
//! message serves two conversations there:
//!
//! | here | on the wire |
//! |---|---|
//! | [`ToShim::Begin`] / [`ToAgent::Begun`] | `BeginCheckpoint` / `Containers` |
//! | [`ToShim::Hold`], [`ToShim::Stands`] / [`ToAgent::Done`] | `WriteFence` / `Done` |
//! | [`ToAgent::Ask`] | `BeginRestore`, or `AskStart` without a restore request |
//! | [`ToShim::Commit`] / [`ToAgent::Committing`] | `Committing` / `FenceWritten`, for *every* entry that makes this pod the owner (`take-over`, `start`, `cold`, `resume`) |
//! | [`ToShim::Resume`] / [`ToAgent::Resumed`] | `Resume`, `ColdStart`, `May`, or `ResumeHeld` after the agent's death / `Resumed`, `Done` |
//! | [`ToShim::Abort`] / [`ToAgent::Done`] | `Abort`, `Refusal`, or `AbortHeld` after the agent's death / `Failed`, `Done` |
//! | [`ToAgent::RestoreFailed`] | `Failed` |
//! | [`ToAgent::Aborted`] | `Aborted`, `Damaged`, `Exited` |

use godwit_types::{CheckpointId, Incarnation, OpId, Outcome};

use crate::fence::{Asked, Fence, LineageRef};
use crate::state::{ColdReason, Fork};
use crate::{Entry, Refusal};

/// Agent → shim.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub enum ToShim {
    /// Who are you, what do you hold? Answer: [`ToAgent::Status`]. Allowed beside an operation of another connection.
    Attach,
    /// Begins a checkpoint. Before the answer [`ToAgent::Begun`] the fence is on disk.
    Begin {
        /// The operation.
        op: OpId,
        /// What becomes of the pod.
        outcome: Outcome,
        /// Its lineage.
        at: LineageRef,
    },
    /// Freezes every container. Answer: [`ToAgent::Frozen`] or [`ToAgent::Aborted`].
    Freeze,
    /// Thaws after every CRIU has ended. Answer: [`ToAgent::Thawed`].
    Thaw,
    /// Ends an operation before its seal. Answer: [`ToAgent::Done`].
    Cancel {
        /// The lineage turned out not to be this pod's: the fence that this operation made is removed.
        unfence: bool,
    },
    /// Holds the pod until this entry's slot is settled. Answer: [`ToAgent::Sealed`] or [`ToAgent::NotContinuous`] (thawed then; the
    /// operation is over).
    Seal {
        /// The entry that is PUT next: any later agent can settle it.
        entry: Box<Entry>,
        /// An offer that nobody took is reclaimed after so many seconds.
        reclaim_after_s: Option<u64>,
    },
    /// This slot of the log is about to get an entry that names this pod: the fence holds it. Answer: [`ToAgent::Done`].
    Hold {
        /// The slot, and the entry about to be PUT.
        entry: Box<Entry>,
    },
    /// This entry, the newest one, names this pod: the fence remembers that the log has it. Answer: [`ToAgent::Done`].
    Stands {
        /// The entry.
        entry: Box<Entry>,
    },
    /// The newest entry names this incarnation: a sealed pod runs on. Answer: [`ToAgent::Done`].
    Unseal {
        /// That entry.
        entry: Box<Entry>,
        /// The entry of the seal was never written and cannot land any more: the newest one is the one before its slot.
        unwritten: bool,
    },
    /// The sealed stop is settled and its checkpoint was seen after it: kill. Answer: [`ToAgent::Done`] when the cgroups are empty.
    Stopped {
        /// The stop.
        entry: Box<Entry>,
    },
    /// Another is the owner: kill what is frozen or still runs, in every state. Answer: [`ToAgent::Done`] when the cgroups are empty.
    Moved {
        /// The newest entry.
        entry: Box<Entry>,
    },
    /// Restore this point and hold its tasks. Answer: [`ToAgent::Held`] or [`ToAgent::RestoreFailed`].
    Plan {
        /// The point.
        checkpoint: CheckpointId,
    },
    /// This entry is about to be PUT: put its slot into the fence. Answer: [`ToAgent::Committing`]; from then on only a settled slot
    /// ends the attempt.
    Commit {
        /// The lineage.
        at: LineageRef,
        /// The entry.
        entry: Box<Entry>,
    },
    /// The slot is this attempt's and the newest entry names this incarnation: the held tasks run, or the container starts from its
    /// image. Answer: [`ToAgent::Resumed`].
    Resume {
        /// The entry that was committed.
        entry: Box<Entry>,
    },
    /// The start does not take place: kill what is held, prove it dead. Answer: [`ToAgent::Done`].
    Abort {
        /// What Start tells containerd.
        why: Refusal,
    },
}

/// Shim → agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub enum ToAgent {
    /// Answer to [`ToShim::Attach`].
    Status(Box<Status>),
    /// The operation has begun; the fence is on disk.
    Begun,
    /// Every container reads FROZEN.
    Frozen,
    /// Every container runs again.
    Thawed,
    /// The pod is held, whatever happens to the agent.
    Sealed,
    /// The pod ran, or may have run, since the dump: nothing may be committed. It runs on.
    NotContinuous,
    /// As asked.
    Done,
    /// Unasked: the shim ended the operation (deadline, kill, damage, exit). Later messages of it are refused.
    Aborted,
    /// Nothing was changed by the last message, and why.
    Refused(Refusal),
    /// May this container start?
    Ask(Box<Ask>),
    /// Every task is restored and held.
    Held,
    /// The restore failed; nothing of it is left.
    RestoreFailed {
        /// Whether no other try of this point here can succeed.
        never: bool,
    },
    /// The fence with the slot is on disk.
    Committing,
    /// The tasks run.
    Resumed,
}

/// What a shim is and holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub struct Status {
    /// Which pod: [`godwit_types::Owner::pod_uid`].
    pub pod_uid: String,
    /// Its life.
    pub incarnation: Incarnation,
    /// Its fence as it is on disk.
    pub fence: Option<Fence>,
    /// What an agent has to do with it.
    pub holds: Holds,
}

/// What a shim holds, as far as an agent that attaches must act on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub enum Holds {
    /// No task lives.
    Nothing,
    /// It runs (or is frozen by an operation that is not sealed).
    Running {
        /// It was started while nobody could be asked: the `cold` entry is still owed.
        owes_cold: Option<Before>,
    },
    /// A start is on its way, not yet at its entry.
    Starting,
    /// Settle this first.
    Sealed {
        /// The entry of the seal.
        entry: Box<Entry>,
        /// See [`ToShim::Seal`].
        reclaim_after_s: Option<u64>,
    },
    /// Settle this first.
    Committing {
        /// The entry of the attempt.
        entry: Box<Entry>,
    },
}

/// A start that needs the log's word.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub struct Ask {
    /// The attempt. Minted by the shim.
    pub op: OpId,
    /// Which pod.
    pub pod_uid: String,
    /// The sandbox life that asks.
    pub incarnation: Incarnation,
    /// Its fence as it is on disk.
    pub fence: Option<Fence>,
    /// What its spec asks for.
    pub start: Start,
    /// The shim has proved that no task of another incarnation of this pod lives here.
    pub others_dead: bool,
}

/// What a start is about, from the spec and from what the shim remembers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub struct Start {
    /// What is to be restored; none for an ordinary start.
    pub request: Option<Request>,
    /// The request stands in a pod object that outlives sandboxes and boots (Kubernetes), so that a later life repeats it and asks
    /// for nothing new. Without one, who starts another life asks anew.
    pub standing: bool,
    /// What was before.
    pub before: Before,
    /// What to do with a pod whose earlier life is lost.
    pub on_lost: OnLost,
    /// What to do when a point can never be restored here.
    pub on_failure: OnFailure,
}

/// The life before a cold start, for the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub struct Before {
    /// Which container.
    pub container: String,
    /// How it ended.
    pub reason: ColdReason,
    /// For how many seconds it lived, if it began with a restore.
    pub lived_s: Option<u64>,
}

/// A restore request. Consumed by the first life that it began.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub enum Request {
    /// Continue the lineage.
    Continue {
        /// From this point; from what it offers if absent.
        checkpoint: Option<CheckpointId>,
        /// Against the owner's word.
        force: Option<Force>,
        /// Where there is nothing to continue, the lineage begins. Such a lineage belongs to nobody who has not asked for it: what runs
        /// without one of this name is not one of its lives.
        begins: bool,
    },
    /// Begin a lineage of its own as a copy.
    Fork(Fork),
}

impl Request {
    /// What is asked for, as a fence remembers it.
    #[must_use]
    pub fn asked(&self) -> Asked {
        match self {
            Self::Continue { checkpoint, .. } => Asked::RestoreFrom(*checkpoint),
            Self::Fork(fork) => Asked::ForkFrom(fork.checkpoint),
        }
    }
}

/// A person's word against the owner's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub struct Force {
    /// Who.
    pub who: String,
    /// Why.
    pub why: String,
}

/// What a start of the owner's pod does when its earlier life is lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub enum OnLost {
    /// Start from the image, unless the pod was stopped at a point: that is refused.
    #[default]
    Image,
    /// Continue from the latest good point; also where the lineage was stopped elsewhere and nobody has it.
    Latest,
    /// Start from the image always.
    Never,
}

/// What a start does when its point can never be restored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub enum OnFailure {
    /// Refuse.
    #[default]
    Refuse,
    /// Start from the image, where the log permits it.
    Cold,
}
