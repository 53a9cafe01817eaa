//! Pins: what a reader needs stays, even if the checkpoint is deleted meanwhile.

use std::time::Duration;

use godwit_types::{CheckpointId, OpId, Owner};
use ulid::Ulid;

use super::{Age, CheckpointReader};
use crate::blob::{Listed, list_all};
use crate::error::StoreError;
use crate::record::{self, PinRecord};
use crate::store::TenantStore;

/// A pin of ours. Dropping it does not remove it: [`Pin::release`] does, or time.
#[derive(Debug)]
pub struct Pin {
    tenant: TenantStore,
    id: CheckpointId,
    op: OpId,
    owner: Owner,
    renewed: Age,
}

impl TenantStore {
    /// Pins a checkpoint and *then* opens it: either the sweep sees the pin, or we see the tombstone.
    ///
    /// # Errors
    /// [`StoreError::Absent`] if it does not exist (the pin is removed again); the store does not answer.
    pub async fn pin(
        &self,
        id: CheckpointId,
        op: OpId,
        owner: &Owner,
    ) -> Result<(Pin, CheckpointReader), StoreError> {
        let (tenant, owner) = (self.clone(), owner.clone());
        let pin = Pin { tenant, id, op, owner, renewed: Age::begin(self) };
        pin.write().await?;
        match self.open_checkpoint(id).await {
            Ok(reader) => Ok((pin, reader)),
            Err(absent @ StoreError::Absent { .. }) => {
                // Its end is what matters to the caller; a pin that stays is harmless and ends by age.
                if let Err(error) = pin.release().await {
                    tracing::debug!(%error, "a pin stays behind");
                }
                Err(absent)
            }
            Err(e) => Err(e),
        }
    }

    /// The operations that pin a checkpoint now.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn pins(&self, id: CheckpointId) -> Result<Vec<OpId>, StoreError> {
        let listed = list_all(self.blobs(), &self.keys.pins(id)).await?;
        if listed.is_empty() {
            return Ok(Vec::new());
        }
        let now = self.store_time().await?;
        let young = |l: &&Listed| self.is_young(l, now);
        let ops = listed.iter().filter(young).filter_map(|l| l.key.last_component().parse().ok());
        Ok(ops.collect())
    }
}

impl Pin {
    /// The checkpoint.
    #[must_use]
    pub fn checkpoint(&self) -> CheckpointId {
        self.id
    }

    /// After how long a pin has to be renewed: T/8, so that several tries fit before T/2.
    #[must_use]
    pub fn renew_after(&self) -> Duration {
        self.tenant.store.horizon() / 8
    }

    /// Renews it. If that comes too late for a sweep to have seen the last one, the checkpoint is looked at again.
    ///
    /// # Errors
    /// The store does not answer; [`StoreError::Absent`] if the renewal came too late.
    pub async fn renew(&mut self) -> Result<(), StoreError> {
        let begun = Age::begin(&self.tenant);
        let late = self.renewed.elapsed() > self.tenant.store.horizon() * 7 / 8;
        self.write().await?;
        if late {
            self.tenant.manifest(self.id).await?;
        }
        self.renewed = begun;
        Ok(())
    }

    /// Removes it: the reader has all that it needs.
    ///
    /// # Errors
    /// The store does not answer; the pin then ends by age.
    pub async fn release(self) -> Result<(), StoreError> {
        Ok(self.tenant.blobs().delete(&self.tenant.keys.pin(self.id, self.op)).await?)
    }

    async fn write(&self) -> Result<(), StoreError> {
        let at = self.tenant.store.timestamp();
        let record = PinRecord { op: self.op, owner: self.owner.clone(), at };
        let key = self.tenant.keys.pin(self.id, self.op);
        record::write(self.tenant.blobs(), &key, &record).await
    }
}

impl TenantStore {
    /// The time by the store's own clock: what it says of an object that was written just now.
    pub(crate) async fn store_time(&self) -> Result<std::time::SystemTime, StoreError> {
        let key = self.keys.gc_clock();
        self.blobs().put(&key, Ulid::generate().to_string().into()).await?;
        let written = self.blobs().head(&key).await?;
        written.map(|l| l.modified).ok_or(StoreError::Unsettled { key })
    }

    /// Whether it was written less than T before `now`.
    pub(crate) fn is_young(&self, listed: &Listed, now: std::time::SystemTime) -> bool {
        match now.duration_since(listed.modified) {
            Ok(age) => age < self.store.horizon(),
            // Written since.
            Err(_) => true,
        }
    }
}
