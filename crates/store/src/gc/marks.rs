//! The mark: what is in the tenant, and what of it is needed.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use godwit_image::Manifest;
use godwit_types::CheckpointId;

use super::orphans::Logs;
use super::{Sweep, SweepReport};
use crate::blob::{Key, Listed, list_all};
use crate::error::StoreError;
use crate::layout::Part;
use crate::record::TombstoneReason;
use crate::store::TenantStore;

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
    /// What a checkpoint names that died less than T ago.
    dying: BTreeSet<Key>,
    /// Checkpoints with a tombstone that was withdrawn.
    pub(super) withdrawn: Vec<CheckpointId>,
    /// Checkpoints that are held, with a tombstone whose writer died before it looked for that.
    pub(super) held: Vec<CheckpointId>,
}

impl Marks {
    /// All that is not needed.
    pub(super) fn unneeded(&self) -> BTreeSet<Key> {
        let all = self.found.values().flat_map(|f| &f.objects).map(|(_, l)| &l.key);
        all.filter(|key| !self.needed.contains(key)).cloned().collect()
    }

    /// What may be deleted of all that is not needed: not what died after it may have been listed for another reason.
    pub(super) fn deletable(&self) -> BTreeSet<Key> {
        self.unneeded().difference(&self.dying).cloned().collect()
    }
}

/// Manifests, by what their checkpoints are.
#[derive(Debug, Default)]
struct Roots {
    needed: Vec<Manifest>,
    /// Not needed, since less than T.
    dying: Vec<Manifest>,
    withdrawn: Vec<CheckpointId>,
    held: Vec<CheckpointId>,
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
        report.kept = roots.needed.len();
        let (needed, dying) = (users.signs, BTreeSet::new());
        let (withdrawn, held) = (roots.withdrawn, roots.held);
        let mut marks = Marks { found, needed, dying, withdrawn, held };
        for id in &users.written {
            marks.need_all(*id);
        }
        for manifest in &roots.needed {
            let keys = self.keys_of(&marks, manifest)?;
            marks.needed.extend(keys);
        }
        for manifest in &roots.dying {
            let keys = self.keys_of(&marks, manifest)?;
            marks.dying.extend(keys);
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
        let written: Vec<CheckpointId> = users.written.iter().copied().collect();
        // An intent that is gone by now was removed after its manifest, which the next step reads.
        let parents = self.read_each(written, |tenant, id| async move {
            Ok(tenant.intent(id).await?.and_then(|intent| intent.parent))
        });
        let parents = parents.await?;
        users.used.extend(parents.into_iter().flatten());
        Ok(users)
    }

    /// The manifests that are needed, or were until lately.
    async fn roots(
        &self,
        found: &BTreeMap<CheckpointId, Found>,
        users: &Users,
        report: &mut SweepReport,
    ) -> Result<Roots, StoreError> {
        let with_manifest = found.iter().filter(|(_, f)| f.part(&Part::Manifest).is_some());
        let reasons = self.reasons(found).await?;
        let is = |id: &CheckpointId, reason| reasons.get(id) == Some(&reason);
        // Whoever wrote `deleted` takes it back for a hold, if nothing happens to him.
        let is_held = |id: &CheckpointId| {
            is(id, TombstoneReason::Deleted) && found[id].part(&Part::Hold).is_some()
        };
        let is_dead =
            |id: &CheckpointId| reasons.get(id).is_some_and(|r| r.is_deletion()) && !is_held(id);
        let (wanted, dead): (Vec<CheckpointId>, Vec<CheckpointId>) = with_manifest
            .map(|(id, _)| *id)
            .partition(|id| users.used.contains(id) || !is_dead(id));
        let withdrawn = reasons.keys().filter(|id| is(id, TombstoneReason::Withdrawn));
        let held = wanted.iter().filter(|id| is_held(id) && self.is_long_dead(&found[id]));
        let held = held.copied().collect();
        let read = |tenant: TenantStore, id| async move { tenant.raw_manifest(id).await };
        let manifests = self.read_each(wanted, read).await?;
        let (needed, dying) = (Vec::new(), self.dying(found, dead).await?);
        let mut roots = Roots { needed, dying, withdrawn: withdrawn.copied().collect(), held };
        let mut logs = Logs::default();
        // One that is gone by now was deleted by another sweep.
        for manifest in manifests.into_iter().flatten() {
            let id = manifest.id;
            let in_use = users.used.contains(&id) || users.written.contains(&id) || is_held(&id);
            let (found, reason) = (&found[&id], reasons.get(&id).copied());
            if in_use || !self.is_given_up(&manifest, found, reason, &mut logs, report).await? {
                roots.needed.push(manifest);
            } else if !self.is_long_dead(found) {
                roots.dying.push(manifest);
            }
        }
        Ok(roots)
    }

    /// Whether its tombstone is older than T.
    fn is_long_dead(&self, found: &Found) -> bool {
        found.part(&Part::Tombstone).is_some_and(|listed| !self.tenant.is_young(listed, self.now))
    }

    /// Of the dead ones those that are not dead for long.
    async fn dying(
        &self,
        found: &BTreeMap<CheckpointId, Found>,
        dead: Vec<CheckpointId>,
    ) -> Result<Vec<Manifest>, StoreError> {
        let lately = dead.into_iter().filter(|id| !self.is_long_dead(&found[id])).collect();
        let manifests = self.read_each(lately, |tenant, id| async move {
            match tenant.raw_manifest(id).await {
                // Nobody could begin to use it.
                Err(e) if e.code() == godwit_types::Code::Corrupt => Ok(None),
                other => other,
            }
        });
        Ok(manifests.await?.into_iter().flatten().collect())
    }

    /// What the tombstones say.
    async fn reasons(
        &self,
        found: &BTreeMap<CheckpointId, Found>,
    ) -> Result<BTreeMap<CheckpointId, TombstoneReason>, StoreError> {
        let tombs = found.iter().filter(|(_, f)| f.part(&Part::Tombstone).is_some());
        let ids = tombs.map(|(id, _)| *id).collect();
        let read = self.read_each(ids, |tenant, id| async move {
            let tombstone = tenant.any_tombstone(id).await?;
            Ok(tombstone.map(|t| (id, t.reason)))
        });
        Ok(read.await?.into_iter().flatten().collect())
    }

    /// Reads something of each checkpoint, several at once, in order. Everything is owned: futures that borrow through a stream
    /// cannot be told to be [`Send`].
    async fn read_each<T, F>(
        &self,
        ids: Vec<CheckpointId>,
        read: impl Fn(TenantStore, CheckpointId) -> F,
    ) -> Result<Vec<T>, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let reads: Vec<F> = ids.into_iter().map(|id| read(self.tenant.clone(), id)).collect();
        stream::iter(reads).buffered(PARALLEL).try_collect().await
    }

    /// What a needed checkpoint consists of.
    fn keys_of(&self, marks: &Marks, manifest: &Manifest) -> Result<Vec<Key>, StoreError> {
        let named = manifest.objects.iter().map(|object| self.tenant.keys.object(&object.key));
        let mut keys: Vec<Key> = named.collect::<Result<_, _>>()?;
        let Some(found) = marks.found.get(&manifest.id) else { return Ok(keys) };
        // Around it: report, hold, tombstone. Not: packs that no manifest names, old intents and pins.
        let around = found.objects.iter().filter(|(part, listed)| match part {
            Part::Manifest | Part::Tombstone | Part::Hold => true,
            Part::Intent | Part::Pin(_) => false,
            Part::Other => !is_data(&listed.key),
        });
        keys.extend(around.map(|(_, listed)| listed.key.clone()));
        Ok(keys)
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
