//! Checkpoints that no entry commits: carries out what `godwit_ownership::Sweep` decides.

use std::collections::{BTreeMap, BTreeSet};

use godwit_image::Manifest;
use godwit_ownership::Read;
use godwit_ownership::sweep::{Action, Event, Sweep as Decision, Swept, Tombstone};
use godwit_types::{CheckpointId, LineageName};

use super::marks::Found;
use super::{Sweep, SweepReport};
use crate::error::StoreError;
use crate::layout::Part;
use crate::record::TombstoneReason;

const WHY: &str = "no entry of its lineage commits it";

/// The checkpoints that logs were seen to commit, so that a sweep reads each log once.
#[derive(Debug, Default)]
pub(super) struct Logs(BTreeMap<LineageName, Named>);

#[derive(Debug)]
struct Named {
    by_log: BTreeSet<CheckpointId>,
    /// Whether all of the log was read, not the newest entry alone.
    whole: bool,
}

impl Sweep<'_> {
    /// Whether the checkpoint is old, no entry commits it, and it is given up. Its objects are then not needed, but are
    /// deleted as everything else is: by a later sweep that comes to the same conclusion.
    pub(super) async fn is_given_up(
        &self,
        manifest: &Manifest,
        found: &Found,
        reason: Option<TombstoneReason>,
        logs: &mut Logs,
        report: &mut SweepReport,
    ) -> Result<bool, StoreError> {
        let Some(written) = found.part(&Part::Manifest) else { return Ok(false) };
        let counts = reason != Some(TombstoneReason::Withdrawn);
        let tombstone = found.part(&Part::Tombstone).filter(|_| counts);
        let suspect = tombstone.is_some() || !self.tenant.is_young(written, self.now);
        if !suspect || (tombstone.is_none() && self.was_named(manifest, logs).await?) {
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
                Action::Withdraw(id) => {
                    self.withdraw(id, "an entry commits it after all").await?;
                    Event::Done(true)
                }
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

    /// Whether an entry committed it when this sweep looked at its log: the newest entry often knows, else the whole log is read,
    /// once. An entry is never undone; that there is none is read again after the tombstone.
    async fn was_named(&self, manifest: &Manifest, logs: &mut Logs) -> Result<bool, StoreError> {
        let (id, lineage) = (manifest.id, &manifest.lineage);
        let log = self.tenant.lineage(lineage);
        if !logs.0.contains_key(lineage) {
            let newest = log.newest().await?;
            let by_log =
                newest.iter().flat_map(|e| e.state.good().iter().copied().chain(e.commits()));
            let named = Named { by_log: by_log.collect(), whole: newest.is_none() };
            logs.0.insert(lineage.clone(), named);
        }
        let Some(named) = logs.0.get_mut(lineage) else { return Ok(false) };
        if !named.whole && !named.by_log.contains(&id) {
            named.by_log.extend(log.commits().await?.into_keys());
            named.whole = true;
        }
        Ok(named.by_log.contains(&id))
    }

    async fn read_log(&self, manifest: &Manifest) -> Read<bool> {
        known(self.tenant.lineage(&manifest.lineage).names(manifest.id).await)
    }

    pub(super) async fn withdraw(&self, id: CheckpointId, why: &str) -> Result<(), StoreError> {
        // Another sweep may believe a tombstone that is older than T/2.
        self.age.check()?;
        self.tenant.withdraw_tombstone(id, why).await?;
        tracing::warn!(checkpoint = %id, why, "its tombstone was withdrawn");
        Ok(())
    }

    /// Removes a withdrawn tombstone that keeps nothing off any more: what was sent before it has landed or is lost.
    pub(super) async fn tidy_up(&self, id: CheckpointId) -> Result<(), StoreError> {
        let key = self.tenant.keys.tombstone(id);
        // Looked at after it was read: so it is the one that was read.
        let old = self.tenant.blobs().head(&key).await?;
        if old.is_some_and(|listed| !self.tenant.is_young(&listed, self.now)) {
            self.age.check()?;
            self.tenant.blobs().delete(&key).await?;
        }
        Ok(())
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
