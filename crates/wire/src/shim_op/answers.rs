//! The shim's short answers, and what it tells unasked.

use crate::Refusal;

/// The message was understood; there is nothing else to say.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Noted {}

/// Every container reads FROZEN, and everything that was in its stdio pipes has been written to its log.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Frozen {}

/// It could not be frozen in [`super::FREEZE_TIMEOUT_MS`]. It has been thawed; the operation is over.
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
