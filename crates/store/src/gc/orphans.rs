//! Checkpoints that no entry commits: carries out what `godwit_ownership::Sweep` decides.

use godwit_image::Manifest;
use godwit_ownership::Read;
use godwit_ownership::sweep::{Action, Event, Sweep as Decision, Swept, Tombstone};
use godwit_types::CheckpointId;

use super::marks::Found;
use super::{Sweep, SweepReport};
use crate::error::StoreError;
use crate::layout::Part;
use crate::record::TombstoneReason;

const WHY: &str = "no entry of its lineage commits it";

impl Sweep<'_> {
    /// Whether the checkpoint is old, no entry commits it, and it is given up. Its objects are then not needed, but are
    /// deleted as everything else is: by a later sweep that comes to the same conclusion.
    pub(super) async fn is_given_up(
        &self,
        manifest: &Manifest,
        found: &Found,
        report: &mut SweepReport,
    ) -> Result<bool, StoreError> {
        let Some(written) = found.part(&Part::Manifest) else { return Ok(false) };
        let tombstone = found.part(&Part::Tombstone);
        let suspect = tombstone.is_some() || !self.tenant.is_young(written, self.now);
        if !suspect || (tombstone.is_none() && self.is_named(manifest).await?) {
            return Ok(false);
        }
        if self.options.dry_run {
            report.undecided += 1;
            return Ok(false);
        }
        let state = match tombstone {
            None => Tombstone::None,
            Some(listed) if self.tenant.is_young(listed, self.now) => Tombstone::Fresh,
            Some(_) => Tombstone::Abandoned,
        };
        let swept = self.decide(manifest, state).await?;
        match swept {
            Swept::Deleted => report.orphans += 1,
            Swept::Later => report.undecided += 1,
            Swept::Kept => {}
        }
        Ok(swept == Swept::Deleted)
    }

    async fn decide(&self, manifest: &Manifest, state: Tombstone) -> Result<Swept, StoreError> {
        let mut decision = Decision::new(manifest.id, state);
        let mut event = Event::Begin;
        loop {
            let actions = decision.step(event);
            let Some(action) = actions.into_iter().next() else { return Ok(Swept::Later) };
            event = match action {
                Action::PutTombstone(id) => Event::Tombstone(self.bury(id).await),
                Action::ReadLog(_) => Event::Named(self.read_log(manifest).await),
                Action::Withdraw(id) => Event::Done(self.withdraw(id).await?),
                // Not yet: see `is_given_up`.
                Action::Delete(_) => Event::Done(true),
                Action::Finished(swept) => return Ok(swept),
            };
        }
    }

    async fn bury(&self, id: CheckpointId) -> Read<bool> {
        // Ours alone: two sweeps of the same moment must not take each other's for their own.
        let why = format!("{WHY} (sweep {})", self.id);
        known(self.tenant.write_tombstone(id, TombstoneReason::Orphan, &why).await)
    }

    async fn read_log(&self, manifest: &Manifest) -> Read<bool> {
        known(self.is_named(manifest).await)
    }

    async fn is_named(&self, manifest: &Manifest) -> Result<bool, StoreError> {
        self.tenant.lineage(&manifest.lineage).names(manifest.id).await
    }

    async fn withdraw(&self, id: CheckpointId) -> Result<bool, StoreError> {
        // Another sweep may believe a tombstone that is older than T/2.
        self.age.check()?;
        self.tenant.blobs().delete(&self.tenant.keys.tombstone(id)).await?;
        tracing::warn!(checkpoint = %id, "an entry commits it after all; its tombstone was withdrawn");
        Ok(true)
    }
}

fn known<T>(read: Result<T, StoreError>) -> Read<T> {
    match read {
        Ok(value) => Read::Known(value),
        Err(error) => {
            tracing::warn!(%error, "a sweep could not find out about an orphan");
            Read::Unavailable
        }
    }
}
