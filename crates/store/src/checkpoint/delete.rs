//! Deleting a checkpoint: a tombstone, and nothing else. The sweep removes bytes, much later.
//!
//! ```text
//! refused? ─► create tombstone{deleted} ─► refused now? ─┬─ no ──► deleted
//!                                                        └─ yes ─► write tombstone{withdrawn} over it ─► refused
//! by force:   write tombstone{forced}
//! ```
//! A deletion that dies between its two looks leaves the second one to the sweep: it takes back a `deleted` that has a hold beside
//! it. Of two that die so, together they may have taken the last good points of a lineage.
//!
//! # Late writes
//! The create may have been sent more than once, and any of them may land until T/2 after it was sent. So a tombstone is never
//! taken back by removing it: what is written over it keeps its place, and none of them lands any more. Readers take it for none.
//! While it is there nothing creates another one, so only what nobody takes back, a deletion by force, is written over it. A
//! sweep removes it when it is older than T and nothing from before it can land.
//!
//! A late `withdrawn` may land on a later deletion by force: then the checkpoint is there again, and whole, for its writer gave up
//! after T/2 and no object goes before its tombstone is older than T.

use std::collections::BTreeSet;
use std::fmt;

use godwit_image::Manifest;
use godwit_ownership::State;
use godwit_types::{CheckpointId, OpId};

use super::{Absence, Age};
use crate::error::StoreError;
use crate::record::{self, Hold, Tombstone, TombstoneReason};
use crate::store::TenantStore;

/// Why a checkpoint is not deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeleteRefusal {
    /// Somebody reads it.
    Pinned {
        /// The operations.
        by: Vec<OpId>,
    },
    /// Somebody holds it.
    Held {
        /// Who.
        who: String,
        /// What for.
        why: String,
    },
    /// The lineage has no other point that it could be continued from.
    OnlyGood,
    /// The pod is stopped or offered at it: without it, it is lost.
    Current,
    /// It is being written.
    BeingWritten {
        /// By this operation.
        op: OpId,
    },
    /// A sweep is deciding about it.
    BeingSwept,
    /// A deletion of it was taken back, and something of that may still be on its way to the store.
    TakenBack,
}

impl fmt::Display for DeleteRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned { by } => {
                let ops: Vec<String> = by.iter().map(ToString::to_string).collect();
                write!(f, "it is being read by operation {}: wait, or force it", ops.join(", "))
            }
            Self::Held { who, why } => {
                write!(f, "{who} holds it ({why}): end that with `godwit unhold`, or force it")
            }
            Self::OnlyGood => f.write_str(
                "it is the only point that its pod could be continued from: force it if that may be lost",
            ),
            Self::Current => f.write_str(
                "its pod is stopped at it and would be lost: continue the pod, or force it",
            ),
            Self::BeingWritten { op } => write!(f, "operation {op} is writing it: wait for its end"),
            Self::BeingSwept => f.write_str("a sweep is deciding about it: try again later"),
            Self::TakenBack => f.write_str(
                "a deletion of it was taken back not long ago: try again when a sweep has tidied that up (a day later), or force it",
            ),
        }
    }
}

/// How a checkpoint is deleted.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Also if it is pinned, held, or the only good one. What a pin needs is kept all the same until the pin ends.
    pub force: bool,
    /// In words, for people; kept in the tombstone.
    pub why: String,
}

impl TenantStore {
    /// Deletes a checkpoint. One that is deleted already stays so: no error.
    ///
    /// Of two deletions at once that would together take the last good points of a lineage, at least one is refused.
    ///
    /// # Errors
    /// [`StoreError::DeleteRefused`]; [`StoreError::Absent`]; the store does not answer.
    pub async fn delete_checkpoint(
        &self,
        id: CheckpointId,
        options: &DeleteOptions,
    ) -> Result<(), StoreError> {
        let age = Age::begin(self);
        let forced = || self.replace_tombstone(id, TombstoneReason::Forced, &options.why);
        let withdrawn = match self.any_tombstone(id).await.map(|t| t.map(|t| t.reason)) {
            Ok(None) => false,
            Ok(Some(TombstoneReason::Withdrawn)) if options.force => true,
            // Whoever wrote it may take it back.
            Ok(Some(TombstoneReason::Deleted)) if options.force => return forced().await,
            Ok(Some(reason)) => return done_already(id, reason),
            // Nobody can read why it was written: now it says so.
            Err(e) if options.force && e.code() == godwit_types::Code::Corrupt => {
                return forced().await;
            }
            Err(e) => return Err(e),
        };
        // A manifest that cannot be read is no reason to keep it for ever, but somebody has to say so.
        let manifest = match self.raw_manifest(id).await {
            Ok(Some(manifest)) => Some(manifest),
            Ok(None) => {
                return Err(StoreError::Absent { id, absence: Absence::NoManifest });
            }
            Err(e) if options.force && e.code() == godwit_types::Code::Corrupt => None,
            Err(e) => return Err(e),
        };
        if let (Some(manifest), false) = (&manifest, options.force)
            && let Some(refusal) = self.refusal(manifest).await?
        {
            return refused(id, refusal);
        }
        age.check()?;
        if withdrawn {
            return forced().await;
        }
        let reason = if options.force { TombstoneReason::Forced } else { TombstoneReason::Deleted };
        if !self.write_tombstone(id, reason, &options.why).await? {
            // Somebody else's came between; gone since, it was withdrawn long ago.
            let found = self.any_tombstone(id).await?;
            let found = found.map_or(TombstoneReason::Withdrawn, |t| t.reason);
            return match found {
                TombstoneReason::Deleted | TombstoneReason::Withdrawn if options.force => {
                    forced().await
                }
                found => done_already(id, found),
            };
        }
        match manifest {
            Some(manifest) if !options.force => self.look_again(&manifest, &age).await,
            _ => Ok(()),
        }
    }

    /// After the tombstone: another deletion may have gone on beside this one, or somebody may have begun to hold it. Both
    /// look after they wrote, so at least one takes back what it wrote, or says that it came too late.
    async fn look_again(&self, manifest: &Manifest, age: &Age) -> Result<(), StoreError> {
        let id = manifest.id;
        let refusal = match self.held(id).await? {
            Some(hold) => Some(hold.into()),
            None => self.needed(manifest).await?,
        };
        let Some(refusal) = refusal else { return Ok(()) };
        // A sweep may believe a tombstone that is older than T/2.
        age.check()?;
        let found = self.any_tombstone(id).await?.map(|t| t.reason);
        if found == Some(TombstoneReason::Forced) {
            return Ok(());
        }
        self.withdraw_tombstone(id, &format!("a deletion came too late: {refusal}")).await?;
        refused(id, refusal)
    }

    /// Takes back a tombstone of ours that stands there since less than T/2. See the module for why it is not removed.
    pub(crate) async fn withdraw_tombstone(
        &self,
        id: CheckpointId,
        why: &str,
    ) -> Result<(), StoreError> {
        self.replace_tombstone(id, TombstoneReason::Withdrawn, why).await
    }

    pub(crate) async fn write_tombstone(
        &self,
        id: CheckpointId,
        reason: TombstoneReason,
        why: &str,
    ) -> Result<bool, StoreError> {
        let tombstone = Tombstone { reason, why: why.to_owned(), at: self.store.timestamp() };
        record::create(self.blobs(), &self.keys.tombstone(id), &tombstone).await
    }

    async fn replace_tombstone(
        &self,
        id: CheckpointId,
        reason: TombstoneReason,
        why: &str,
    ) -> Result<(), StoreError> {
        let tombstone = Tombstone { reason, why: why.to_owned(), at: self.store.timestamp() };
        record::write(self.blobs(), &self.keys.tombstone(id), &tombstone).await
    }

    async fn refusal(&self, manifest: &Manifest) -> Result<Option<DeleteRefusal>, StoreError> {
        let id = manifest.id;
        if let Some(intent) = self.young_intent(id).await? {
            return Ok(Some(DeleteRefusal::BeingWritten { op: intent }));
        }
        if let Some(hold) = self.held(id).await? {
            return Ok(Some(hold.into()));
        }
        let by = self.pins(id).await?;
        if !by.is_empty() {
            return Ok(Some(DeleteRefusal::Pinned { by }));
        }
        self.needed(manifest).await
    }

    async fn young_intent(&self, id: CheckpointId) -> Result<Option<OpId>, StoreError> {
        let Some(listed) = self.blobs().head(&self.keys.intent(id)).await? else {
            return Ok(None);
        };
        let now = self.store_time().await?;
        let intent = self.intent(id).await?;
        Ok(intent.filter(|_| self.is_young(&listed, now)).map(|i| i.op))
    }

    /// Whether its lineage needs it: the pod is stopped at it, or there is no other good point.
    async fn needed(&self, manifest: &Manifest) -> Result<Option<DeleteRefusal>, StoreError> {
        let id = manifest.id;
        let Some(newest) = self.lineage(&manifest.lineage).newest().await? else {
            return Ok(None);
        };
        let at = match &newest.state {
            State::Stopped { checkpoint, .. } | State::Offered { checkpoint, .. } => *checkpoint,
            State::Empty | State::Ended { .. } => return Ok(None),
            State::Owned { good, .. } => {
                let others: BTreeSet<_> = good.all().iter().filter(|c| **c != id).collect();
                let is_good = good.contains(id);
                let another = self.any_exists(others.into_iter().copied()).await?;
                return Ok((is_good && !another).then_some(DeleteRefusal::OnlyGood));
            }
        };
        Ok((at == id).then_some(DeleteRefusal::Current))
    }

    async fn any_exists(
        &self,
        ids: impl Iterator<Item = CheckpointId>,
    ) -> Result<bool, StoreError> {
        for id in ids {
            if self.presence(id).await? == godwit_ownership::Presence::Exists {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Who holds a checkpoint, if anybody does.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn held(&self, id: CheckpointId) -> Result<Option<Hold>, StoreError> {
        record::read(self.blobs(), &self.keys.hold(id)).await
    }

    /// Keeps a checkpoint from being deleted, until [`TenantStore::unhold`].
    ///
    /// # Errors
    /// [`StoreError::Absent`]: it was deleted before, and nothing is changed, or is being deleted now (that is taken back because
    /// of this hold, at once or by a sweep: look again); the store does not answer.
    pub async fn hold(&self, id: CheckpointId, who: &str, why: &str) -> Result<(), StoreError> {
        self.manifest(id).await?;
        let at = self.store.timestamp();
        let hold = Hold { who: who.to_owned(), why: why.to_owned(), at };
        record::write(self.blobs(), &self.keys.hold(id), &hold).await?;
        // Written first, looked at then: a deletion at the same time sees the hold when it looks again, or we see its
        // tombstone.
        self.manifest(id).await.map(drop)
    }

    /// Takes a hold away.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn unhold(&self, id: CheckpointId) -> Result<(), StoreError> {
        Ok(self.blobs().delete(&self.keys.hold(id)).await?)
    }
}

impl From<Hold> for DeleteRefusal {
    fn from(hold: Hold) -> Self {
        Self::Held { who: hold.who, why: hold.why }
    }
}

/// What a tombstone that is there already means for a deletion.
fn done_already(id: CheckpointId, reason: TombstoneReason) -> Result<(), StoreError> {
    match reason {
        TombstoneReason::Deleted | TombstoneReason::Forced => Ok(()),
        TombstoneReason::Orphan => refused(id, DeleteRefusal::BeingSwept),
        TombstoneReason::Withdrawn => refused(id, DeleteRefusal::TakenBack),
    }
}

fn refused(id: CheckpointId, refusal: DeleteRefusal) -> Result<(), StoreError> {
    Err(StoreError::DeleteRefused { id, refusal })
}
