//! Checkpoints in the store: written in an order that makes a half-written one invisible, read verified, deleted late.
//!
//! # Consistency
//! ```text
//! intent ─► (parent has no tombstone) ─► packs, digests ─► head ─► manifest ─► entry in the log ─► intent removed
//! ```
//! A checkpoint **exists** exactly when an entry of its lineage commits it, its manifest is there, and no tombstone is.
//! Whatever is not named by an existing manifest, a young intent or a young pin is garbage ([`crate::gc`]).
//!
//! # Crash
//! At any point before the entry there is no checkpoint, only garbage that a later sweep finds by the missing intent or
//! its age. An operation older than T/2 gives up, so nothing of it appears when the sweep believes it dead.
//!
//! # Cancellation
//! Dropping a stage of the writer is a crash at that point; [`TenantStore::abandon`] tidies up at once.

mod delete;
mod list;
mod packs;
mod pin;
mod presence;
mod reader;
mod verify;
mod writer;

use std::time::Duration;

use godwit_types::CheckpointId;

use crate::error::StoreError;
use crate::record::{self, Intent};
use crate::store::TenantStore;

pub use delete::{DeleteOptions, DeleteRefusal};
pub use list::{CheckpointRow, Unreadable};
pub use pin::Pin;
pub use presence::Absence;
pub use reader::{CheckpointReader, StoreFrames, Unverified};
pub use verify::{Depth, Fault, VerifyReport};
pub use writer::{CommitStage, HeadStage, ManifestStage, NewCheckpoint, PackStage, Parent};

/// An operation's age against the bound that the sweep relies on.
#[derive(Debug, Clone)]
pub(crate) struct Age {
    tenant: TenantStore,
    began: Duration,
}

impl Age {
    pub(crate) fn begin(tenant: &TenantStore) -> Self {
        Self { tenant: tenant.clone(), began: tenant.store.clock().since_boot() }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.tenant.store.clock().since_boot().saturating_sub(self.began)
    }

    /// Fails once the operation is older than T/2.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let limit = self.tenant.store.horizon() / 2;
        if self.elapsed() > limit { Err(StoreError::TooOld { limit }) } else { Ok(()) }
    }
}

impl TenantStore {
    /// The report of a checkpoint, written beside it.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn put_report(&self, id: CheckpointId, json: Vec<u8>) -> Result<(), StoreError> {
        Ok(self.blobs().put(&self.keys.report(id), json.into()).await?)
    }

    /// The report of a checkpoint, if it was written.
    ///
    /// # Errors
    /// The store does not answer, or it is absurdly long.
    pub async fn report(&self, id: CheckpointId) -> Result<Option<bytes::Bytes>, StoreError> {
        const LIMIT: u64 = 4 << 20;
        Ok(crate::blob::get_optional(self.blobs(), &self.keys.report(id), LIMIT).await?)
    }

    /// Who writes this checkpoint now, if anybody does.
    ///
    /// # Errors
    /// The store does not answer, or the intent is damaged.
    pub async fn intent(&self, id: CheckpointId) -> Result<Option<Intent>, StoreError> {
        record::read(self.blobs(), &self.keys.intent(id)).await
    }

    /// Removes what a failed operation of ours has written for a checkpoint that has no manifest; with a manifest, only
    /// its intent: then the sweep decides by the log. Call it when nothing of the operation runs any more.
    ///
    /// # Errors
    /// The store does not answer; the sweep finds the rest.
    pub async fn abandon(&self, id: CheckpointId) -> Result<(), StoreError> {
        let intent = self.keys.intent(id);
        let listed = crate::blob::list_all(self.blobs(), &self.keys.checkpoint(id)).await?;
        let manifest = self.keys.manifest(id);
        if listed.iter().all(|l| l.key != manifest) {
            for object in listed.iter().filter(|l| l.key != intent) {
                self.blobs().delete(&object.key).await?;
            }
        }
        Ok(self.blobs().delete(&intent).await?)
    }

    /// Removes all that an operation of ours has written for a checkpoint that no log names, nor ever will: the store has refused its
    /// entry, and nothing of it can land any more. Call it when nothing of the operation runs any more.
    ///
    /// # Errors
    /// The store does not answer; the sweep finds the rest.
    pub async fn discard(&self, id: CheckpointId) -> Result<(), StoreError> {
        // First: without it there is no checkpoint.
        self.blobs().delete(&self.keys.manifest(id)).await?;
        self.abandon(id).await
    }
}

#[cfg(test)]
mod tests;
