//! Worlds for this crate's tests: a memory store behind faults, a clock that stands still, checkpoints of a few bytes.

use std::sync::Arc;
use std::time::Duration;

use godwit_image::manifest::Object;
use godwit_image::{FrameRef, Head, Manifest, PackKind, PackRegistry, PackTable};
use godwit_ownership::{Basis, Entry, Pen, state::Kind};
use godwit_types::{
    CheckpointId, Code, Generation, Incarnation, LineageName, Nonce, OpId, Outcome, Owner, Tenant,
};

use crate::blob::memory::MemoryStore;
use crate::checkpoint::{CommitStage, NewCheckpoint};
use crate::clock::ManualClock;
use crate::error::StoreError;
use crate::store::{Store, TenantStore};
use crate::wrap::Faulty;

/// T of every test.
pub(crate) const HORIZON: Duration = Duration::from_secs(24 * 3600);

pub(crate) struct World {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) faulty: Arc<Faulty>,
    pub(crate) tenant: TenantStore,
}

impl World {
    pub(crate) async fn new() -> Self {
        let clock = Arc::new(ManualClock::new());
        let memory = Arc::new(MemoryStore::with_clock(clock.clone()));
        let faulty = Arc::new(Faulty::new(memory));
        let store = Store::over(faulty.clone(), clock.clone(), HORIZON).await.unwrap();
        Self { clock, faulty, tenant: store.tenant(&Tenant::node()) }
    }
}

pub(crate) fn owner() -> Owner {
    Owner {
        cluster: "_none".to_owned(),
        node: "node-1".to_owned(),
        epoch: 0,
        pod_uid: "default+web".to_owned(),
        incarnation: Incarnation::from(1),
    }
}

pub(crate) fn lineage() -> LineageName {
    LineageName::new("pod/web").unwrap()
}

pub(crate) fn new_checkpoint(parents: &[CheckpointId]) -> NewCheckpoint {
    NewCheckpoint {
        id: CheckpointId::mint(),
        op: OpId::mint(),
        owner: owner(),
        lineage: lineage(),
        parents: parents.to_vec(),
    }
}

pub(crate) fn manifest(
    new: &NewCheckpoint,
    parent: Option<CheckpointId>,
    objects: Vec<Object>,
) -> Manifest {
    let mut objects = objects;
    objects.sort_by(|a, b| a.key.cmp(&b.key));
    Manifest {
        id: new.id,
        lineage: new.lineage.clone(),
        generation: Generation(0),
        parent,
        op: new.op,
        outcome: Outcome::Run,
        objects,
        ..godwit_image::fixture::manifest()
    }
}

/// Writes everything of a checkpoint but its entry: one pack with one frame, and all that the parent names.
pub(crate) async fn store_checkpoint(
    tenant: &TenantStore,
    new: &NewCheckpoint,
) -> Result<(CommitStage, FrameRef), StoreError> {
    let stage = tenant.begin(new.clone()).await?;
    let parent = stage.parent().cloned();
    let registry = PackRegistry::new(new.id, PackTable::default());
    let sink = stage.sink();
    let mut writer = registry.writer(PackKind::Data, sink).unwrap();
    let frame = writer.write(new.id.to_string().as_bytes()).unwrap();
    if let Err(error) = writer.finish() {
        assert_eq!(error.code(), Code::Cancelled, "{error:?}");
        return Err(StoreError::TooOld { limit: HORIZON / 2 });
    }
    let stage = stage.close().await?;
    let packs = registry.table();
    let head = Head { packs: packs.clone(), ..Head::default() };
    let stage = stage.head(head.encode().unwrap().bytes).await?;
    let mut objects: Vec<Object> = packs.iter().map(|(_, record)| Object::pack(record)).collect();
    objects.push(stage.head_object().clone());
    for inherited in parent.iter().flat_map(|p| p.packs()) {
        objects.push(inherited.1.clone());
    }
    let parent = parent.map(|p| p.id);
    let stage = stage.manifest(&manifest(new, parent, objects)).await?;
    Ok((stage, frame))
}

/// Appends an entry of this kind; whatever the log says permits it.
pub(crate) async fn append(tenant: &TenantStore, kind: Kind) -> Entry {
    let log = tenant.lineage(&lineage());
    let newest = log.newest().await.unwrap();
    let pen = Pen { me: owner(), op: None, nonce: Nonce::mint(), at_ms: 0 };
    let entry = Basis::of(newest.as_ref()).next(&pen, kind).unwrap();
    assert_eq!(log.append(&entry).await.unwrap(), crate::Creation::Created);
    entry
}

/// A checkpoint that exists.
pub(crate) async fn committed(tenant: &TenantStore, parents: &[CheckpointId]) -> CheckpointId {
    let new = new_checkpoint(parents);
    let (stage, _) = store_checkpoint(tenant, &new).await.unwrap();
    if tenant.lineage(&lineage()).newest().await.unwrap().is_none() {
        append(tenant, Kind::Start { forked_from: None }).await;
    }
    append(tenant, Kind::Checkpoint { checkpoint: new.id }).await;
    stage.committed().await.unwrap();
    new.id
}
