//! For this crate's tests: a store in memory, and checkpoints of a few frames in it.

use std::sync::Arc;
use std::time::Duration;

use godwit_image::manifest::Object;
use godwit_image::{FrameRef, Head, Manifest, PackKind, PackRegistry, PackTable};
use godwit_store::blob::memory::MemoryStore;
use godwit_store::{CommitStage, NewCheckpoint, Store, SystemClock, TenantStore};
use godwit_types::{CheckpointId, Generation, Incarnation, LineageName, OpId, Owner, Tenant};

/// The part of a new store that tests use.
pub(crate) async fn tenant() -> TenantStore {
    let (blobs, clock) = (Arc::new(MemoryStore::new()), Arc::new(SystemClock));
    let store = Store::over(blobs, clock, Duration::from_secs(24 * 3600)).await.unwrap();
    store.tenant(&Tenant::node())
}

/// A pod of this node.
pub(crate) fn owner(node: &str) -> Owner {
    Owner {
        cluster: "_none".to_owned(),
        node: node.to_owned(),
        epoch: 0,
        pod_uid: "default+web".to_owned(),
        incarnation: Incarnation::mint(),
    }
}

/// The lineage of every checkpoint here.
pub(crate) fn lineage() -> LineageName {
    LineageName::new("uid/web").unwrap()
}

/// A checkpoint that no entry names yet.
pub(crate) struct Point {
    pub(crate) id: CheckpointId,
    /// What it was asked to hold, in that order.
    pub(crate) frames: Vec<FrameRef>,
    pub(crate) table: Arc<PackTable>,
    /// Its intent stays for as long as it.
    pub(crate) _stage: CommitStage,
}

/// Stores a checkpoint of these frames, in one pack.
pub(crate) async fn point(tenant: &TenantStore, frames: &[Vec<u8>]) -> Point {
    let id = CheckpointId::mint();
    let new = NewCheckpoint {
        id,
        op: OpId::mint(),
        owner: owner("n1"),
        lineage: lineage(),
        parents: Vec::new(),
    };
    let op = new.op;
    let stage = tenant.begin(new).await.unwrap();
    let registry = PackRegistry::new(id, PackTable::default());
    let mut writer = registry.writer(PackKind::Data, stage.sink()).unwrap();
    let frames = frames.iter().map(|raw| writer.write(raw).unwrap()).collect();
    writer.finish().unwrap();
    let stage = stage.close().await.unwrap();
    let packs = registry.table();
    let head = Head { packs: packs.clone(), ..Head::default() };
    let stage = stage.head(head.encode().unwrap().bytes).await.unwrap();
    let mut objects: Vec<Object> = packs.iter().map(|(_, record)| Object::pack(record)).collect();
    objects.push(stage.head_object().clone());
    objects.sort_by(|a, b| a.key.cmp(&b.key));
    let stage = stage.manifest(&manifest(id, op, objects)).await.unwrap();
    Point { id, frames, table: Arc::new(packs), _stage: stage }
}

fn manifest(id: CheckpointId, op: OpId, objects: Vec<Object>) -> Manifest {
    Manifest {
        id,
        lineage: lineage(),
        generation: Generation(0),
        parent: None,
        op,
        objects,
        ..godwit_image::fixture::manifest()
    }
}
