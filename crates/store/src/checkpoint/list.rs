//! What is in a tenant: one row for each checkpoint, with what it costs.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use godwit_image::Manifest;
use godwit_types::{Bytes, CheckpointId, LineageName};

use crate::blob::{Listed, list_all};
use crate::error::StoreError;
use crate::layout::Part;
use crate::store::TenantStore;

/// Manifests, logs or heads read at once.
const PARALLEL: usize = 16;

/// One checkpoint that exists.
#[derive(Debug, Clone)]
pub struct CheckpointRow {
    /// Its manifest.
    pub manifest: Manifest,
    /// Its place among the points that the lineage's newest entry calls good, 0 for the one that it goes on from; `None`: it is none.
    pub place: Option<usize>,
    /// Whether somebody holds it.
    pub held: bool,
    /// How many operations read it now.
    pub pins: usize,
    /// Bytes of the objects under its own prefix that are still there.
    pub own: Bytes,
    /// Of the bytes that it names, those that another existing checkpoint names too.
    pub shared: Bytes,
    /// What its deletion would free in the end.
    pub exclusive: Bytes,
}

/// A manifest that could not be read; listed rather than hidden.
#[derive(Debug)]
pub struct Unreadable {
    /// The checkpoint.
    pub id: CheckpointId,
    /// Why.
    pub error: StoreError,
}

/// What a LIST tells about one checkpoint.
#[derive(Debug, Default)]
struct Seen {
    manifest: bool,
    tombstone: bool,
    held: bool,
    pins: Vec<Listed>,
    own: u64,
}

impl TenantStore {
    /// All checkpoints that exist, oldest first, and those whose manifest or tombstone cannot be read. One LIST of the tenant, one
    /// GET for each manifest or tombstone, and the logs of their lineages.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn list(&self) -> Result<(Vec<CheckpointRow>, Vec<Unreadable>), StoreError> {
        let seen = self.see().await?;
        let (manifests, unreadable) = self.manifests_of(&seen).await?;
        let logs = self.logs_of(&manifests).await?;
        let committed =
            |m: &Manifest| logs.get(&m.lineage).is_some_and(|l| l.commits.contains(&m.id));
        let manifests: Vec<Manifest> = manifests.into_iter().filter(committed).collect();
        let named = count_names(&manifests);
        let now = self.now_if_pinned(&seen).await?;
        let row = |manifest: Manifest| {
            let seen = &seen[&manifest.id];
            let good =
                logs.get(&manifest.lineage).map(|log| log.good.as_slice()).unwrap_or_default();
            let place = good.iter().position(|id| *id == manifest.id);
            let pins =
                seen.pins.iter().filter(|l| now.is_some_and(|n| self.is_young(l, n))).count();
            let (shared, exclusive) = split(&manifest, &named);
            let own = Bytes(seen.own);
            CheckpointRow { place, held: seen.held, pins, own, shared, exclusive, manifest }
        };
        Ok((manifests.into_iter().map(row).collect(), unreadable))
    }

    async fn see(&self) -> Result<BTreeMap<CheckpointId, Seen>, StoreError> {
        let mut all: BTreeMap<CheckpointId, Seen> = BTreeMap::new();
        for listed in list_all(self.blobs(), &self.keys.checkpoints()).await? {
            let Some((id, part)) = self.keys.parse(&listed.key) else { continue };
            let seen = all.entry(id).or_default();
            seen.own += listed.size;
            match part {
                Part::Manifest => seen.manifest = true,
                Part::Tombstone => seen.tombstone = true,
                Part::Hold => seen.held = true,
                Part::Pin(_) => seen.pins.push(listed),
                Part::Intent | Part::Other => {}
            }
        }
        Ok(all)
    }

    async fn manifests_of(
        &self,
        seen: &BTreeMap<CheckpointId, Seen>,
    ) -> Result<(Vec<Manifest>, Vec<Unreadable>), StoreError> {
        let ids = seen.iter().filter(|(_, s)| s.manifest).map(|(id, s)| (*id, s.tombstone));
        let ids: Vec<(CheckpointId, bool)> = ids.collect();
        let mut reads = stream::iter(ids)
            .map(|(id, tombstone)| async move { (id, self.manifest_unless(tombstone, id).await) })
            .buffered(PARALLEL);
        let (mut manifests, mut unreadable) = (Vec::new(), Vec::new());
        while let Some((id, read)) = reads.next().await {
            match read {
                Ok(manifest) => manifests.extend(manifest),
                Err(error) if error.code() == godwit_types::Code::Unavailable => return Err(error),
                Err(error) => unreadable.push(Unreadable { id, error }),
            }
        }
        Ok((manifests, unreadable))
    }

    /// The manifest, unless a tombstone was seen and is not withdrawn.
    async fn manifest_unless(
        &self,
        tombstone: bool,
        id: CheckpointId,
    ) -> Result<Option<Manifest>, StoreError> {
        if tombstone && self.tombstone(id).await?.is_some() {
            return Ok(None);
        }
        self.raw_manifest(id).await
    }

    async fn logs_of(
        &self,
        manifests: &[Manifest],
    ) -> Result<BTreeMap<LineageName, Points>, StoreError> {
        let names: BTreeSet<LineageName> = manifests.iter().map(|m| m.lineage.clone()).collect();
        stream::iter(names)
            .map(|name| async move {
                let log = self.lineage(&name);
                let commits = log.commits().await?.into_keys().collect();
                let good = log.newest().await?.map(|e| e.state.good().to_vec()).unwrap_or_default();
                Ok((name, Points { commits, good }))
            })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }

    async fn now_if_pinned(
        &self,
        seen: &BTreeMap<CheckpointId, Seen>,
    ) -> Result<Option<std::time::SystemTime>, StoreError> {
        let pinned = seen.values().any(|s| !s.pins.is_empty());
        Ok(if pinned { Some(self.about_now().await?) } else { None })
    }
}

/// What a log says about checkpoints.
struct Points {
    commits: BTreeSet<CheckpointId>,
    good: Vec<CheckpointId>,
}

/// By how many of these checkpoints each object is named.
fn count_names(manifests: &[Manifest]) -> BTreeMap<String, u32> {
    let mut named = BTreeMap::new();
    for object in manifests.iter().flat_map(|m| &m.objects) {
        *named.entry(object.key.clone()).or_default() += 1;
    }
    named
}

/// The bytes that a checkpoint shares with others, and those that only it names.
fn split(manifest: &Manifest, named: &BTreeMap<String, u32>) -> (Bytes, Bytes) {
    let (mut shared, mut exclusive) = (Bytes(0), Bytes(0));
    for object in &manifest.objects {
        let by_others = named.get(&object.key).is_some_and(|n| *n > 1);
        let sum = if by_others { &mut shared } else { &mut exclusive };
        sum.0 += object.size;
    }
    (shared, exclusive)
}
