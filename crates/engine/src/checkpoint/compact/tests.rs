//! Increments in a store, as checkpoints make them, without processes: pages come from the test.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use godwit_capture::{Assembled, MemoryStats, Stop};
use godwit_files::{FileIndex, FileStats};
use godwit_image::manifest::{ByteRange, Object};
use godwit_image::{
    ContainerHead, FrameRef, FrameSource as _, Head, Manifest, PackKind, PackRegistry, PackSink,
    PageMap, PageRun, PageSource, Space, SpaceHead,
};
use godwit_store::blob::memory::MemoryStore;
use godwit_store::{Key, PackStage, Store, SystemClock, TenantStore};
use godwit_types::{
    CheckpointId, Incarnation, LineageName, OpId, Owner, PageNumber, PageRange, Tenant,
};

use super::super::memory::Seen;
use super::super::parent::new_checkpoint;
use super::super::record::settle;
use super::*;

const GOLDEN: &[u8] = include_bytes!("../../../../image/tests/golden/v1/manifest.json");
const PAGE: usize = 4096;
const PAGES: u64 = 512;
const TASK: Space = Space::Task(1);

/// A page that does not compress.
fn page(number: u64, version: u8) -> Vec<u8> {
    let mut state = number << 8 | u64::from(version) | 1 << 40;
    let word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(word).take(PAGE / 8).flatten().collect()
}

/// Writes these pages, 32 to a frame; gives their places.
fn write(
    packs: &Arc<PackRegistry>,
    sink: Arc<dyn PackSink>,
    pages: &[(u64, u8)],
) -> (Vec<PageRun>, u64) {
    let mut writer = packs.writer(PackKind::Data, sink).unwrap();
    let mut runs = Vec::new();
    for group in pages.chunks(32) {
        let raw: Vec<u8> = group.iter().flat_map(|(n, version)| page(*n, *version)).collect();
        let frame = writer.write(&raw).unwrap();
        let places = (0..).zip(group);
        runs.extend(
            places
                .map(|(at, (n, _))| PageRun::stored(PageRange::new(PageNumber(*n), 1), frame, at)),
        );
    }
    let stored = writer.stored();
    writer.finish().unwrap();
    (runs, stored)
}

/// A tenant in memory.
struct World {
    tenant: TenantStore,
    sample: Manifest,
}

/// A checkpoint on its way.
struct Begun {
    id: CheckpointId,
    op: OpId,
    stage: PackStage,
    packs: Arc<PackRegistry>,
    earlier: Option<Arc<Earlier>>,
    assembled: Assembled,
}

impl World {
    async fn new() -> Self {
        let horizon = Duration::from_secs(24 * 3600);
        let blobs = Arc::new(MemoryStore::new());
        let store = Store::over(blobs, Arc::new(SystemClock), horizon).await.unwrap();
        Self { tenant: store.tenant(&Tenant::node()), sample: Manifest::decode(GOLDEN).unwrap() }
    }

    fn lineage() -> LineageName {
        LineageName::new("pod/web").unwrap()
    }

    /// Begins a checkpoint and stores these pages over those of the parent.
    async fn begin(&self, parent: Option<CheckpointId>, changed: &[(u64, u8)]) -> Begun {
        let owner = Owner {
            cluster: "_none".to_owned(),
            node: "node-1".to_owned(),
            epoch: 0,
            pod_uid: "default+web".to_owned(),
            incarnation: Incarnation::from(1),
        };
        let (id, op, parents) = (CheckpointId::mint(), OpId::mint(), Vec::from_iter(parent));
        let new = new_checkpoint(id, op, owner, Self::lineage(), parents);
        let mut stage = self.tenant.begin(new).await.unwrap();
        let earlier = stage.take_parent().map(|parent| Arc::new(Earlier::new(parent)));
        let table = earlier.as_ref().map(|e| e.packs().clone()).unwrap_or_default();
        let packs = PackRegistry::new(id, table);
        let before = earlier.as_ref().and_then(|e| e.of("web")).map(|p| p.spaces.clone());
        let mut spaces = before.unwrap_or_else(|| BTreeMap::from([(TASK, SpaceHead::default())]));
        let (runs, stored) = write(&packs, stage.sink(), changed);
        let map: &mut PageMap = &mut spaces.get_mut(&TASK).unwrap().map;
        runs.into_iter().for_each(|run| map.insert(run));
        let stats = MemoryStats { stored, ..MemoryStats::default() };
        Begun { id, op, stage, packs, earlier, assembled: Assembled { spaces, stats } }
    }

    /// Stores head and manifest; gives the keys of all objects that it names.
    async fn finish(&self, begun: Begun) -> Manifest {
        let Begun { id, op, stage, packs, earlier, assembled } = begun;
        let stage = stage.close().await.unwrap();
        let web = ContainerHead {
            name: "web".to_owned(),
            spaces: assembled.spaces,
            ..ContainerHead::default()
        };
        let mut head = Head { packs: packs.table(), containers: vec![web], ..Head::default() };
        let mut objects = settle(&mut head, &[]);
        let stage = stage.head(head.encode().unwrap().bytes).await.unwrap();
        objects.push(stage.head_object().clone());
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        let mut manifest = Manifest { id, op, objects, ..self.sample.clone() };
        manifest.lineage = Self::lineage();
        manifest.parent = earlier.map(|e| e.id);
        manifest.containers[0].head = ByteRange { offset: 0, length: 1 };
        stage.manifest(&manifest).await.unwrap();
        manifest
    }

    /// Every page, through head and packs.
    async fn read_back(&self, id: CheckpointId) -> BTreeMap<u64, Vec<u8>> {
        let reader = self.tenant.open_checkpoint(id).await.unwrap();
        let head = reader.head().await.unwrap();
        let frames = reader.frame_source(Arc::new(head.packs.clone()));
        let read = move || {
            let mut out = BTreeMap::new();
            for run in head.containers[0].spaces[&TASK].map.runs() {
                let (frame, offset) = run.source.frame_offset().unwrap();
                let raw = frames.frame(frame).unwrap();
                let bytes = raw[offset..].chunks_exact(PAGE);
                let pages = (run.range.first.0..run.range.end().0).zip(bytes);
                out.extend(pages.map(|(n, bytes)| (n, bytes.to_vec())));
            }
            out
        };
        tokio::task::spawn_blocking(read).await.unwrap()
    }

    async fn lose(&self, object: &Object) {
        let key = format!("t/{}/checkpoints/{}", self.tenant.tenant(), object.key);
        self.tenant.store().blobs().delete(&Key::new(key).unwrap()).await.unwrap();
    }
}

/// Compacts as a checkpoint does after the thaw.
async fn compacted(mut begun: Begun, files: Option<godwit_files::Captured>) -> (Begun, Compacted) {
    let work = move || {
        let (packs, sink) = (Arc::clone(&begun.packs), begun.stage.sink());
        let budget = Bytes(1 << 30);
        let capture = Capture::plan(Seen::default(), budget, false, packs, sink, Stop::new());
        let (mut others, mut stored) = (FrameUsage::default(), begun.assembled.stats.stored);
        if let Some(files) = files {
            files.index.count_usage(&mut others);
            stored += files.stats.stored.0;
        }
        let earlier = begun.earlier.clone().unwrap();
        let spaces = begun.assembled.spaces.values_mut().collect();
        let done = rewrite(&capture.unwrap(), spaces, &others, Bytes(stored), &earlier).unwrap();
        begun.assembled.stats.stored += done.stored;
        (begun, done)
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn all(version: u8) -> Vec<(u64, u8)> {
    (0..PAGES).map(|n| (n, version)).collect()
}

/// All pages but one of each of the parent's frames.
fn nearly_all(version: u8) -> Vec<(u64, u8)> {
    all(version).into_iter().filter(|(n, _)| n % 32 != 5).collect()
}

fn expected(pages: impl IntoIterator<Item = (u64, u8)>) -> BTreeMap<u64, Vec<u8>> {
    pages.into_iter().map(|(n, version)| (n, page(n, version))).collect()
}

fn frames_of(begun: &Begun, from: Range<u64>) -> Vec<FrameRef> {
    let range = PageRange::new(PageNumber(from.start), from.end - from.start);
    let runs = begun.assembled.spaces[&TASK].map.runs_within(range);
    runs.filter_map(|run| match run.source {
        PageSource::Stored { frame, .. } => Some(frame),
        PageSource::Zero => None,
    })
    .collect()
}

fn of(manifest: &Manifest, id: CheckpointId) -> Vec<&Object> {
    manifest.objects.iter().filter(|o| o.key.starts_with(&format!("{id}/packs"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_rewritten_pack_of_the_parent_is_named_no_longer_and_every_page_is_right() {
    let world = World::new().await;
    let first = world.finish(world.begin(None, &all(1)).await).await;
    let begun = world.begin(Some(first.id), &nearly_all(2)).await;
    let stored = begun.assembled.stats.stored;
    let (begun, done) = compacted(begun, None).await;
    assert_eq!((done.frames, done.pages, done.left), (PAGES / 32, PAGES / 32, 0));
    assert!(done.stored > 0 && done.stored <= stored / 10);
    assert_eq!(begun.assembled.stats.stored, stored + done.stored, "it is counted");
    assert!(begun.stage.accepted_bytes() >= begun.assembled.stats.stored, "and sent");
    let second = world.finish(begun).await;
    assert_eq!((of(&first, first.id).len(), of(&second, first.id).len()), (1, 0));
    let mut pages = expected(all(1));
    pages.extend(expected(nearly_all(2)));
    assert_eq!(world.read_back(second.id).await, pages);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_pack_that_is_lost_is_left_as_it_is_and_the_checkpoint_goes_on() {
    let world = World::new().await;
    let first = world.finish(world.begin(None, &all(1)).await).await;
    let begun = world.begin(Some(first.id), &nearly_all(2)).await;
    world.lose(of(&first, first.id)[0]).await;
    let before = begun.assembled.spaces.clone();
    let (begun, done) = compacted(begun, None).await;
    assert_eq!(done, Compacted { left: PAGES / 32, ..Compacted::default() });
    assert_eq!(begun.assembled.spaces, before);
    let second = world.finish(begun).await;
    assert_eq!(of(&second, first.id), of(&first, first.id), "it is still referred to");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn frames_of_files_stay_and_what_files_stored_is_a_part_of_the_increment() {
    let world = World::new().await;
    let first = world.finish(world.begin(None, &all(1)).await).await;
    let begun = world.begin(Some(first.id), &all(2)[..PAGES as usize / 2 - 32]).await;
    let kept = frames_of(&begun, PAGES - 1..PAGES);
    let index = FileIndex { frames: kept.clone(), ..FileIndex::default() };
    let stats = FileStats { stored: Bytes(100 << 20), ..FileStats::default() };
    // Well used frames of a pack that is not sparse: there is nothing to do, however much room there is.
    let files = godwit_files::Captured { index, stats };
    let (mut begun, done) = compacted(begun, Some(files.clone())).await;
    assert_eq!(done, Compacted::default());
    // Two pages of every frame are used, and memory alone stored nothing: only files make room.
    let map = &mut begun.assembled.spaces.get_mut(&TASK).unwrap().map;
    (0..PAGES).filter(|n| n % 16 > 0).for_each(|n| map.remove(PageRange::new(PageNumber(n), 1)));
    begun.assembled.stats.stored = 0;
    let (begun, done) = compacted(begun, Some(files)).await;
    assert_eq!((done.frames, done.left), (8, 0));
    assert_eq!(frames_of(&begun, PAGES - 16..PAGES), kept);
}
