//! One entry of a lineage log: its JSON, its place, and how the next one is made.
//!
//! Owns: encoding, bounds, the nonce comparison. An entry that the log does not permit cannot be made ([`Basis::next`]).

use godwit_types::{CheckpointId, Generation, Nonce, OpId, Owner, Seq};
use serde::{Deserialize, Serialize};

use crate::OwnershipError;
use crate::admit::{Refusal, permitted};
use crate::state::{Kind, State};

/// Longest entry in bytes: far above what ours have, and small enough to travel in one packet of the operation protocol.
pub const MAX_ENTRY: usize = 16 << 10;
/// The format that this version writes and reads.
pub const ENTRY_FORMAT: &str = "godwit.entry/1";

/// One entry of a lineage log, at the key of its `seq`, created only if nothing is there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// Where it stands; the first is 1.
    pub seq: Seq,
    /// Tells its operation from every other writer of the slot. One per operation: an operation writes a slot with two kinds at
    /// most (its own, or `reclaim` to settle it).
    pub nonce: Nonce,
    /// The operation that wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<OpId>,
    /// What it records.
    #[serde(flatten)]
    pub kind: Kind,
    /// The state after it.
    pub state: State,
    /// How many take-overs there have been.
    pub generation: Generation,
    /// Who wrote it.
    pub by: Owner,
    /// When its operation began, in milliseconds since the Unix epoch by the writer's clock. For people; and its own
    /// node, where it finds the operation unsettled, decides by it whether T/2 has passed. Nobody else decides anything by it.
    #[serde(default)]
    pub at_ms: u64,
}

#[derive(Serialize)]
struct Written<'a> {
    format: &'static str,
    #[serde(flatten)]
    entry: &'a Entry,
}

#[derive(Deserialize)]
struct Header {
    format: String,
}

impl Entry {
    /// Its bytes: the same entry gives the same bytes.
    ///
    /// # Errors
    /// [`OwnershipError::TooLong`] if a name in it is absurdly long.
    pub fn encode(&self) -> Result<Vec<u8>, OwnershipError> {
        let bytes = serde_json::to_vec(&Written { format: ENTRY_FORMAT, entry: self })
            .map_err(unreadable)?;
        bounded(bytes.len())?;
        Ok(bytes)
    }

    /// Reads bytes of a slot. Unknown fields are ignored, an unknown format is refused.
    ///
    /// # Errors
    /// Too long, not JSON of this format, or a list in it that is longer than any writer makes it.
    pub fn decode(bytes: &[u8]) -> Result<Self, OwnershipError> {
        bounded(bytes.len())?;
        let header: Header = serde_json::from_slice(bytes).map_err(unreadable)?;
        if header.format != ENTRY_FORMAT {
            let (what, known) = ("log entry", ENTRY_FORMAT);
            return Err(OwnershipError::Format { what, found: header.format, known });
        }
        let entry: Self = serde_json::from_slice(bytes).map_err(unreadable)?;
        entry.state.bounded().then_some(entry).ok_or_else(|| OwnershipError::Unreadable {
            what: "log entry",
            reason: "it lists too many checkpoints".to_owned(),
        })
    }

    /// Whether this is what the same operation tried to write here: the slot is its own, whatever the store answered.
    #[must_use]
    pub fn is_attempt(&self, tried: &Entry) -> bool {
        self.same_writer(tried) && self.kind.word() == tried.kind.word()
    }

    /// Whether the same operation wrote it, with whatever kind.
    #[must_use]
    pub fn same_writer(&self, tried: &Entry) -> bool {
        self.seq == tried.seq && self.nonce == tried.nonce
    }

    /// The checkpoint whose commit point it is.
    #[must_use]
    pub fn commits(&self) -> Option<CheckpointId> {
        self.kind.commits()
    }
}

impl State {
    fn bounded(&self) -> bool {
        match self {
            Self::Empty | Self::Ended { .. } => true,
            Self::Owned { good, .. } | Self::Offered { good, .. } | Self::Stopped { good, .. } => {
                good.bounded()
            }
        }
    }
}

/// Who writes, for which operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub struct Pen {
    /// The owner that it is, or becomes.
    pub me: Owner,
    /// The operation.
    pub op: Option<OpId>,
    /// Minted for the operation.
    pub nonce: Nonce,
    /// When the operation began; see [`Entry::at_ms`].
    pub at_ms: u64,
}

/// What the next entry is built on: the newest one as it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub struct Basis {
    /// Its position; 0 for an empty log.
    pub seq: Seq,
    /// The state after it.
    pub state: State,
    /// Its generation.
    pub generation: Generation,
}

impl Basis {
    /// The basis that a reader of the newest entry has.
    #[must_use]
    pub fn of(newest: Option<&Entry>) -> Self {
        newest.map_or_else(Self::default, |entry| Self {
            seq: entry.seq,
            state: entry.state.clone(),
            generation: entry.generation,
        })
    }

    /// The entry that `pen` may put after it.
    ///
    /// # Errors
    /// The refusal, if it may not.
    pub fn next(&self, pen: &Pen, kind: Kind) -> Result<Entry, Refusal> {
        let state = permitted(&self.state, &pen.me, &kind)?;
        Ok(Entry {
            seq: self.seq.next(),
            nonce: pen.nonce,
            op: pen.op,
            generation: self.generation_after(&kind),
            state,
            kind,
            by: pen.me.clone(),
            at_ms: pen.at_ms,
        })
    }

    pub(crate) fn generation_after(&self, kind: &Kind) -> Generation {
        Generation(self.generation.0 + u64::from(kind.replaces()))
    }
}

fn bounded(len: usize) -> Result<(), OwnershipError> {
    let (what, max) = ("log entry", MAX_ENTRY);
    if len <= max { Ok(()) } else { Err(OwnershipError::TooLong { what, len, max }) }
}

#[allow(clippy::needless_pass_by_value)] // for `map_err`
fn unreadable(error: serde_json::Error) -> OwnershipError {
    OwnershipError::Unreadable { what: "log entry", reason: error.to_string() }
}

#[cfg(test)]
mod tests;
