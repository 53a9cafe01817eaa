//! The fence: a file by pod key that outlives bundles, sandboxes, shims and reboots.
//!
//! Owns: what it says and its JSON. When it is written is [`crate::shim`]'s, when it is removed [`crate::keeper`]'s.

use godwit_types::{CheckpointId, Incarnation, LineageName, OpId, Seq, Tenant};
use serde::{Deserialize, Serialize};

use crate::OwnershipError;

/// Longest fence in bytes.
pub const MAX_FENCE: usize = 4 << 10;
/// The format that this version writes and reads.
pub const FENCE_FORMAT: &str = "godwit.fence/1";

/// Where a lineage is: enough for any agent to find its log.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LineageRef {
    /// Name of the store in the agent's configuration.
    pub store: String,
    /// Its tenant.
    pub tenant: Tenant,
    /// Its name.
    pub lineage: LineageName,
}

/// What a fence says about its incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FenceState {
    /// The newest entry named it when this was written.
    Owned,
    /// Only the log knows: an operation that may give the pod away, or a claim, has begun.
    Armed,
    /// A take-over was read. It never runs again.
    Moved,
}

/// One fence. A pod without a lineage has none and asks nobody.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fence {
    /// Its lineage.
    #[serde(flatten)]
    pub at: LineageRef,
    /// The sandbox life that wrote it.
    pub incarnation: Incarnation,
    /// What it says about that life.
    pub state: FenceState,
    /// The operation that wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<OpId>,
    /// Whether a task of that life has run here: from then on a restore request is consumed for as long as it lasts,
    /// unless its memory never comes.
    #[serde(default)]
    pub lived: bool,
    /// The last restore request that a life here began with: a pod object that repeats it in a later life asks for nothing new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumed: Option<Asked>,
    /// The last slot into which an entry that names this pod as the owner was, or was about to be, PUT. It is settled when the log
    /// has an entry there, and is kept through later attempts until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<Seq>,
    /// The log had an entry here when this was written. A first checkpoint has none until its `start` stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seq>,
    /// The pod object is gone (without Kubernetes: its task was deleted) and no task of it lived any more when this was written: what
    /// is left is to settle and to remove the fence. Nothing starts under it meanwhile, so its death needs no other proof.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<Gone>,
}

impl Fence {
    /// Whether a life here has consumed this request, so that a start with it is an ordinary one. `standing`: see
    /// [`crate::message::Start`].
    #[must_use]
    pub fn consumes(&self, asked: Asked, incarnation: Incarnation, standing: bool) -> bool {
        let same_life = self.lived && self.incarnation == incarnation;
        same_life || standing && self.consumed == Some(asked)
    }
}

/// What a spec asks to be restored, by value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// Its lineage, from this point; from what it offers if absent.
    RestoreFrom(Option<CheckpointId>),
    /// A copy of this point.
    ForkFrom(CheckpointId),
}

/// How a pod object went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gone {
    /// Its end was wanted: deleted while it ran, or its task ended well.
    Wanted,
    /// It was given away, cancelled, or lost; its lineage may be continued.
    Lost,
}

#[derive(Serialize)]
struct Written<'a> {
    format: &'static str,
    #[serde(flatten)]
    fence: &'a Fence,
}

#[derive(Deserialize)]
struct Header {
    format: String,
}

impl Fence {
    /// Whether a log whose newest entry stands here (0: an empty one) may be the one that this was written for. A log only grows, and
    /// whatever was PUT was built on the entry before it.
    #[must_use]
    pub fn fits(&self, newest: Seq) -> bool {
        let built_on = self.slot.map(|slot| Seq(slot.0.saturating_sub(1)));
        newest >= built_on.max(self.seen).unwrap_or_default()
    }

    /// Its bytes for the disk.
    ///
    /// # Errors
    /// [`OwnershipError::TooLong`] if a name in it is absurdly long.
    pub fn encode(&self) -> Result<Vec<u8>, OwnershipError> {
        let bytes = serde_json::to_vec(&Written { format: FENCE_FORMAT, fence: self })
            .map_err(unreadable)?;
        bounded(bytes.len())?;
        Ok(bytes)
    }

    /// Reads a file. A fence that cannot be read is not "no fence": its pod must not start.
    ///
    /// # Errors
    /// Too long, or not JSON of this format.
    pub fn decode(bytes: &[u8]) -> Result<Self, OwnershipError> {
        bounded(bytes.len())?;
        let header: Header = serde_json::from_slice(bytes).map_err(unreadable)?;
        if header.format != FENCE_FORMAT {
            let (what, known) = ("fence", FENCE_FORMAT);
            return Err(OwnershipError::Format { what, found: header.format, known });
        }
        serde_json::from_slice(bytes).map_err(unreadable)
    }
}

fn bounded(len: usize) -> Result<(), OwnershipError> {
    let (what, max) = ("fence", MAX_FENCE);
    if len <= max { Ok(()) } else { Err(OwnershipError::TooLong { what, len, max }) }
}

#[allow(clippy::needless_pass_by_value)] // for `map_err`
fn unreadable(error: serde_json::Error) -> OwnershipError {
    OwnershipError::Unreadable { what: "fence", reason: error.to_string() }
}
