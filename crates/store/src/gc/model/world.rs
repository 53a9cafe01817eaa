//! The actors, what they rely on, and the schedule's moves.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use futures::FutureExt;
use godwit_image::Manifest;
use godwit_ownership::state::Kind;
use godwit_ownership::{Basis, Pen};
use godwit_types::{CheckpointId, Nonce, OpId, Tenant};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::gate::Gate;
use crate::blob::{BlobStore, Creation, list_all};
use crate::checkpoint::DeleteOptions;
use crate::clock::{Clock, ManualClock};
use crate::error::StoreError;
use crate::fixture::{HORIZON, lineage, new_checkpoint, owner, store_checkpoint};
use crate::gc::SweepOptions;
use crate::record::{self, Tombstone, TombstoneReason};
use crate::store::{Store, TenantStore};

type Actor = Pin<Box<dyn Future<Output = ()>>>;

/// What happened, so that the model can be seen to be about something.
#[derive(Debug, Default, Clone)]
pub(super) struct Counted {
    pub(super) committed: usize,
    pub(super) inherited: usize,
    pub(super) deleted_checkpoints: usize,
    pub(super) restored: usize,
    pub(super) deleted_objects: usize,
    pub(super) crashed: usize,
    pub(super) orphans: usize,
    /// Deletions that were refused after their tombstone was written.
    pub(super) taken_back: usize,
}

impl Counted {
    pub(super) fn add(&mut self, other: &Self) {
        self.committed += other.committed;
        self.inherited += other.inherited;
        self.deleted_checkpoints += other.deleted_checkpoints;
        self.restored += other.restored;
        self.deleted_objects += other.deleted_objects;
        self.crashed += other.crashed;
        self.orphans += other.orphans;
        self.taken_back += other.taken_back;
    }
}

/// What somebody relies on, and until when.
#[derive(Debug, Default)]
struct Relied {
    next: u64,
    by: BTreeMap<u64, (Duration, Manifest)>,
}

/// Shared by all actors.
struct Shared {
    clock: Arc<ManualClock>,
    tenant: TenantStore,
    counted: Mutex<Counted>,
    known: Mutex<Vec<CheckpointId>>,
    relied: Mutex<Relied>,
    /// Deletions that were refused, by the words of their tombstones.
    refused: Mutex<Vec<(CheckpointId, String)>>,
}

/// One reliance; ends when dropped (a crash ends it too).
struct Reliance {
    shared: Arc<Shared>,
    number: u64,
}

impl Reliance {
    /// From `since` on, for T.
    fn begin(shared: &Arc<Shared>, since: Duration, manifest: Manifest) -> Self {
        let mut relied = shared.relied.lock().unwrap();
        let number = relied.next;
        relied.next += 1;
        relied.by.insert(number, (since + HORIZON, manifest));
        drop(relied);
        Self { shared: Arc::clone(shared), number }
    }

    fn renew(&self, since: Duration) {
        let mut relied = self.shared.relied.lock().unwrap();
        relied.by.get_mut(&self.number).unwrap().0 = since + HORIZON;
    }

    fn holds(&self) -> bool {
        let relied = self.shared.relied.lock().unwrap();
        relied.by[&self.number].0 > self.shared.clock.since_boot()
    }
}

impl Drop for Reliance {
    fn drop(&mut self) {
        self.shared.relied.lock().unwrap().by.remove(&self.number);
    }
}

pub(super) struct ModelWorld {
    gate: Arc<Gate>,
    shared: Arc<Shared>,
    actors: Vec<Actor>,
    /// How much more often sweeps go on than others: they ask for far more, and else everybody they could harm is gone before
    /// they end.
    hurry: f64,
    /// Manifests never change.
    manifests: BTreeMap<CheckpointId, Arc<Manifest>>,
}

const SWEEPERS: usize = 2;
const ACTORS: usize = 6;

impl ModelWorld {
    pub(super) async fn new(seed: u64) -> Self {
        let clock = Arc::new(ManualClock::new());
        let gate = Arc::new(Gate::new(clock.clone()));
        let store = Store::over(gate.clone(), clock.clone(), HORIZON).await.unwrap();
        let shared = Arc::new(Shared {
            clock,
            tenant: store.tenant(&Tenant::node()),
            counted: Mutex::default(),
            known: Mutex::default(),
            relied: Mutex::default(),
            refused: Mutex::default(),
        });
        crate::fixture::append(&shared.tenant, Kind::Start { forked_from: None }).await;
        gate.take_deleted();
        let mut rng = StdRng::seed_from_u64(!seed);
        let mut actors: Vec<Actor> = Vec::new();
        for n in 0..ACTORS {
            actors.push(actor(&shared, n, &mut rng));
        }
        let hurry = if seed.is_multiple_of(2) { 0.75 } else { 0.0 };
        Self { gate, shared, actors, hurry, manifests: BTreeMap::new() }
    }

    /// One actor goes on until its next request.
    pub(super) fn poll_one(&mut self, rng: &mut StdRng) {
        let among = if rng.random_bool(self.hurry) { SWEEPERS } else { ACTORS };
        let n = rng.random_range(0..among);
        let mut context = Context::from_waker(Waker::noop());
        if self.actors[n].as_mut().poll(&mut context).is_ready() {
            self.actors[n] = actor(&self.shared, n, rng);
        }
    }

    /// One actor dies; what it had sent is in flight. Another one takes its place.
    pub(super) fn crash_one(&mut self, rng: &mut StdRng) {
        let n = rng.random_range(0..self.actors.len());
        self.actors[n] = actor(&self.shared, n, rng);
        self.shared.counted.lock().unwrap().crashed += 1;
    }

    pub(super) async fn land_one(&mut self, rng: &mut StdRng) {
        let in_flight = self.gate.in_flight();
        if in_flight > 0 {
            self.gate.end(rng.random_range(0..in_flight), rng.random_bool(0.7)).await;
        }
    }

    /// Some time passes, but never so much that a request would land later than T/2 after it was sent.
    pub(super) async fn let_time_pass(&mut self, rng: &mut StdRng) {
        let by = HORIZON / [64, 32, 8, 3][rng.random_range(0..4)];
        let now = self.shared.clock.since_boot();
        if self.gate.oldest().is_none_or(|sent| now + by <= sent + HORIZON / 2) {
            self.shared.clock.advance(by);
        }
    }

    /// After a DELETE: nothing that is relied on, and nothing that exists, lacks an object.
    pub(super) async fn check(&mut self, seed: u64) {
        let deleted = self.gate.take_deleted();
        if deleted.is_empty() {
            return;
        }
        self.shared.counted.lock().unwrap().deleted_objects += deleted.len();
        let now = self.shared.clock.since_boot();
        let relied: Vec<Manifest> = {
            let relied = self.shared.relied.lock().unwrap();
            let live = relied.by.values().filter(|(until, _)| *until > now);
            live.map(|(_, manifest)| manifest.clone()).collect()
        };
        for manifest in &relied {
            self.check_whole(seed, manifest, "somebody relies on it").await;
        }
        for id in self.existing().await {
            let manifest = self.manifest(id).await;
            self.check_whole(seed, &manifest, "it exists").await;
        }
    }

    async fn manifest(&mut self, id: CheckpointId) -> Arc<Manifest> {
        if let Some(manifest) = self.manifests.get(&id) {
            return Arc::clone(manifest);
        }
        let bytes = self.gate.inner.get(&self.keys().manifest(id), 1 << 20).await.unwrap();
        let manifest = Arc::new(Manifest::decode(&bytes).unwrap());
        self.manifests.insert(id, Arc::clone(&manifest));
        manifest
    }

    async fn check_whole(&self, seed: u64, manifest: &Manifest, why: &str) {
        for name in super::names(manifest) {
            let key = self.keys().object(name).unwrap();
            let there = self.gate.inner.head(&key).await.unwrap().is_some();
            assert!(there, "seed {seed}: {name} of {} is gone, and {why}", manifest.id);
        }
    }

    /// No tombstone of a deletion that was refused is there, or ever comes back.
    pub(super) async fn check_refused(&self, seed: u64) {
        let refused = self.shared.refused.lock().unwrap().clone();
        for (id, why) in refused {
            let tombstone = self.tombstone(id).await;
            let effective = tombstone.is_some_and(|t| t.why == why);
            assert!(!effective, "seed {seed}: {id} was not to be deleted ({why})");
        }
    }

    async fn tombstone(&self, id: CheckpointId) -> Option<Tombstone> {
        let read = record::read::<Tombstone>(&self.gate.inner, &self.keys().tombstone(id)).await;
        read.unwrap().filter(|t| t.reason != TombstoneReason::Withdrawn)
    }

    /// Committed, manifest, no tombstone.
    async fn existing(&self) -> Vec<CheckpointId> {
        let known = self.shared.known.lock().unwrap().clone();
        let mut existing = Vec::new();
        for id in known {
            let manifest = self.gate.inner.head(&self.keys().manifest(id)).await.unwrap();
            if manifest.is_some() && self.tombstone(id).await.is_none() {
                existing.push(id);
            }
        }
        existing
    }

    fn keys(&self) -> &crate::layout::TenantKeys {
        &self.shared.tenant.keys
    }

    /// All actors end, time passes, sweeps run: what is left belongs to what exists.
    pub(super) async fn settle(&mut self, rng: &mut StdRng) {
        self.actors.clear();
        while self.gate.in_flight() > 0 {
            self.land_one(rng).await;
        }
        for _ in 0..5 {
            self.shared.clock.advance(HORIZON);
            self.shared.tenant.sweep(SweepOptions::default()).await.unwrap();
        }
        let mut expected: Vec<String> = Vec::new();
        for id in self.existing().await {
            let manifest = self.manifest(id).await;
            expected.extend(super::names(&manifest).map(str::to_owned));
            expected.push(format!("{id}/manifest.json"));
        }
        let prefix = self.keys().checkpoints();
        let listed = list_all(&self.gate.inner, &prefix).await.unwrap();
        let left = listed.iter().map(|l| &l.key.as_str()[prefix.len()..]);
        let garbage: Vec<&str> = left
            .filter(|key| !key.ends_with("/tombstone") && !key.ends_with("/hold"))
            .filter(|key| !expected.iter().any(|e| e == key))
            .collect();
        assert!(garbage.is_empty(), "{garbage:?}");
    }

    pub(super) fn counted(&self) -> Counted {
        self.shared.counted.lock().unwrap().clone()
    }
}

fn actor(shared: &Arc<Shared>, n: usize, rng: &mut StdRng) -> Actor {
    let (shared, mut own) = (Arc::clone(shared), StdRng::seed_from_u64(rng.random()));
    if n < SWEEPERS {
        return sweeper(shared).boxed_local();
    }
    match rng.random_range(0..12) {
        0..5 => committer(shared, own).boxed_local(),
        5..7 => {
            let force = own.random_bool(0.5);
            deleter(shared, own, force).boxed_local()
        }
        7..9 => holder(shared, own).boxed_local(),
        _ => restorer(shared, own).boxed_local(),
    }
}

async fn sweeper(shared: Arc<Shared>) {
    match shared.tenant.sweep(SweepOptions::default()).await {
        Ok(report) => shared.counted.lock().unwrap().orphans += report.orphans,
        Err(StoreError::TooOld { .. }) => {}
        Err(e) => panic!("{e:?}"),
    }
}

/// Mostly recent ones: the old ones are gone.
const RECENT: usize = 6;
/// Who is to get in each other's way meets at these.
const LATEST: usize = 2;

fn any(shared: &Shared, rng: &mut StdRng, among: usize) -> Option<CheckpointId> {
    let known = shared.known.lock().unwrap();
    let from = known.len().saturating_sub(among);
    (!known.is_empty()).then(|| known[rng.random_range(from..known.len())])
}

async fn committer(shared: Arc<Shared>, mut rng: StdRng) {
    let parents: Vec<CheckpointId> = any(&shared, &mut rng, RECENT).into_iter().collect();
    let new = new_checkpoint(&parents);
    let dies = rng.random_bool(0.1);
    match commit(&shared, &new, dies).await {
        Ok(()) | Err(StoreError::TooOld { .. } | StoreError::Absent { .. }) => {}
        Err(e) => panic!("{e:?}"),
    }
}

async fn commit(
    shared: &Arc<Shared>,
    new: &crate::checkpoint::NewCheckpoint,
    dies: bool,
) -> Result<(), StoreError> {
    let tenant = &shared.tenant;
    let (stage, _) = store_checkpoint(tenant, new).await?;
    if dies {
        // Just before its entry.
        return Ok(());
    }
    let log = tenant.lineage(&lineage());
    loop {
        let basis = Basis::of(log.newest().await?.as_ref());
        let pen = Pen { me: owner(), op: Some(new.op), nonce: Nonce::mint(), at_ms: 0 };
        let entry = basis.next(&pen, Kind::Checkpoint { checkpoint: new.id }).unwrap();
        if stage.is_too_old() {
            return Err(StoreError::TooOld { limit: HORIZON / 2 });
        }
        // From here on it may exist.
        shared.known.lock().unwrap().push(new.id);
        if log.append(&entry).await? == Creation::Created {
            break;
        }
        shared.known.lock().unwrap().retain(|id| *id != new.id);
    }
    let manifest = tenant.manifest(new.id).await?;
    {
        let mut counted = shared.counted.lock().unwrap();
        counted.committed += 1;
        counted.inherited += usize::from(manifest.parent.is_some());
    }
    stage.committed().await
}

async fn deleter(shared: Arc<Shared>, mut rng: StdRng, force: bool) {
    let among = if rng.random_bool(0.5) { LATEST } else { RECENT };
    let Some(id) = any(&shared, &mut rng, among) else { return };
    let why = format!("model {}", OpId::mint());
    let options = DeleteOptions { force, why: why.clone() };
    match shared.tenant.delete_checkpoint(id, &options).await {
        Ok(()) => shared.counted.lock().unwrap().deleted_checkpoints += 1,
        Err(StoreError::DeleteRefused { refusal, .. }) => {
            shared.refused.lock().unwrap().push((id, why));
            let there = shared.tenant.any_tombstone(id).await.unwrap();
            let ours = there.is_some_and(|t| t.why.ends_with(&refusal.to_string()));
            shared.counted.lock().unwrap().taken_back += usize::from(ours);
        }
        Err(StoreError::Absent { .. } | StoreError::TooOld { .. }) => {}
        Err(e) => panic!("{e:?}"),
    }
}

/// Keeps a checkpoint from being deleted, now and then.
async fn holder(shared: Arc<Shared>, mut rng: StdRng) {
    let Some(id) = any(&shared, &mut rng, LATEST) else { return };
    for _ in 0..rng.random_range(1..6) {
        match shared.tenant.hold(id, "model", "").await {
            Ok(()) | Err(StoreError::Absent { .. }) => {}
            Err(e) => panic!("{e:?}"),
        }
        shared.tenant.unhold(id).await.unwrap();
        for _ in 0..rng.random_range(0..12) {
            shared.tenant.held(id).await.unwrap();
        }
    }
}

/// Pins, reads everything a few times, renews in between; may fall asleep for days and must then be told.
async fn restorer(shared: Arc<Shared>, mut rng: StdRng) {
    let Some(id) = any(&shared, &mut rng, RECENT) else { return };
    let before = shared.clock.since_boot();
    let (mut pin, reader) = match shared.tenant.pin(id, OpId::mint(), &owner()).await {
        Ok(pinned) => pinned,
        Err(StoreError::Absent { .. }) => return,
        Err(e) => panic!("{e:?}"),
    };
    let reliance = Reliance::begin(&shared, before, reader.manifest().clone());
    for _ in 0..rng.random_range(1..24) {
        for object in &reader.manifest().objects {
            let key = shared.tenant.keys.object(&object.key).unwrap();
            let read = shared.tenant.blobs().get(&key, object.size).await;
            assert!(read.is_ok() || !reliance.holds(), "a pinned object is gone: {key}");
        }
        let before = shared.clock.since_boot();
        match pin.renew().await {
            Ok(()) => reliance.renew(before),
            Err(StoreError::Absent { .. }) => return,
            Err(e) => panic!("{e:?}"),
        }
    }
    shared.counted.lock().unwrap().restored += 1;
    drop(reliance);
    pin.release().await.unwrap();
}
