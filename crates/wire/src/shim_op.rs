//! Agent → shim, on `/run/godwit/shims/<shim key>.sock`: look, checkpoint, settle.
//!
//! The agent connects, both say [`crate::Hello`], then the agent sends [`ToShim`] messages and the shim answers each of them
//! with exactly one [`FromShim`] message, in order. Besides that the shim sends [`Damaged`], [`Aborted`] and [`Exited`] unasked;
//! they never stand for an answer. Any message may be answered by [`Refused`](crate::Refusal): nothing changed then.
//!
//! ```text
//! Attach            → Status
//! BeginCheckpoint   → Containers | Refused                   one operation at a time per pod; arms the fence if it gives away
//! CriuStarted       → Noted                                  one per container, before Freeze
//! Freeze            → Frozen | FreezeTimeout | Refused       FreezeTimeout: thawed again, the operation is over
//! Thaw              → Thawed | Refused                       after every CRIU has exited; refused once sealed
//! Seal              → Sealed | NotContinuous | Refused       NotContinuous: thawed (or damaged and killed), the operation is over
//! Unseal | Stopped | Moved → Done | Refused                  only with the entry that settled the slot
//! Cancel            → Done                                   before the seal: thaws; the operation is over
//! ResumeHeld | AbortHeld → Done | Refused                    a start whose own connection is gone (its agent died)
//! WriteFence        → Done | Refused
//! ```
//!
//! # The connection's end
//! Before *sealed*: the shim waits for every CRIU's exit, thaws, reads the state back; the operation is over. Once *sealed* nothing
//! happens: a later agent sends `Attach`, reads the seal and settles it. An operation may end its connection after `Done` or `Thawed`.
//!
//! # Duties of the agent
//! CRIU is started by the agent, cancelled by the agent (`notify_success = false`, or by closing its page-server or RPC socket)
//! and only ever killed by the shim ([`Freeze::deadline_ms`] + [`CRIU_GRACE_MS`]), which then kills the container too. Before that
//! it kills the agent, which hangs, and waits as long again: CRIU, left alone, puts the container's processes back by itself.
//! Every session is at its `pre-dump` notification before `Freeze` is sent and is answered only after `Frozen`.

mod answers;
mod containers;
mod status;

pub use answers::*;
pub use containers::*;
pub use status::*;

use crate::packet::envelope;
use crate::{LineageAt, Refusal};

/// How long the shim waits for CRIU after the freeze deadline before it kills the agent, and then again before it kills CRIU and the
/// container: milliseconds.
pub const CRIU_GRACE_MS: u64 = 5_000;
/// How long freezing may take before `FreezeTimeout`: milliseconds.
pub const FREEZE_TIMEOUT_MS: u64 = 2_000;

/// Agent → shim.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ToShim {
    /// The message; `None` for one of a newer version.
    #[prost(oneof = "ToShimBody", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13")]
    pub body: Option<ToShimBody>,
}

/// The messages agent → shim.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum ToShimBody {
    /// See [`Attach`].
    #[prost(message, tag = "1")]
    Attach(Attach),
    /// See [`BeginCheckpoint`].
    #[prost(message, tag = "2")]
    BeginCheckpoint(BeginCheckpoint),
    /// See [`CriuStarted`].
    #[prost(message, tag = "3")]
    CriuStarted(CriuStarted),
    /// See [`Freeze`].
    #[prost(message, tag = "4")]
    Freeze(Freeze),
    /// See [`Thaw`].
    #[prost(message, tag = "5")]
    Thaw(Thaw),
    /// See [`Seal`].
    #[prost(message, tag = "6")]
    Seal(Seal),
    /// See [`Unseal`].
    #[prost(message, tag = "7")]
    Unseal(Unseal),
    /// See [`Stopped`].
    #[prost(message, tag = "8")]
    Stopped(Stopped),
    /// See [`Moved`].
    #[prost(message, tag = "9")]
    Moved(Moved),
    /// See [`Cancel`].
    #[prost(message, tag = "10")]
    Cancel(Cancel),
    /// See [`WriteFence`].
    #[prost(message, tag = "11")]
    WriteFence(WriteFence),
    /// See [`ResumeHeld`].
    #[prost(message, tag = "12")]
    ResumeHeld(ResumeHeld),
    /// See [`AbortHeld`].
    #[prost(message, tag = "13")]
    AbortHeld(AbortHeld),
}

envelope!(
    ToShim,
    ToShimBody {
        Attach,
        BeginCheckpoint,
        CriuStarted,
        Freeze,
        Thaw,
        Seal,
        Unseal,
        Stopped,
        Moved,
        Cancel,
        WriteFence,
        ResumeHeld,
        AbortHeld,
    }
);

/// Shim → agent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FromShim {
    /// The message; `None` for one of a newer version.
    #[prost(oneof = "FromShimBody", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13")]
    pub body: Option<FromShimBody>,
}

/// The messages shim → agent.
#[derive(Clone, PartialEq, prost::Oneof)]
#[allow(clippy::large_enum_variant)] // Few are alive at a time, and `Status` is sent rarely.
pub enum FromShimBody {
    /// See [`Status`].
    #[prost(message, tag = "1")]
    Status(Status),
    /// See [`Containers`].
    #[prost(message, tag = "2")]
    Containers(Containers),
    /// Nothing changed, and why.
    #[prost(message, tag = "3")]
    Refusal(Refusal),
    /// See [`Noted`].
    #[prost(message, tag = "4")]
    Noted(Noted),
    /// See [`Frozen`].
    #[prost(message, tag = "5")]
    Frozen(Frozen),
    /// See [`FreezeTimeout`].
    #[prost(message, tag = "6")]
    FreezeTimeout(FreezeTimeout),
    /// See [`Thawed`].
    #[prost(message, tag = "7")]
    Thawed(Thawed),
    /// See [`Sealed`].
    #[prost(message, tag = "8")]
    Sealed(Sealed),
    /// See [`NotContinuous`].
    #[prost(message, tag = "9")]
    NotContinuous(NotContinuous),
    /// See [`Done`].
    #[prost(message, tag = "10")]
    Done(Done),
    /// See [`Damaged`].
    #[prost(message, tag = "11")]
    Damaged(Damaged),
    /// See [`Aborted`].
    #[prost(message, tag = "12")]
    Aborted(Aborted),
    /// See [`Exited`].
    #[prost(message, tag = "13")]
    Exited(Exited),
}

envelope!(
    FromShim,
    FromShimBody {
        Status,
        Containers,
        Refusal,
        Noted,
        Frozen,
        FreezeTimeout,
        Thawed,
        Sealed,
        NotContinuous,
        Done,
        Damaged,
        Aborted,
        Exited,
    }
);

/// "Who are you, and what is unsettled?" Allowed in every state, also beside an operation of another connection.
/// Answer: [`Status`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Attach {}

/// Begins the pod's one operation, which lives as long as this connection. Answer: [`Containers`].
/// Before it answers, the shim has the fence on disk: `Owned` for [`WireOutcome::Run`], `Armed` otherwise.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct BeginCheckpoint {
    /// [`godwit_types::OpId`], minted by the agent.
    #[prost(string, tag = "1")]
    pub op: String,
    /// What becomes of the pod afterwards.
    #[prost(enumeration = "WireOutcome", tag = "2")]
    pub outcome: i32,
    /// The pod's lineage; for the fence.
    #[prost(message, optional, tag = "3")]
    pub at: Option<LineageAt>,
    /// Ids of the containers; empty: all that run. A pod that is given away is always given away whole.
    #[prost(string, repeated, tag = "7")]
    pub containers: Vec<String>,
    /// It is only a look: nothing is frozen, and no exec session is waited for or held up.
    #[prost(bool, tag = "8")]
    pub look: bool,
}

/// [`godwit_types::Outcome`] on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum WireOutcome {
    /// Never sent; refused.
    Unspecified = 0,
    /// It goes on.
    Run = 1,
    /// It is killed once the entry is settled.
    Stop = 2,
    /// It stays frozen until a take-over is read.
    Offer = 3,
}

impl From<godwit_types::Outcome> for WireOutcome {
    fn from(outcome: godwit_types::Outcome) -> Self {
        match outcome {
            godwit_types::Outcome::Run => Self::Run,
            godwit_types::Outcome::Stop => Self::Stop,
            godwit_types::Outcome::Offer => Self::Offer,
        }
    }
}

impl WireOutcome {
    /// The outcome; `None` for [`WireOutcome::Unspecified`].
    #[must_use]
    pub fn outcome(self) -> Option<godwit_types::Outcome> {
        match self {
            Self::Unspecified => None,
            Self::Run => Some(godwit_types::Outcome::Run),
            Self::Stop => Some(godwit_types::Outcome::Stop),
            Self::Offer => Some(godwit_types::Outcome::Offer),
        }
    }
}

/// A CRIU session of this container has been started by the agent. Descriptor: \[CRIU's pidfd\]. Answer: [`Noted`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CriuStarted {
    /// The container.
    #[prost(string, tag = "1")]
    pub container: String,
}

/// Freezes every container of the operation. Answer: [`Frozen`] or [`FreezeTimeout`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Freeze {
    /// After so many milliseconds, counted from the freeze, the shim ends the operation by itself unless it is sealed: it waits
    /// [`CRIU_GRACE_MS`] for CRIU to exit, then thaws (or kills, if CRIU hangs). At most 10 minutes; 0 is refused.
    #[prost(uint64, tag = "1")]
    pub deadline_ms: u64,
}

/// Thaws every container. Waits for the exit of every CRIU first (they must have been cancelled or be done). Answer: [`Thawed`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Thaw {}

/// "The entry in these bytes may give the pod away: hold it until this slot is settled." Answer: [`Sealed`] or [`NotContinuous`].
/// Refused while a CRIU lives, and for [`WireOutcome::Run`]. The seal lives as long as the shim; the fence, armed on disk since
/// [`BeginCheckpoint`], says for longer that the pod may have been given away.
/// The agent sends it only after the `post-dump` of every session; the PUT of the entry comes after the answer.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Seal {
    /// The very bytes of the entry (`godwit_ownership::Entry`).
    #[prost(bytes = "vec", tag = "1")]
    pub entry: Vec<u8>,
    /// The source's agent reclaims an offer that nobody took by itself after so many seconds; absent for a stop.
    #[prost(uint64, optional, tag = "2")]
    pub reclaim_after_s: Option<u64>,
}

/// The newest entry names this incarnation: thaw. Fence: `Owned`. Answer: [`Done`], when it runs.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Unseal {
    /// That entry (our `reclaim`, or any later one).
    #[prost(bytes = "vec", tag = "1")]
    pub entry: Vec<u8>,
    /// The entry of the seal was never written and cannot land any more; `entry` is the one before its slot.
    #[prost(bool, tag = "2")]
    pub unwritten: bool,
}

/// Our `stop` is settled and its checkpoint was read after it: kill. Answer: [`Done`], when the cgroups are empty.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Stopped {
    /// The stop entry.
    #[prost(bytes = "vec", tag = "1")]
    pub entry: Vec<u8>,
}

/// A take-over was read: kill what is frozen (or, for a zombie, what still runs). Fence: `Moved`. Answer: [`Done`], when the
/// cgroups are empty. Allowed in every state.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Moved {
    /// The newest entry, which names another owner.
    #[prost(bytes = "vec", tag = "1")]
    pub entry: Vec<u8>,
    /// Who has it now, for messages to people: "node-2".
    #[prost(string, tag = "2")]
    pub to: String,
}

/// Ends the operation before its seal. The agent has cancelled its CRIU sessions. Answer: [`Done`], when thawed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Cancel {
    /// For the log.
    #[prost(string, tag = "1")]
    pub reason: String,
    /// The lineage turned out not to be this pod's: the fence that this operation made is removed.
    #[prost(bool, tag = "2")]
    pub unfence: bool,
}

/// This slot of the log is about to get an entry that names this pod: the fence holds it from now on. Answer: [`Done`], when it is
/// on disk.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WriteFence {
    /// The pod's lineage.
    #[prost(message, optional, tag = "1")]
    pub at: Option<LineageAt>,
    /// The entry that is about to be PUT (`start`, `reclaim`), or any that stands.
    #[prost(bytes = "vec", tag = "2")]
    pub entry: Vec<u8>,
    /// It is not about to be PUT: it stands in the log, and the fence remembers that.
    #[prost(bool, tag = "3")]
    pub stands: bool,
}

/// The entry of a start whose connection ended after `Committing` is settled as this attempt's and the newest entry names this
/// incarnation: the held tasks run, or the container starts from its image. Answer: [`Done`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ResumeHeld {
    /// [`godwit_types::OpId`] of the start.
    #[prost(string, tag = "1")]
    pub op: String,
    /// The entry.
    #[prost(bytes = "vec", tag = "2")]
    pub entry: Vec<u8>,
}

/// It was settled otherwise: kill the held tasks. Answer: [`Done`], when the cgroups are empty.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AbortHeld {
    /// [`godwit_types::OpId`] of the start.
    #[prost(string, tag = "1")]
    pub op: String,
    /// Why.
    #[prost(message, optional, tag = "2")]
    pub why: Option<Refusal>,
}
