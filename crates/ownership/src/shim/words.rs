//! What the shim's machine hears, what it says to do, and what others may know of it.

use godwit_types::{CheckpointId, OpId};

use crate::admit::Refusal;
use crate::fence::{Asked, Fence, Gone};
use crate::message::{Ask, Start, ToAgent, ToShim};

/// One connection between this shim and an agent. The driver numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub struct Conn(pub u32);

/// What the shim hears.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// A message of the agent.
    Message {
        /// On which connection.
        from: Conn,
        /// What it says.
        message: ToShim,
    },
    /// A connection ended.
    Ended(Conn),
    /// [`Action::Ask`] has a connection; the question was sent.
    Asked(Conn),
    /// [`Action::Ask`] found no agent.
    AgentAway,
    /// containerd's Start of a container. Answered by the next [`Action::Started`].
    Start(Box<StartCall>),
    /// Start cannot wait any longer.
    StartDeadline,
    /// Every task is restored, held at post-restore and in the right namespaces.
    Held,
    /// Answer to [`Action::RunHeld`]: all tasks run. If they do not: [`Event::Died`], or, where some may run, [`Event::Kill`].
    Released,
    /// The restore failed and nothing of it is left: deleted, cgroup empty.
    RestoreFailed {
        /// Whether no other try of this point here can succeed.
        never: bool,
    },
    /// Answer to [`Action::Prove`].
    Proved(bool),
    /// A CRIU of the operation was started.
    CriuStarted,
    /// A CRIU of the operation ended.
    CriuEnded(CriuEnd),
    /// Answer to [`Action::Freeze`]: every container reads FROZEN and stdio is drained.
    Frozen {
        /// How many they are.
        members: u16,
    },
    /// Answer to [`Action::Freeze`]: some task did not stop; all are thawed again.
    FreezeFailed,
    /// The freeze deadline passed.
    FreezeDeadline,
    /// A container that the operation had frozen does not read FROZEN any more, and nobody of the operation thawed it.
    Woken,
    /// Answer to [`Action::Thaw`]: no CRIU lives, the state was read back.
    Thawed,
    /// Kill with SIGKILL, or Delete, by containerd.
    Kill,
    /// Answer to [`Action::Kill`]: the cgroups are empty.
    Killed,
    /// Every task of the pod ended by itself.
    Died,
    /// Memory that was to follow the tasks of a restore never comes: what runs of the pod must not go on.
    Unfilled,
    /// The pod object is gone (without Kubernetes: its task was deleted); no task lives.
    Gone(Gone),
    /// The fence could not be written.
    FenceFailed,
}

/// How a CRIU ended, read before anybody wrote to the freezer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CriuEnd {
    /// Whose it was, among the containers of the operation.
    pub member: u16,
    /// Its post-dump was successful.
    pub dumped: bool,
    /// The operation had frozen the pod, and its cgroup read FROZEN when its pidfd became readable.
    pub frozen: bool,
    /// It died by a signal: the container is damaged.
    pub killed: bool,
}

/// A Start of containerd.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub struct StartCall {
    /// Minted for this attempt.
    pub op: OpId,
    /// What the spec asks for.
    pub start: Start,
    /// Its restore request by value, for the fence.
    pub asked: Option<Asked>,
}

/// What the shim does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// Replace the fence file (remove it if `None`): fsync of file and directory.
    WriteFence(Option<Box<Fence>>),
    /// Send this.
    Send {
        /// On which connection; a closed one is ignored.
        to: Conn,
        /// What.
        message: ToAgent,
    },
    /// Connect to the agent and ask. Answer: [`Event::Asked`] or [`Event::AgentAway`].
    Ask(Box<Ask>),
    /// Find out whether the cgroups of all other incarnations of this pod are empty. Answer: [`Event::Proved`].
    Prove,
    /// Freeze every container; then the freeze deadline runs.
    Freeze,
    /// Wait for every CRIU to end, thaw, read back. Tasks may run from now on.
    Thaw,
    /// SIGKILL to every task, wait until the cgroups are empty.
    Kill,
    /// Restore this point by the agent's plan and hold.
    Restore(CheckpointId),
    /// Let the held tasks run. Answer: [`Event::Released`], or their end.
    RunHeld,
    /// Start the container from its image.
    RunCold,
    /// The answer of Start.
    Started(Result<(), Refusal>),
}

/// The pod's tasks, as the shim knows them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub enum Tasks {
    /// None lives.
    #[default]
    Dead,
    /// They run, or may run.
    Running,
    /// Frozen by an operation.
    Frozen,
    /// Restored, held before their first instruction.
    Held,
}

/// What the shim is doing, for State, Status and the other products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing.
    Idle,
    /// A start is on its way.
    Starting,
    /// A start waits for its slot.
    Committing,
    /// Held tasks are being let go.
    Releasing,
    /// A checkpoint has begun, not sealed.
    Checkpointing,
    /// Only a settled slot lets it go.
    Sealed,
    /// Being thawed.
    Thawing,
    /// Being killed.
    Killing,
}
