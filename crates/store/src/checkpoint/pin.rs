//! Pins: what a reader needs stays, even if the checkpoint is deleted meanwhile.

use std::time::Duration;

use futures::future::join;
use godwit_image::Manifest;
use godwit_types::{CheckpointId, OpId, Owner};
use ulid::Ulid;

use super::{Absence, Age, CheckpointReader};
use crate::blob::{Creation, Listed, list_all};
use crate::error::StoreError;
use crate::record::{self, PinRecord};
use crate::store::TenantStore;

/// A pin of ours. Dropping it does not remove it: [`Pin::release`] does, or time.
///
/// A clone is the same pin.
#[derive(Debug, Clone)]
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
    /// [`StoreError::Absent`] if it does not exist (a new pin is removed again); the store does not answer.
    pub async fn pin(
        &self,
        id: CheckpointId,
        op: OpId,
        owner: &Owner,
    ) -> Result<(Pin, CheckpointReader), StoreError> {
        let pin = self.new_pin(id, op, owner);
        let is_new = pin.create().await?;
        self.opened(pin, is_new, self.manifest(id).await).await
    }

    /// Pins a checkpoint and opens it at the same time. Whether it stays is known only from a look that begins after this
    /// ([`TenantStore::presence`]): a sweep may have passed before it could see the pin.
    ///
    /// # Errors
    /// As [`TenantStore::pin`].
    pub async fn pin_and_open(
        &self,
        id: CheckpointId,
        op: OpId,
        owner: &Owner,
    ) -> Result<(Pin, CheckpointReader), StoreError> {
        let pin = self.new_pin(id, op, owner);
        let (is_new, manifest) = join(pin.create(), self.manifest_at_once(id)).await;
        self.opened(pin, is_new?, manifest).await
    }

    /// A pin of what cannot be opened is for nothing.
    async fn opened(
        &self,
        pin: Pin,
        is_new: bool,
        manifest: Result<Manifest, StoreError>,
    ) -> Result<(Pin, CheckpointReader), StoreError> {
        if manifest.is_err() && is_new {
            pin.clone().withdraw().await;
        }
        Ok((pin, CheckpointReader::new(self.clone(), manifest?)))
    }

    /// As [`TenantStore::manifest`], by two requests at the same time: of a checkpoint that a sweep deletes just then it may miss that.
    async fn manifest_at_once(&self, id: CheckpointId) -> Result<Manifest, StoreError> {
        let (tombstone, manifest) = join(self.tombstone(id), self.raw_manifest(id)).await;
        if let Some(tombstone) = tombstone? {
            return Err(StoreError::Absent { id, absence: tombstone.into() });
        }
        manifest?.ok_or(StoreError::Absent { id, absence: Absence::NoManifest })
    }

    /// Takes up a pin that this operation was given earlier and still holds, as a restarted agent does for a pager that
    /// goes on. What it needs is still there, also if the checkpoint was deleted since. A pin that has ended meanwhile is
    /// begun anew, as by [`TenantStore::pin`]. In a store that takes no writes now it is taken up as it is: its age cannot be told,
    /// and nothing is gained by not reading on.
    ///
    /// # Errors
    /// As [`TenantStore::pin`].
    pub async fn repin(
        &self,
        id: CheckpointId,
        op: OpId,
        owner: &Owner,
    ) -> Result<(Pin, CheckpointReader), StoreError> {
        match self.renewed(id, op, owner).await {
            Err(error) if error.takes_no_writes() => {
                tracing::warn!(checkpoint = %id, %error, "a pin cannot be renewed");
                if self.blobs().head(&self.keys.pin(id, op)).await?.is_none() {
                    return Err(error);
                }
                self.taken_up(self.new_pin(id, op, owner)).await
            }
            other => other,
        }
    }

    async fn renewed(
        &self,
        id: CheckpointId,
        op: OpId,
        owner: &Owner,
    ) -> Result<(Pin, CheckpointReader), StoreError> {
        let now = self.store_time().await?;
        let held = self.blobs().head(&self.keys.pin(id, op)).await?;
        if !held.is_some_and(|listed| self.is_young(&listed, now)) {
            return self.pin(id, op, owner).await;
        }
        let pin = self.new_pin(id, op, owner);
        pin.write().await?;
        self.taken_up(pin).await
    }

    async fn taken_up(&self, pin: Pin) -> Result<(Pin, CheckpointReader), StoreError> {
        let id = pin.id;
        let absent = StoreError::Absent { id, absence: Absence::NoManifest };
        let manifest = self.raw_manifest(id).await?.ok_or(absent)?;
        Ok((pin, CheckpointReader::new(self.clone(), manifest)))
    }

    /// Removes the pin of an operation that is over and whose [`Pin`] nobody has any more.
    ///
    /// # Errors
    /// The store does not answer; the pin then ends by age.
    pub async fn unpin(&self, id: CheckpointId, op: OpId) -> Result<(), StoreError> {
        Ok(self.blobs().delete(&self.keys.pin(id, op)).await?)
    }

    fn new_pin(&self, id: CheckpointId, op: OpId, owner: &Owner) -> Pin {
        let (tenant, owner) = (self.clone(), owner.clone());
        Pin { tenant, id, op, owner, renewed: Age::begin(self) }
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
        self.tenant.unpin(self.id, self.op).await
    }

    /// Best effort: one that stays is harmless and ends by age.
    async fn withdraw(self) {
        if let Err(error) = self.release().await {
            tracing::debug!(%error, "a pin stays behind");
        }
    }

    /// Writes it; whether there was certainly none of this operation before.
    async fn create(&self) -> Result<bool, StoreError> {
        let body = record::encode(&self.record())?;
        let key = self.tenant.keys.pin(self.id, self.op);
        if self.tenant.blobs().create(&key, body).await? == Creation::Created {
            return Ok(true);
        }
        self.write().await?;
        Ok(false)
    }

    async fn write(&self) -> Result<(), StoreError> {
        let key = self.tenant.keys.pin(self.id, self.op);
        record::write(self.tenant.blobs(), &key, &self.record()).await
    }

    fn record(&self) -> PinRecord {
        let at = self.tenant.store.timestamp();
        PinRecord { op: self.op, owner: self.owner.clone(), at }
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

    /// About the time by the store's own clock, for who only looks: by ours where the store takes no writes.
    pub(crate) async fn about_now(&self) -> Result<std::time::SystemTime, StoreError> {
        match self.store_time().await {
            Err(error) if error.takes_no_writes() => Ok(self.store.clock().now()),
            other => other,
        }
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
