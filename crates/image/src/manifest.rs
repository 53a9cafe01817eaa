//! The manifest: what a checkpoint is, in JSON for programs and people. Written after everything it names.
//!
//! Fields that are not known are ignored, so a newer Godwit may add some. What a reader must not ignore raises the format.

mod parts;
mod validate;

use std::collections::BTreeMap;

use godwit_types::{CheckpointId, Generation, LineageName, OpId, Outcome, Sizes, Tenant};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::limits::MAX_MANIFEST_BYTES;
use crate::{Digest, ImageError};

pub use parts::{
    ByteRange, Compat, Container, DataKey, Encryption, IN_THE_HEAD, Network, Object, Signature,
    Source, TcpMode, Volume, VolumeMode,
};

/// The format that is written and read.
pub const FORMAT: &str = "godwit.checkpoint/1";

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`]; always the first field.
    pub format: String,
    /// This checkpoint.
    pub id: CheckpointId,
    /// The tenant whose prefix it lies under.
    pub tenant: Tenant,
    /// Whose checkpoint it is.
    pub lineage: LineageName,
    /// Generation of the lineage when it was taken.
    pub generation: Generation,
    /// The checkpoint whose packs it shares, if any. It need not exist any more.
    pub parent: Option<CheckpointId>,
    /// The operation that made it.
    pub op: OpId,
    /// When it was begun, by the source's clock.
    pub created: Timestamp,
    /// What becomes of the source.
    pub outcome: Outcome,
    /// Where it was taken.
    pub source: Source,
    /// The containers, in the order of their start.
    pub containers: Vec<Container>,
    /// Containers that were done, that is had ended with status 0, and must not run again: init containers, as a rule.
    #[serde(default)]
    pub init_done: Vec<String>,
    /// Every object that a restore may read, those of earlier checkpoints included, sorted by key.
    pub objects: Vec<Object>,
    /// What the target must be able to do.
    pub compat: Compat,
    /// Addresses and what happens to connections.
    pub network: Network,
    /// Volumes that were mounted.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// How it is encrypted; absent: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// Who vouches for it; absent: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
    /// Bytes by kind.
    pub sizes: Sizes,
    /// Milliseconds by phase.
    #[serde(default)]
    pub timings: BTreeMap<String, f64>,
}

/// Read before anything else, so that a newer format is told apart from damage.
#[derive(Deserialize)]
struct FormatOnly {
    format: String,
}

impl Manifest {
    /// Its bytes: indented JSON and a line's end.
    ///
    /// # Errors
    /// It breaks a rule of [`Manifest::validate`], or is longer than any reader takes.
    pub fn encode(&self) -> Result<Vec<u8>, ImageError> {
        self.validate()?;
        let mut bytes = serde_json::to_vec_pretty(self).map_err(json)?;
        bytes.push(b'\n');
        bounded(bytes.len())?;
        Ok(bytes)
    }

    /// Reads a manifest of which nothing is believed.
    ///
    /// # Errors
    /// Too long, another format, not JSON, or it breaks a rule of [`Manifest::validate`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ImageError> {
        bounded(bytes.len())?;
        let format: FormatOnly = serde_json::from_slice(bytes).map_err(json)?;
        check_format(&format.format)?;
        let manifest: Self = serde_json::from_slice(bytes).map_err(json)?;
        manifest.validate()?;
        Ok(manifest)
    }

    /// The entry of the head among the objects.
    #[must_use]
    pub fn head(&self) -> Option<&Object> {
        let key = head_key(self.id);
        self.objects.iter().find(|o| o.key == key)
    }
}

/// The key of a checkpoint's head, as in [`Object::key`].
#[must_use]
pub fn head_key(id: CheckpointId) -> String {
    format!("{id}/head")
}

fn bounded(length: usize) -> Result<(), ImageError> {
    let (size, limit) = (length as u64, MAX_MANIFEST_BYTES as u64);
    if size > limit { Err(ImageError::Limit { what: "manifest", size, limit }) } else { Ok(()) }
}

fn check_format(format: &str) -> Result<(), ImageError> {
    if format == FORMAT {
        return Ok(());
    }
    let version = format.strip_prefix("godwit.checkpoint/").and_then(|v| v.parse().ok());
    Err(match version {
        Some(found) => ImageError::Version { what: "manifest", found, oldest: 1, newest: 1 },
        None => ImageError::Magic { what: "manifest" },
    })
}

fn json(e: serde_json::Error) -> ImageError {
    ImageError::Json { why: e.to_string() }
}

impl Object {
    /// The head of this checkpoint.
    #[must_use]
    pub fn head(id: CheckpointId, bytes: &[u8]) -> Self {
        Self { key: head_key(id), size: bytes.len() as u64, digest: Digest::of(bytes) }
    }

    /// A pack.
    #[must_use]
    pub fn pack(record: &crate::PackRecord) -> Self {
        Self { key: record.name.to_string(), size: record.size.into(), digest: record.footer }
    }
}

#[cfg(test)]
mod tests;
