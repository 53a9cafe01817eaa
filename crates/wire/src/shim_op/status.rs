//! What a shim is and what it holds: all that an agent which comes later must know.

use super::WireOutcome;

/// What a shim is and what it holds.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Status {
    /// Name of its socket and fence.
    #[prost(string, tag = "1")]
    pub pod_key: String,
    /// As [`super::Containers::pod_uid`].
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
    /// A start between `Committing` and `Resume`: settle this first. Told also while the connection on which it asks lives.
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

/// What a seal holds. It outlives the agent, but not the shim: of a shim that died only the armed fence tells.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SealRecord {
    /// [`godwit_types::OpId`].
    #[prost(string, tag = "1")]
    pub op: String,
    /// As in [`super::Seal`].
    #[prost(bytes = "vec", tag = "2")]
    pub entry: Vec<u8>,
    /// As in [`super::Seal`].
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
