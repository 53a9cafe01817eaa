//! The small JSON objects around a checkpoint, and how they are read and written.
//!
//! Each begins with its format; unknown fields are ignored; lengths are bounded before anything is read.

use bytes::Bytes;
use godwit_types::{CheckpointId, LineageName, OpId, Owner};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::blob::{BlobStore, Creation, Key, get_optional};
use crate::error::StoreError;

/// Longest record: none of ours has a tenth of it.
const MAX_RECORD: u64 = 64 << 10;
/// Longest candidate list: a million keys.
const MAX_LIST: u64 = 128 << 20;
/// How often an unknown outcome is looked into.
const SETTLE_TRIES: usize = 5;

/// A kind of small object.
pub(crate) trait Record: Serialize + DeserializeOwned + Send + Sync {
    /// What its `format` field says.
    const FORMAT: &'static str;
    /// Bytes at most.
    const LIMIT: u64 = MAX_RECORD;
}

/// Written before the first object of a checkpoint: who writes it, and whose packs it may share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The operation.
    pub op: OpId,
    /// Whose pod it is.
    pub owner: Owner,
    /// Whose checkpoint it will be.
    pub lineage: LineageName,
    /// The checkpoint whose packs it may share.
    pub parent: Option<CheckpointId>,
    /// When it was written, by the writer's clock.
    pub at: Timestamp,
}

/// Says that a reader needs what the checkpoint names, tombstone or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRecord {
    /// The operation that reads.
    pub op: OpId,
    /// For whom.
    pub owner: Owner,
    /// When it was written or last renewed, by the reader's clock.
    pub at: Timestamp,
}

/// Says that a checkpoint does not exist any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Who deleted it.
    pub reason: TombstoneReason,
    /// In words, for people.
    pub why: String,
    /// When, by the writer's clock.
    pub at: Timestamp,
}

/// Who wrote a tombstone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TombstoneReason {
    /// The sweep found no entry for it, and withdraws the tombstone if one appears.
    Orphan,
    /// A person or the retention rules. Withdrawn if it came too late: at once, or by a sweep that finds a hold beside it.
    Deleted,
    /// A person who wants it to go although it is held or needed: final.
    Forced,
    /// Whoever wrote one of the others took it back: it counts as none. It stays in its place for T, so that nothing that was
    /// sent before it lands there.
    Withdrawn,
}

impl TombstoneReason {
    /// Whether the checkpoint does not exist any more, by the word of whoever deleted it.
    pub(crate) fn is_deletion(self) -> bool {
        matches!(self, Self::Deleted | Self::Forced)
    }
}

/// Keeps a checkpoint from being deleted until it is taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Who holds it.
    pub who: String,
    /// What for.
    pub why: String,
    /// Since when, by the writer's clock.
    pub at: Timestamp,
}

/// What a sweep found unmarked; a later one may delete what is still unmarked then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Candidates {
    /// The sweep.
    pub(crate) sweep: Ulid,
    /// The keys, sorted.
    pub(crate) keys: Vec<Key>,
}

impl Record for Intent {
    const FORMAT: &'static str = "godwit.intent/1";
}
impl Record for PinRecord {
    const FORMAT: &'static str = "godwit.pin/1";
}
impl Record for Tombstone {
    const FORMAT: &'static str = "godwit.tombstone/1";
}
impl Record for Hold {
    const FORMAT: &'static str = "godwit.hold/1";
}
impl Record for Candidates {
    const FORMAT: &'static str = "godwit.candidates/1";
    const LIMIT: u64 = MAX_LIST;
}

#[derive(Serialize)]
struct Written<'a, R> {
    format: &'static str,
    #[serde(flatten)]
    record: &'a R,
}

#[derive(Deserialize)]
struct Header {
    format: String,
}

/// The bytes of a record.
pub(crate) fn encode<R: Record>(record: &R) -> Result<Bytes, StoreError> {
    let written = Written { format: R::FORMAT, record };
    let bytes = serde_json::to_vec(&written)
        .map_err(|e| StoreError::Invalid { what: R::FORMAT, why: e.to_string() })?;
    Ok(bytes.into())
}

fn decode<R: Record>(key: &Key, bytes: &[u8]) -> Result<R, StoreError> {
    let damaged = |source| StoreError::Record { key: key.clone(), source };
    let header: Header = serde_json::from_slice(bytes).map_err(damaged)?;
    if header.format != R::FORMAT {
        let (key, found, known) = (key.clone(), header.format, R::FORMAT);
        return Err(StoreError::Format { key, found, known });
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

/// Reads a record, `None` if there is none.
pub(crate) async fn read<R: Record>(
    store: &dyn BlobStore,
    key: &Key,
) -> Result<Option<R>, StoreError> {
    let bytes = get_optional(store, key, R::LIMIT).await?;
    bytes.map(|b| decode(key, &b)).transpose()
}

/// Writes a record, replacing an earlier one.
pub(crate) async fn write<R: Record>(
    store: &dyn BlobStore,
    key: &Key,
    record: &R,
) -> Result<(), StoreError> {
    Ok(store.put(key, encode(record)?).await?)
}

/// Creates a record unless there is one: `true` if what is there now are our bytes.
///
/// An unknown outcome is settled by reading and, where nothing is found, by the same PUT again: at worst our own earlier
/// one lands. Only for records whose writers do not act on the difference between now and a little later.
pub(crate) async fn create<R: Record>(
    store: &dyn BlobStore,
    key: &Key,
    record: &R,
) -> Result<bool, StoreError> {
    let body = encode(record)?;
    for _ in 0..SETTLE_TRIES {
        if store.create(key, body.clone()).await? == Creation::Created {
            return Ok(true);
        }
        if let Some(there) = get_optional(store, key, R::LIMIT).await? {
            return Ok(there == body);
        }
    }
    Err(StoreError::Unsettled { key: key.clone() })
}

#[cfg(test)]
mod tests;
