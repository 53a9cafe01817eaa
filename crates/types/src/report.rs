//! What an operation did and how long it took: printed, logged, and stored beside the checkpoint.

use serde::{Deserialize, Serialize};

use crate::{Bytes, CheckpointId, LineageName, OpId, Outcome, Phase, Tenant};

/// How long one phase took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PhaseTime {
    /// The phase.
    pub phase: Phase,
    /// Milliseconds from its begin to its end.
    pub ms: f64,
}

/// Bytes of one checkpoint, over all its processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sizes {
    /// Memory that a restore gives back, zero pages included.
    pub memory: Bytes,
    /// Pages of zeros: ranges in the page map, never stored.
    pub zero: Bytes,
    /// Memory that differs from the parent's.
    pub changed: Bytes,
    /// What this checkpoint added to the store for memory and files, after compression.
    pub stored: Bytes,
    /// All that was sent for it, metadata included.
    pub uploaded: Bytes,
    /// Contents of files captured (writable layer, volumes).
    pub files: Bytes,
    /// What a restore of all memory reads. `None`: an earlier version of Godwit made the checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reads: Option<Reads>,
}

/// What a restore of all memory reads.
///
/// Frames are fetched whole, and an increment leaves frames of earlier checkpoints of which it needs a part only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reads {
    /// Stored bytes of all frames that hold a page of the checkpoint, each frame once.
    pub fetched: Bytes,
    /// The part of them that holds those pages: each frame's stored bytes by its share of pages that are needed.
    pub needed: Bytes,
}

impl Reads {
    /// Read amplification: bytes fetched for each byte that is needed. 1.0 is ideal, and what memory without a stored page has.
    #[must_use]
    pub fn amplification(&self) -> f64 {
        match self.needed.0 {
            0 => 1.0,
            needed => self.fetched.0 as f64 / needed as f64,
        }
    }
}

/// What a checkpoint did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointReport {
    /// The operation.
    pub op: OpId,
    /// The checkpoint that it made.
    pub checkpoint: CheckpointId,
    /// Whose checkpoint it is.
    pub lineage: LineageName,
    /// Where the lineage lives.
    pub tenant: Tenant,
    /// The checkpoint whose pages it shares, if any.
    pub parent: Option<CheckpointId>,
    /// Name of the store in the agent's configuration.
    pub store: String,
    /// Names of the containers.
    pub containers: Vec<String>,
    /// What became of the source.
    pub outcome: Outcome,
    /// From the write that froze the pod to its thaw; for a stopped pod to the moment when nothing but the store was
    /// waited for (all its bytes in memory).
    pub frozen_ms: f64,
    /// What CRIU itself reports as frozen.
    pub criu_frozen_ms: f64,
    /// From the request to the commit.
    pub durable_ms: f64,
    /// Bytes by kind.
    pub sizes: Sizes,
    /// PUT, GET, LIST and DELETE requests sent.
    pub requests: u64,
    /// Time by phase, in order.
    pub phases: Vec<PhaseTime>,
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestoreReport {
    /// The operation.
    pub op: OpId,
    /// The checkpoint that it read.
    pub checkpoint: CheckpointId,
    /// Whose checkpoint it is: the lineage that goes on, or of which this is a copy.
    pub lineage: LineageName,
    /// Name of the container.
    pub container: String,
    /// Milliseconds from the shim's request until its tasks ran.
    pub resumed_ms: f64,
    /// Time by phase, in order, until then.
    pub phases: Vec<PhaseTime>,
    /// How its memory came. `None`: it is on its way, or the container ended before all of it was there.
    pub hydrated: Option<Hydration>,
}

/// How the memory of a restored container came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hydration {
    /// Milliseconds from when it ran until all of it was there.
    pub ms: u64,
    /// Pages that were placed.
    pub pages: u64,
    /// Page faults that somebody waited for.
    pub faults: u64,
}
