//! Agent → shim, on `/run/godwit/shims/<shim key>.sock`: look, checkpoint, settle.
//!
//! The agent connects, both say [`crate::Hello`], then the agent sends [`ToShim`] messages and the shim answers each of them
//! with exactly one [`FromShim`] message, in order. Besides that the shim sends [`Damaged`], [`Aborted`] and [`Exited`] unasked;
//! they never stand for an answer. Any message may be answered by [`Refused`](crate::Refusal): nothing changed then.
//!
//! ```text
//! Attach            → Status                                 then, unasked, a Status at every change of state
//! BeginCheckpoint   → Containers | Refused                   one operation at a time per pod; arms the fence if it gives away
//! CriuStarted       → Noted                                  one per container, before Freeze
//! Freeze            → Frozen | FreezeTimeout | Refused       FreezeTimeout: thawed again, the operation is over
//! Extend            → Noted
//! Thaw              → Thawed | Refused                       after every CRIU has exited; refused once sealed
//! Seal              → Sealed | NotContinuous | Refused       NotContinuous: thawed (or damaged and killed), the operation is over
//! Unseal | Stopped | Moved → Done | Refused                  only with the entry that settled the slot
//! Cancel            → Done                                   before the seal: thaws; the operation is over
//! ResumeHeld | AbortHeld → Done | Refused                    a start whose own connection is gone (its agent died)
//! WriteFence | CleanFence → Done | Refused
//! ```
//!
//! # The connection's end
//! Before *sealed*: the shim waits for every CRIU's exit, thaws, reads the state back; the operation is over. Once *sealed* nothing
//! happens: a later agent sends `Attach`, reads the seal and settles it. An operation may end its connection after `Done` or `Thawed`.
//!
//! # Duties of the agent
//! CRIU is started by the agent, cancelled by the agent (`notify_success = false`, or by closing its page-server or RPC socket)
//! and only ever killed by the shim ([`Freeze::deadline_ms`] + [`CRIU_GRACE_MS`]), which then kills the container too.
//! Every session is at its `pre-dump` notification before `Freeze` is sent and is answered only after `Frozen`.

use crate::packet::envelope;
use crate::{LineageAt, Namespace, NodeIdentity, Refusal};

/// How long the shim waits for a hanging CRIU after the freeze deadline before it kills CRIU and the container: milliseconds.
pub const CRIU_GRACE_MS: u64 = 5_000;
/// How long freezing may take before `FreezeTimeout`: milliseconds.
pub const FREEZE_TIMEOUT_MS: u64 = 2_000;

/// Agent → shim.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ToShim {
    /// The message; `None` for one of a newer version.
    #[prost(oneof = "ToShimBody", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15")]
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
    /// See [`Extend`].
    #[prost(message, tag = "5")]
    Extend(Extend),
    /// See [`Thaw`].
    #[prost(message, tag = "6")]
    Thaw(Thaw),
    /// See [`Seal`].
    #[prost(message, tag = "7")]
    Seal(Seal),
    /// See [`Unseal`].
    #[prost(message, tag = "8")]
    Unseal(Unseal),
    /// See [`Stopped`].
    #[prost(message, tag = "9")]
    Stopped(Stopped),
    /// See [`Moved`].
    #[prost(message, tag = "10")]
    Moved(Moved),
    /// See [`Cancel`].
    #[prost(message, tag = "11")]
    Cancel(Cancel),
    /// See [`WriteFence`].
    #[prost(message, tag = "12")]
    WriteFence(WriteFence),
    /// See [`CleanFence`].
    #[prost(message, tag = "13")]
    CleanFence(CleanFence),
    /// See [`ResumeHeld`].
    #[prost(message, tag = "14")]
    ResumeHeld(ResumeHeld),
    /// See [`AbortHeld`].
    #[prost(message, tag = "15")]
    AbortHeld(AbortHeld),
}

envelope!(
    ToShim,
    ToShimBody {
        Attach,
        BeginCheckpoint,
        CriuStarted,
        Freeze,
        Extend,
        Thaw,
        Seal,
        Unseal,
        Stopped,
        Moved,
        Cancel,
        WriteFence,
        CleanFence,
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
/// Answer: [`Status`]. With `watch`, the shim then sends a [`Status`] unasked at every change of state until the connection ends.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Attach {
    /// Send a [`Status`] at every change.
    #[prost(bool, tag = "1")]
    pub watch: bool,
}

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
    /// The node's identity; for messages to people.
    #[prost(message, optional, tag = "6")]
    pub node: Option<NodeIdentity>,
    /// Ids of the containers; empty: all that run. A pod that is given away is always given away whole.
    #[prost(string, repeated, tag = "7")]
    pub containers: Vec<String>,
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

/// The containers of the operation. Descriptors: for each container, in order, \[pidfd of its init, its `config.json` as a
/// sealed memfd\].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Containers {
    /// Kubernetes pod uid, or `<containerd namespace>+<container id>`: [`godwit_types::Owner::pod_uid`].
    #[prost(string, tag = "1")]
    pub pod_uid: String,
    /// [`godwit_types::Incarnation`] of this sandbox life.
    #[prost(string, tag = "2")]
    pub incarnation: String,
    /// The containers, at most 60.
    #[prost(message, repeated, tag = "3")]
    pub containers: Vec<Container>,
    /// containerd's namespace.
    #[prost(string, tag = "4")]
    pub namespace: String,
}

/// One container, as far as its shim knows it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Container {
    /// containerd's id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Pid of its init in the shim's (the node's) pid namespace.
    #[prost(uint32, tag = "2")]
    pub pid: u32,
    /// Path of the bundle.
    #[prost(string, tag = "3")]
    pub bundle: String,
    /// Path of the mounted root file system.
    #[prost(string, tag = "4")]
    pub rootfs: String,
    /// Its cgroups: on v2 one, on v1 one per hierarchy.
    #[prost(message, repeated, tag = "5")]
    pub cgroups: Vec<Cgroup>,
    /// The namespaces of its spec.
    #[prost(message, repeated, tag = "6")]
    pub namespaces: Vec<Namespace>,
    /// Where file descriptors 0, 1 and 2 of its init point (`pipe:[123]`, `/dev/null`): what `descriptors.json` holds.
    #[prost(string, repeated, tag = "7")]
    pub stdio: Vec<String>,
    /// Whether it has a terminal.
    #[prost(bool, tag = "8")]
    pub terminal: bool,
    /// Live exec sessions (processes that the shim started beside init).
    #[prost(uint32, tag = "9")]
    pub execs: u32,
    /// The runtime that runs it: `runc`, or the name of another binary (whose checkpoints are refused).
    #[prost(string, tag = "10")]
    pub runtime: String,
    /// Milliseconds since the Unix epoch at which its init was started or resumed.
    #[prost(uint64, tag = "11")]
    pub started_ms: u64,
    /// Root file system mounts as containerd gave them at Create, for files of the writable layer.
    #[prost(message, repeated, tag = "12")]
    pub mounts: Vec<RootMount>,
}

/// One cgroup directory of a container.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Cgroup {
    /// v1: the hierarchy's controllers (`cpu,cpuacct`, `name=systemd`); v2: empty.
    #[prost(string, tag = "1")]
    pub controllers: String,
    /// Absolute path of the directory below `/sys/fs/cgroup`.
    #[prost(string, tag = "2")]
    pub path: String,
}

/// One mount that makes up a container's root file system, in containerd's terms.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RootMount {
    /// File system type, `overlay` or `bind`.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// Source.
    #[prost(string, tag = "2")]
    pub source: String,
    /// Options, among them `upperdir=…` and `lowerdir=…`.
    #[prost(string, repeated, tag = "3")]
    pub options: Vec<String>,
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

/// A new freeze deadline, counted from now. Answer: [`Noted`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Extend {
    /// As [`Freeze::deadline_ms`].
    #[prost(uint64, tag = "1")]
    pub deadline_ms: u64,
}

/// Thaws every container. Waits for the exit of every CRIU first (they must have been cancelled or be done). Answer: [`Thawed`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Thaw {}

/// "The entry in these bytes may give the pod away: hold it until this slot is settled." Answer: [`Sealed`] or [`NotContinuous`].
/// Refused while a CRIU lives, and for [`WireOutcome::Run`]. On disk before it is answered.
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
    /// The entry that is about to be PUT (`reclaim`, `cold`, …).
    #[prost(bytes = "vec", tag = "2")]
    pub entry: Vec<u8>,
}

/// Removes the pod's fence: its slot is settled and the newest entry does not name this node. Refused while a container of the
/// pod runs, is sealed or held. Answer: [`Done`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CleanFence {
    /// The lineage that the fence must name.
    #[prost(string, tag = "1")]
    pub lineage: String,
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

/// What a shim is and what it holds.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Status {
    /// Name of its socket and fence.
    #[prost(string, tag = "1")]
    pub pod_key: String,
    /// As [`Containers::pod_uid`].
    #[prost(string, tag = "2")]
    pub pod_uid: String,
    /// [`godwit_types::Incarnation`].
    #[prost(string, tag = "3")]
    pub incarnation: String,
    /// containerd's namespace.
    #[prost(string, tag = "4")]
    pub namespace: String,
    /// The pod's state as far as operations see it.
    #[prost(enumeration = "PodState", tag = "5")]
    pub state: i32,
    /// Its containers.
    #[prost(message, repeated, tag = "6")]
    pub containers: Vec<ContainerStatus>,
    /// Its fence, as it is on disk (`godwit_ownership::Fence`); empty: none.
    #[prost(bytes = "vec", tag = "7")]
    pub fence: Vec<u8>,
    /// What is sealed: settle this first.
    #[prost(message, optional, tag = "8")]
    pub seal: Option<SealRecord>,
    /// A restore between `Committing` and `Resume` whose connection is gone: settle this first.
    #[prost(message, optional, tag = "9")]
    pub committing: Option<Committing>,
    /// The checkpoint that is being hydrated (its pin is the agent's to renew), and its operation.
    #[prost(message, optional, tag = "10")]
    pub hydrating: Option<HydratingRecord>,
    /// It was started while nobody could be asked: this `cold` entry is still owed.
    #[prost(message, optional, tag = "11")]
    pub owes_cold: Option<Before>,
}

/// The state of a pod, most constrained container first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum PodState {
    /// Never sent; what an absent field decodes to.
    Unspecified = 0,
    /// No container has been started.
    Created = 1,
    /// At least one runs; no operation.
    Running = 2,
    /// Paused by a user.
    Paused = 3,
    /// An operation has begun, the pod runs.
    Checkpointing = 4,
    /// Frozen by an operation, not sealed: its connection's end thaws it.
    Frozen = 5,
    /// Only a settled slot lets it go.
    Sealed = 6,
    /// Given away; being killed or dead. Never runs again in this incarnation.
    Moved = 7,
    /// A restore is on its way, nothing of it runs.
    Restoring = 8,
    /// All tasks exist and are held; the take-over may be in flight.
    Held = 9,
    /// Runs; its memory is not all there yet.
    Hydrating = 10,
    /// Everything has exited.
    Exited = 11,
}

/// One container in a [`Status`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ContainerStatus {
    /// containerd's id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Pid of its init; 0 if there is none.
    #[prost(uint32, tag = "2")]
    pub pid: u32,
    /// Whether it exited.
    #[prost(bool, tag = "3")]
    pub exited: bool,
    /// Its exit status if it did (128 + signal for a death by signal).
    #[prost(uint32, tag = "4")]
    pub exit_status: u32,
}

/// What a seal holds; it outlives the agent, and on disk the shim.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SealRecord {
    /// [`godwit_types::OpId`].
    #[prost(string, tag = "1")]
    pub op: String,
    /// As in [`Seal`].
    #[prost(bytes = "vec", tag = "2")]
    pub entry: Vec<u8>,
    /// As in [`Seal`].
    #[prost(uint64, optional, tag = "3")]
    pub reclaim_after_s: Option<u64>,
    /// What is to become of the pod.
    #[prost(enumeration = "WireOutcome", tag = "4")]
    pub outcome: i32,
}

/// A start that waits for its slot: its tasks are held, or nothing of it runs yet.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Committing {
    /// [`godwit_types::OpId`].
    #[prost(string, tag = "1")]
    pub op: String,
    /// The entry (`take-over`, `start`, `cold`, `resume`) that was about to be PUT.
    #[prost(bytes = "vec", tag = "2")]
    pub entry: Vec<u8>,
    /// The container.
    #[prost(string, tag = "3")]
    pub container: String,
}

/// The life before a cold start, for the log.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Before {
    /// Which container.
    #[prost(string, tag = "1")]
    pub container: String,
    /// How it ended: `godwit_ownership::state::ColdReason` as its JSON spells it (`first-start`, `exited`, `crashed`, `sandbox-lost`).
    #[prost(string, tag = "2")]
    pub reason: String,
    /// For how many seconds it lived, if it began with a restore.
    #[prost(uint64, optional, tag = "3")]
    pub lived_s: Option<u64>,
}

/// A restore whose memory is not all there yet.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HydratingRecord {
    /// [`godwit_types::OpId`].
    #[prost(string, tag = "1")]
    pub op: String,
    /// Name of the store.
    #[prost(string, tag = "2")]
    pub store: String,
    /// [`godwit_types::Tenant`].
    #[prost(string, tag = "3")]
    pub tenant: String,
    /// [`godwit_types::CheckpointId`].
    #[prost(string, tag = "4")]
    pub checkpoint: String,
}

/// The message was understood; there is nothing else to say.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Noted {}

/// Every container reads FROZEN, and everything that was in its stdio pipes has been written to its log.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Frozen {
    /// From the first write to the freezer to the last container's FROZEN: microseconds.
    #[prost(uint64, tag = "1")]
    pub took_us: u64,
    /// CLOCK_BOOTTIME of that first write: nanoseconds. Frozen time is counted from here.
    #[prost(uint64, tag = "2")]
    pub since_ns: u64,
}

/// It could not be frozen in [`FREEZE_TIMEOUT_MS`]. It has been thawed; the operation is over.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FreezeTimeout {
    /// The tasks that did not stop, at most 32.
    #[prost(message, repeated, tag = "1")]
    pub tasks: Vec<StuckTask>,
}

/// A task that did not stop.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct StuckTask {
    /// The container.
    #[prost(string, tag = "1")]
    pub container: String,
    /// Its thread id.
    #[prost(uint32, tag = "2")]
    pub tid: u32,
    /// Its name.
    #[prost(string, tag = "3")]
    pub comm: String,
    /// Its state letter (`D`, `R`, …).
    #[prost(string, tag = "4")]
    pub state: String,
    /// Where in the kernel it waits, from `/proc/<tid>/wchan`; empty if unknown.
    #[prost(string, tag = "5")]
    pub wchan: String,
}

/// Every container runs again; the state was read back.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Thawed {
    /// How long it was frozen: microseconds. 0 if it was not.
    #[prost(uint64, tag = "1")]
    pub frozen_us: u64,
}

/// The pod is held, whatever happens to the agent.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Sealed {}

/// The pod ran, or may have run, between the dump and the seal: what was dumped is not its last state. Nothing may be committed.
/// The pod has been thawed; or killed, if `damaged`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NotContinuous {
    /// The container.
    #[prost(string, tag = "1")]
    pub container: String,
    /// What was seen.
    #[prost(string, tag = "2")]
    pub reason: String,
    /// CRIU was killed in the middle: the container cannot be trusted and was killed.
    #[prost(bool, tag = "3")]
    pub damaged: bool,
}

/// Done as asked.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Done {}

/// Unasked: a CRIU died by a signal (or hung and was killed), so its container is damaged and was killed. The operation is over.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Damaged {
    /// The container.
    #[prost(string, tag = "1")]
    pub container: String,
    /// What was seen.
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// Unasked: the shim ended the operation (deadline, Kill, delete). The pod was thawed or is being killed; every later message of
/// the operation is refused.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Aborted {
    /// Why.
    #[prost(message, optional, tag = "1")]
    pub why: Option<Refusal>,
}

/// Unasked: an init of the operation has exited. A checkpoint of it is not to be committed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Exited {
    /// The container.
    #[prost(string, tag = "1")]
    pub container: String,
    /// Its exit status (128 + signal for a death by signal).
    #[prost(uint32, tag = "2")]
    pub status: u32,
}
