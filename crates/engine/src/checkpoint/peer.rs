//! The shim of a pod that is checkpointed, in the words of `godwit-ownership`.
//!
//! Owns: the translation of each message, and what came beside it (containers, descriptors, sentences, times) for the rest
//! of the checkpoint. Decides nothing.

use std::time::Duration;

use async_trait::async_trait;
use godwit_ownership::fence::LineageRef;
use godwit_ownership::{Entry, Refusal, ToAgent, ToShim};
use godwit_types::{Code, OpId, Outcome};
use godwit_wire::LineageAt;
use godwit_wire::shim_op::{
    BeginCheckpoint, Cancel, FromShimBody, Moved, Seal, Stopped, Thaw, ToShimBody, Unseal,
    WireOutcome, WriteFence,
};

use crate::driver::Peer;
use crate::shim::{Shim, ShimError, Subjects};

/// The source's shim with all that it told.
#[derive(Debug)]
pub(crate) struct SourcePeer {
    shim: Shim,
    at: LineageRef,
    freeze_deadline: Duration,
    /// Nothing follows but its end.
    look: bool,
    /// What `BeginCheckpoint` was answered with.
    pub(crate) subjects: Option<Subjects>,
    /// Names of the pod's containers that are done and do not run.
    pub(crate) done: Vec<String>,
    /// The last thing that went wrong, with its sentence.
    pub(crate) trouble: Option<ShimError>,
    /// How long the pod was frozen, once it was thawed: microseconds.
    pub(crate) frozen_us: Option<u64>,
}

impl SourcePeer {
    /// The connection of one operation.
    pub(crate) fn new(shim: Shim, at: LineageRef, freeze_deadline: Duration) -> Self {
        let (subjects, done, trouble, frozen_us) = (None, Vec::new(), None, None);
        Self { shim, at, freeze_deadline, look: false, subjects, done, trouble, frozen_us }
    }

    /// The operation is only a look at the pod.
    pub(crate) fn only_looks(self) -> Self {
        Self { look: true, ..self }
    }

    /// The shim itself, for CRIU's sessions.
    pub(crate) fn shim(&self) -> &Shim {
        &self.shim
    }

    async fn converse(&mut self, message: ToShim) -> Result<ToAgent, ShimError> {
        match message {
            ToShim::Begin { op, outcome, at } => {
                let subjects = self.shim.begin(self.begin(op, outcome, &at)).await?;
                self.subjects = Some(subjects);
                Ok(ToAgent::Begun)
            }
            ToShim::Freeze => {
                self.shim.freeze(self.freeze_deadline).await?;
                Ok(ToAgent::Frozen)
            }
            other => {
                let Some(body) = self.translate(&other) else {
                    return Ok(ToAgent::Refused(Refusal::Busy));
                };
                let answer = self.shim.tell(body).await?;
                self.understand(answer)
            }
        }
    }

    fn begin(&self, op: OpId, outcome: Outcome, at: &LineageRef) -> BeginCheckpoint {
        BeginCheckpoint {
            op: op.to_string(),
            outcome: WireOutcome::from(outcome) as i32,
            at: Some(lineage_at(at)),
            containers: Vec::new(),
            look: self.look,
        }
    }

    fn translate(&self, message: &ToShim) -> Option<ToShimBody> {
        Some(match message {
            ToShim::Thaw => ToShimBody::Thaw(Thaw {}),
            ToShim::Cancel { unfence } => {
                ToShimBody::Cancel(Cancel { reason: "cancelled".to_owned(), unfence: *unfence })
            }
            ToShim::Hold { entry } => self.write_fence(entry, false),
            ToShim::Stands { entry } => self.write_fence(entry, true),
            ToShim::Seal { entry, reclaim_after_s } => {
                ToShimBody::Seal(Seal { entry: bytes(entry), reclaim_after_s: *reclaim_after_s })
            }
            ToShim::Unseal { entry, unwritten } => {
                ToShimBody::Unseal(Unseal { entry: bytes(entry), unwritten: *unwritten })
            }
            ToShim::Stopped { entry } => ToShimBody::Stopped(Stopped { entry: bytes(entry) }),
            ToShim::Moved { entry } => {
                let to = entry.state.owner().map(|o| o.node.clone()).unwrap_or_default();
                ToShimBody::Moved(Moved { entry: bytes(entry), to })
            }
            _ => return None,
        })
    }

    fn write_fence(&self, entry: &Entry, stands: bool) -> ToShimBody {
        let at = Some(lineage_at(&self.at));
        ToShimBody::WriteFence(WriteFence { at, entry: bytes(entry), stands })
    }

    fn understand(&mut self, answer: FromShimBody) -> Result<ToAgent, ShimError> {
        Ok(match answer {
            FromShimBody::Thawed(thawed) => {
                self.frozen_us = Some(thawed.frozen_us);
                ToAgent::Thawed
            }
            FromShimBody::Sealed(_) => ToAgent::Sealed,
            FromShimBody::Done(_) => ToAgent::Done,
            other => return Err(other.unexpected("an answer of ownership").into()),
        })
    }

    /// What an error is to the machine; the sentence is kept.
    fn trouble(&mut self, error: ShimError) -> Option<ToAgent> {
        let heard = match &error {
            ShimError::Wire(_) | ShimError::NoShim { .. } => None,
            ShimError::NotContinuous { .. } => Some(ToAgent::NotContinuous),
            ShimError::Refused(refusal) if refusal.means() != Code::Cancelled => {
                Some(ToAgent::Refused(Refusal::Busy))
            }
            _ => Some(ToAgent::Aborted),
        };
        self.trouble = Some(error);
        heard
    }
}

#[async_trait]
impl Peer for SourcePeer {
    async fn tell(&mut self, message: ToShim) -> Option<ToAgent> {
        match self.converse(message).await {
            Ok(answer) => Some(answer),
            Err(error) => self.trouble(error),
        }
    }

    async fn hear(&mut self) -> Option<ToAgent> {
        let error = self.shim.ended().await;
        self.trouble(error)
    }

    async fn prove_dead(&mut self) -> bool {
        // The source's tasks are frozen or running; nothing here proves the contrary.
        false
    }

    async fn remove_fence(&mut self) {}
}

/// A lineage on the wire.
pub(crate) fn lineage_at(at: &LineageRef) -> LineageAt {
    LineageAt {
        store: at.store.clone(),
        tenant: at.tenant.to_string(),
        lineage: at.lineage.to_string(),
    }
}

/// An entry's bytes. An entry that a machine made is always encodable; an empty one would be refused by the shim.
pub(crate) fn bytes(entry: &Entry) -> Vec<u8> {
    entry.encode().unwrap_or_default()
}

/// Milliseconds since the Unix epoch.
pub(crate) fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
