//! The mark: what is in the tenant, and what of it is needed.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use godwit_image::Manifest;
use godwit_types::CheckpointId;

use super::{Sweep, SweepReport};
use crate::blob::{Key, Listed, list_all};
use crate::error::StoreError;
use crate::layout::Part;
use crate::record::TombstoneReason;

/// Intents, tombstones or manifests read at once.
const PARALLEL: usize = 16;

/// Everything of one checkpoint that a LIST shows.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) objects: Vec<(Part, Listed)>,
}

impl Found {
    pub(super) fn part(&self, part: &Part) -> Option<&Listed> {
        self.objects.iter().find(|(p, _)| p == part).map(|(_, l)| l)
    }
}

/// What is there, and which of it is needed.
#[derive(Debug)]
pub(super) struct Marks {
    pub(super) found: BTreeMap<CheckpointId, Found>,
    needed: BTreeSet<Key>,
}

impl Marks {
    /// All that is not needed.
    pub(super) fn unneeded(&self) -> BTreeSet<Key> {
        let all = self.found.values().flat_map(|f| &f.objects).map(|(_, l)| &l.key);
        all.filter(|key| !self.needed.contains(key)).cloned().collect()
    }
}

/// Who needs what, before any manifest is read.
#[derive(Debug, Default)]
struct Users {
    /// Checkpoints that are being written.
    written: BTreeSet<CheckpointId>,
    /// Checkpoints that a writer or a reader needs, tombstone or not.
    used: BTreeSet<CheckpointId>,
    /// Young intents and pins themselves.
    signs: BTreeSet<Key>,
}

impl Sweep<'_> {
    /// Marks. Users first, then manifests: see [`super`].
    pub(super) async fn mark(&self, report: &mut SweepReport) -> Result<Marks, StoreError> {
        let users = self.users().await?;
        let found = self.find().await?;
        let roots = self.roots(&found, &users, report).await?;
        report.kept = roots.len();
        let mut marks = Marks { found, needed: users.signs };
        for id in &users.written {
            marks.need_all(*id);
        }
        for manifest in &roots {
            self.need(&mut marks, manifest)?;
        }
        Ok(marks)
    }

    async fn find(&self) -> Result<BTreeMap<CheckpointId, Found>, StoreError> {
        let (keys, blobs) = (&self.tenant.keys, self.tenant.blobs());
        let mut found: BTreeMap<CheckpointId, Found> = BTreeMap::new();
        for listed in list_all(blobs, &keys.checkpoints()).await? {
            // What is not ours is not touched.
            let Some((id, part)) = keys.parse(&listed.key) else { continue };
            found.entry(id).or_default().objects.push((part, listed));
        }
        Ok(found)
    }

    async fn users(&self) -> Result<Users, StoreError> {
        let mut users = Users::default();
        for (id, found) in self.find().await? {
            for (part, listed) in found.objects {
                let young = self.tenant.is_young(&listed, self.now);
                match part {
                    Part::Intent if young => users.written.insert(id),
                    Part::Pin(_) if young => users.used.insert(id),
                    _ => continue,
                };
                users.signs.insert(listed.key);
            }
        }
        let parents: Vec<Option<CheckpointId>> = stream::iter(users.written.iter().copied())
            // An intent that is gone by now was removed after its manifest, which the next step reads.
            .map(|id| async move { Ok(self.tenant.intent(id).await?.and_then(|i| i.parent)) })
            .buffer_unordered(PARALLEL)
            .try_collect::<Vec<_>>()
            .await
            .map_err(|e: StoreError| e)?;
        users.used.extend(parents.into_iter().flatten());
        Ok(users)
    }

    /// The manifests that are needed.
    async fn roots(
        &self,
        found: &BTreeMap<CheckpointId, Found>,
        users: &Users,
        report: &mut SweepReport,
    ) -> Result<Vec<Manifest>, StoreError> {
        let with_manifest = found.iter().filter(|(_, f)| f.part(&Part::Manifest).is_some());
        let dead = self.dead(found).await?;
        let wanted = with_manifest
            .map(|(id, _)| *id)
            .filter(|id| users.used.contains(id) || !dead.contains(id));
        let manifests: Vec<Option<Manifest>> = stream::iter(wanted)
            .map(|id| self.tenant.raw_manifest(id))
            .buffered(PARALLEL)
            .try_collect()
            .await?;
        let mut roots = Vec::new();
        // One that is gone by now was deleted by another sweep.
        for manifest in manifests.into_iter().flatten() {
            let id = manifest.id;
            let in_use = users.used.contains(&id) || users.written.contains(&id);
            if in_use || !self.is_given_up(&manifest, &found[&id], report).await? {
                roots.push(manifest);
            }
        }
        Ok(roots)
    }

    /// The checkpoints that were deleted for good.
    async fn dead(
        &self,
        found: &BTreeMap<CheckpointId, Found>,
    ) -> Result<BTreeSet<CheckpointId>, StoreError> {
        let tombs = found.iter().filter(|(_, f)| f.part(&Part::Tombstone).is_some());
        let ids = tombs.map(|(id, _)| *id);
        let read: Vec<Option<CheckpointId>> = stream::iter(ids)
            .map(|id| async move {
                let tombstone = self.tenant.tombstone(id).await?;
                let dead = tombstone.is_some_and(|t| t.reason == TombstoneReason::Deleted);
                Ok::<_, StoreError>(dead.then_some(id))
            })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await?;
        Ok(read.into_iter().flatten().collect())
    }

    /// Marks what a needed checkpoint consists of.
    fn need(&self, marks: &mut Marks, manifest: &Manifest) -> Result<(), StoreError> {
        for object in &manifest.objects {
            marks.needed.insert(self.tenant.keys.object(&object.key)?);
        }
        let Some(found) = marks.found.get(&manifest.id) else { return Ok(()) };
        // Around it: report, log, hold, tombstone. Not: packs that no manifest names, old intents and pins.
        let around = found.objects.iter().filter(|(part, listed)| match part {
            Part::Manifest | Part::Tombstone | Part::Hold => true,
            Part::Intent | Part::Pin(_) => false,
            Part::Other => !is_data(&listed.key),
        });
        marks.needed.extend(around.map(|(_, listed)| listed.key.clone()));
        Ok(())
    }
}

impl Marks {
    fn need_all(&mut self, id: CheckpointId) {
        let Some(found) = self.found.get(&id) else { return };
        let old_pins = |part: &Part| matches!(part, Part::Pin(_));
        let all = found.objects.iter().filter(|(part, _)| !old_pins(part));
        self.needed.extend(all.map(|(_, listed)| listed.key.clone()));
    }
}

/// Whether it is needed only if a manifest names it.
fn is_data(key: &Key) -> bool {
    let mut parts = key.as_str().rsplit('/');
    let last = parts.next();
    last == Some("head") || matches!(parts.next(), Some("packs" | "digests"))
}
