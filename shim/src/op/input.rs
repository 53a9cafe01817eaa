//! Everything that the actor hears, and the numbers that tell late words from current ones.

use std::sync::Arc;

use godwit_ownership::shim::{Conn, Event};
use godwit_types::OpId;
use godwit_wire::agent_op::{FromAgent, FromAgentBody, ToAgent};
use godwit_wire::pager::Totals;
use godwit_wire::shim_op::{BeginCheckpoint, FromShim, ToShim, ToShimBody};
use godwit_wire::{AsyncSocket, Received, Refusal, WireError};
use tokio::sync::oneshot;

use crate::container::{Container, ExecHold};
use crate::error::Result;
use crate::freezer::Frost;
use crate::hooks::Restored;
use crate::restore::attempt;

/// A connection of an agent to this shim.
pub(super) type Served = AsyncSocket<FromShim, ToShim>;
/// A connection of this shim to the agent.
pub(super) type Asked = AsyncSocket<ToAgent, FromAgent>;

/// One word to the actor.
pub(super) enum Input {
    /// An agent has connected and greeted.
    Accepted(Served),
    /// It says something.
    Message(Conn, Received<ToShimBody>),
    /// The agent that this shim asked says something.
    Answer(Conn, Received<FromAgentBody>),
    /// What the agent that this shim asked says cannot be read.
    Unreadable(Conn, WireError),
    /// A connection is over.
    Ended(Conn),
    /// The question of a start is asked, or there is nobody to be asked.
    Asked(OpId, Result<Asked, WireError>),
    /// Processes executed in the containers have ended, or five seconds have passed: a checkpoint may begin.
    Quiet(Conn, BeginCheckpoint, Vec<ExecHold>),
    /// A job (thaw, kill, deadline) is done.
    Job(u64, Event),
    /// Thawing found that CRIU has damaged a container, or hangs.
    Damaged(u64, String, String),
    /// A CRIU session has ended; what its container's freezer read at that moment.
    CriuOver(u64, std::io::Result<Frost>),
    /// containerd starts a container.
    Start(Box<StartInput>),
    /// Its Start cannot wait any longer.
    StartDeadline(OpId),
    /// A restore has come to its hold.
    Held(OpId, attempt::Held),
    /// A restore is over.
    Over(OpId, Result<attempt::Restored, Box<attempt::Failure>>),
    /// The other containers of a pod that is restored were not started in time.
    NobodyCame(OpId),
    /// All memory of a container is there, or it was killed for the lack of it.
    Hydrated(Arc<Container>, Result<Totals, Refusal>),
    /// The memory of a container cannot be completed: told before it is killed.
    Unfilled,
    /// SIGKILL for a container that an operation holds: told when it does not any more.
    GiveUp(Arc<Container>, oneshot::Sender<()>),
    /// An init process is over.
    Exited(Arc<Container>),
    /// A container was deleted: told when the agent knows, or does not answer.
    Deleted(Arc<Container>, oneshot::Sender<()>),
    /// The shim ends.
    Shutdown(oneshot::Sender<()>),
}

/// A start of containerd.
pub(super) struct StartInput {
    /// The attempt.
    pub(super) op: OpId,
    /// Which container.
    pub(super) container: Arc<Container>,
    /// Told once.
    pub(super) answer: oneshot::Sender<StartAnswer>,
}

/// What becomes of a start.
#[derive(Debug)]
pub(super) enum StartAnswer {
    /// Start it from its image.
    Cold,
    /// It was restored and runs.
    Runs(Restored),
    /// No.
    No {
        /// Why.
        why: crate::error::Error,
        /// Only because the agent is away, or something ends first: worth another try.
        again: bool,
    },
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self {
            Self::Accepted(_) => "accepted",
            Self::Message(_, message) => message.body.kind(),
            Self::Answer(_, message) => message.body.kind(),
            Self::Unreadable(..) => "unreadable",
            Self::Ended(_) => "ended",
            Self::Asked(..) => "asked",
            Self::Quiet(..) => "quiet",
            Self::Job(..) => "job",
            Self::Damaged(..) => "damaged",
            Self::CriuOver(..) => "criu over",
            Self::Start(_) => "start",
            Self::StartDeadline(_) => "start deadline",
            Self::Held(..) => "held",
            Self::Over(..) => "over",
            Self::NobodyCame(_) => "nobody came",
            Self::Hydrated(..) => "hydrated",
            Self::Unfilled => "unfilled",
            Self::GiveUp(..) => "give up",
            Self::Exited(_) => "exited",
            Self::Deleted(..) => "deleted",
            Self::Shutdown(_) => "shutdown",
        };
        f.write_str(name)
    }
}
