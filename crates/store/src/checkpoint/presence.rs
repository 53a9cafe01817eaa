//! Whether a checkpoint exists, and if not, why.

use std::fmt;

use godwit_image::Manifest;
use godwit_ownership::Presence;
use godwit_types::CheckpointId;

use crate::blob::get_optional;
use crate::error::StoreError;
use crate::record::{self, Tombstone, TombstoneReason};
use crate::store::TenantStore;

/// Why a checkpoint cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absence {
    /// It has no manifest: never written completely, or collected.
    NoManifest,
    /// It has a tombstone.
    Deleted {
        /// In the words of who deleted it.
        why: String,
    },
    /// A sweep has its doubts; the tombstone may be withdrawn.
    Doubted,
    /// No entry of its lineage commits it.
    NotCommitted,
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoManifest => f.write_str("does not exist"),
            Self::Deleted { why } => write!(f, "was deleted ({why})"),
            Self::Doubted => f.write_str("is being looked at by a sweep: try again"),
            Self::NotCommitted => f.write_str("was never committed"),
        }
    }
}

impl From<Tombstone> for Absence {
    fn from(tombstone: Tombstone) -> Self {
        match tombstone.reason {
            TombstoneReason::Orphan | TombstoneReason::Withdrawn => Self::Doubted,
            TombstoneReason::Deleted | TombstoneReason::Forced => {
                Self::Deleted { why: tombstone.why }
            }
        }
    }
}

impl TenantStore {
    /// Manifest and no tombstone: what the machines of `godwit-ownership` ask for. That an entry commits it, they know.
    ///
    /// The tombstone is read first: a sweep deletes the manifest before the tombstone, so in the other order both could
    /// be seen as if the checkpoint existed.
    ///
    /// # Errors
    /// The store does not answer, or the tombstone is damaged.
    pub async fn presence(&self, id: CheckpointId) -> Result<Presence, StoreError> {
        let tombstone = self.tombstone(id).await?.map(|t| t.reason);
        if tombstone.is_some_and(TombstoneReason::is_deletion) {
            return Ok(Presence::Gone);
        }
        // A manifest that was deleted never comes back, whatever becomes of the tombstone.
        let manifest = self.blobs().head(&self.keys.manifest(id)).await?;
        Ok(match (manifest, tombstone) {
            (None, _) => Presence::Gone,
            (Some(_), Some(_)) => Presence::Doubted,
            (Some(_), None) => Presence::Exists,
        })
    }

    /// Whether this tenant has, or had, a checkpoint of this id: a manifest or a tombstone, sound or not.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn knows(&self, id: CheckpointId) -> Result<bool, StoreError> {
        for key in [self.keys.manifest(id), self.keys.tombstone(id)] {
            if self.blobs().head(&key).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The manifest of a checkpoint that has no tombstone. Whether an entry commits it is not looked at.
    ///
    /// # Errors
    /// [`StoreError::Absent`]; the store does not answer; the manifest is damaged or another checkpoint's.
    pub async fn manifest(&self, id: CheckpointId) -> Result<Manifest, StoreError> {
        if let Some(tombstone) = self.tombstone(id).await? {
            return Err(StoreError::Absent { id, absence: tombstone.into() });
        }
        let absent = StoreError::Absent { id, absence: Absence::NoManifest };
        self.raw_manifest(id).await?.ok_or(absent)
    }

    /// The manifest of a checkpoint that exists: an entry commits it, and no tombstone says otherwise.
    ///
    /// # Errors
    /// As [`TenantStore::manifest`], and [`Absence::NotCommitted`].
    pub async fn committed_manifest(&self, id: CheckpointId) -> Result<Manifest, StoreError> {
        let manifest = self.manifest(id).await?;
        if self.lineage(&manifest.lineage).names(id).await? {
            return Ok(manifest);
        }
        Err(StoreError::Absent { id, absence: Absence::NotCommitted })
    }

    /// The tombstone of a checkpoint, if there is one that was not withdrawn.
    ///
    /// # Errors
    /// The store does not answer, or it is damaged.
    pub async fn tombstone(&self, id: CheckpointId) -> Result<Option<Tombstone>, StoreError> {
        let found = self.any_tombstone(id).await?;
        Ok(found.filter(|t| t.reason != TombstoneReason::Withdrawn))
    }

    /// What is in the place of a checkpoint's tombstone, withdrawn or not.
    pub(crate) async fn any_tombstone(
        &self,
        id: CheckpointId,
    ) -> Result<Option<Tombstone>, StoreError> {
        record::read(self.blobs(), &self.keys.tombstone(id)).await
    }

    /// The manifest, tombstone or not; `None` if there is none.
    pub(crate) async fn raw_manifest(
        &self,
        id: CheckpointId,
    ) -> Result<Option<Manifest>, StoreError> {
        let key = self.keys.manifest(id);
        let limit = godwit_image::limits::MAX_MANIFEST_BYTES as u64;
        let Some(bytes) = get_optional(self.blobs(), &key, limit).await? else { return Ok(None) };
        let manifest = Manifest::decode(&bytes)
            .map_err(|source| StoreError::Image { key: key.clone(), source })?;
        if manifest.id != id || manifest.tenant != self.tenant {
            let found = format!("the manifest of {} of tenant {}", manifest.id, manifest.tenant);
            return Err(StoreError::Misplaced { key, found });
        }
        Ok(Some(manifest))
    }
}
