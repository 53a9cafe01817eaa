//! The values that the golden files of version 1 hold. Never changed: a new version gets values and files of its own.
// Used by a test and by the example that wrote the files: a failure is a failed test.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use godwit_image::manifest::{
    ByteRange, Compat, Container, FORMAT, Network, Object, Source, TcpMode, Volume, VolumeMode,
};
use godwit_image::{
    BlockNumber, ContainerHead, Digest, DigestBlock, DigestIndex, FinishedPack, FrameRef, Head,
    Manifest, PackKind, PackRegistry, PackSink, PackSlot, PackTable, PageDigest, PageMap, PageRun,
    SinkError, Space, SpaceHead,
};
use godwit_types::{
    Bytes, CheckpointId, Generation, LineageName, OpId, Outcome, PageNumber, PageRange, Sizes,
    Tenant,
};

/// The checkpoint that all of it belongs to.
pub(crate) fn id() -> CheckpointId {
    CheckpointId::from(0x018b_cfe5_687b_0000_0000_0000_0000_0002)
}

/// Raw bytes of the frames of the pack: one that compresses, one that does not, a short one.
pub(crate) fn frames() -> [Vec<u8>; 3] {
    let noise = (0u32..8192).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8);
    [vec![7; 32 * 4096], noise.collect(), b"part of a file".to_vec()]
}

#[derive(Debug, Default)]
struct Shelf(Mutex<Vec<FinishedPack>>);

impl PackSink for Shelf {
    fn accept(&self, pack: FinishedPack) -> Result<(), SinkError> {
        self.0.lock().unwrap().push(pack);
        Ok(())
    }
}

/// A pack of these frames, and the pack table with it.
pub(crate) fn pack() -> (FinishedPack, PackTable) {
    let registry = PackRegistry::new(id(), PackTable::default());
    let shelf = Arc::new(Shelf::default());
    let mut writer = registry.writer(PackKind::Data, Arc::clone(&shelf) as _).unwrap();
    for frame in frames() {
        writer.write(&frame).unwrap();
    }
    writer.finish().unwrap();
    let pack = shelf.0.lock().unwrap().pop().unwrap();
    (pack, registry.table())
}

fn frame(frame: u32) -> FrameRef {
    FrameRef { pack: PackSlot(0), frame }
}

fn range(first: u64, count: u64) -> PageRange {
    PageRange::new(PageNumber(first), count)
}

/// Dense, sparse, zero and shared-out-of-order runs.
pub(crate) fn page_map() -> PageMap {
    let far = FrameRef { pack: PackSlot(70_000), frame: 12 };
    [
        PageRun::stored(range(0x400, 32), frame(0), 0),
        PageRun::stored(range(0x420, 2), frame(1), 0),
        PageRun::zero(range(0x500, 1_000_000)),
        PageRun::stored(range(0x7_ffff_fff0, 3), far, 29),
        PageRun::stored(range(0x7_ffff_fff8, 1), frame(0), 31),
    ]
    .into_iter()
    .collect()
}

/// Pages 0, 9 and 255 have digests.
pub(crate) fn digest_block() -> DigestBlock {
    let mut block = DigestBlock::default();
    for page in [0u8, 9, 255] {
        block.set(PageNumber(page.into()), Some(PageDigest([page; 16])));
    }
    block
}

/// Blocks next to each other and far away, in several packs.
pub(crate) fn digest_index() -> DigestIndex {
    let mut index = DigestIndex::default();
    index.insert(BlockNumber(4), frame(2));
    index.insert(BlockNumber(5), frame(3));
    index.insert(BlockNumber(0x7ff_ffff), FrameRef { pack: PackSlot(3), frame: 0 });
    index
}

/// One container with a task and a shared segment.
pub(crate) fn head() -> Head {
    let task = SpaceHead {
        map: page_map(),
        eager: vec![range(0x400, 1), range(0x500, 4)],
        digests: digest_index(),
        ..SpaceHead::default()
    };
    let shmem = SpaceHead {
        map: [PageRun::stored(range(0, 2), frame(1), 0)].into_iter().collect(),
        eager: vec![range(0, 2)],
        ..SpaceHead::default()
    };
    let named = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
    Head {
        packs: pack().1,
        containers: vec![ContainerHead {
            name: "web".to_owned(),
            images: BTreeMap::from([named("core-1.img", &[1; 600]), named("inventory.img", b"x")]),
            spaces: BTreeMap::from([(Space::Task(1), task), (Space::Shmem(77), shmem)]),
            sections: BTreeMap::from([named("config.json", b"{}"), named("files", &[])]),
        }],
        sections: BTreeMap::from([named("network", b"close")]),
    }
}

/// The same with pages that were written last, a section that the first heads of version 1 did not have.
pub(crate) fn head_recent() -> Head {
    let mut head = head();
    for (space, first) in head.containers.iter_mut().flat_map(|c| &mut c.spaces).zip([0x401, 9]) {
        space.1.recent = vec![range(first, 3), range(first + 0x1000, 1)];
    }
    head
}

/// Something in every field that version 1 writes.
pub(crate) fn manifest() -> Manifest {
    let id = id();
    Manifest {
        format: FORMAT.to_owned(),
        id,
        tenant: Tenant::node(),
        lineage: LineageName::new("sts/web.0").unwrap(),
        generation: Generation(4),
        parent: Some(CheckpointId::from(1)),
        op: OpId::from(9),
        created: "2026-11-21T02:00:00.123Z".parse().unwrap(),
        outcome: Outcome::Stop,
        source: Source {
            cluster: "_none".to_owned(),
            node: "node-1".to_owned(),
            pod: "web".to_owned(),
            uid: "default+web".to_owned(),
            template: None,
        },
        containers: vec![Container {
            name: "web".to_owned(),
            image: "localhost/web:1".to_owned(),
            image_digest: "sha256:00".to_owned(),
            spec_digest: Digest([1; 32]),
            processes: 1,
            pages: 1_000_038,
            head: ByteRange { offset: 40, length: 900 },
        }],
        init_done: vec!["setup".to_owned()],
        objects: vec![
            Object { key: format!("{id}/head"), size: 1000, digest: Digest([2; 32]) },
            Object { key: format!("{id}/packs/0000"), size: 8500, digest: Digest([3; 32]) },
        ],
        compat: Compat {
            arch: "x86_64".to_owned(),
            cpu_features: vec!["avx2".to_owned(), "sse4_2".to_owned()],
            xsave_bytes: 2696,
            kernel: "6.18.0".to_owned(),
            criu: "4.2.1".to_owned(),
            page_size: 4096,
            cgroup_version: 2,
            runtime: "runc 1.3.6".to_owned(),
        },
        network: Network { tcp: TcpMode::Close, ips: vec!["10.0.0.7".parse().unwrap()] },
        volumes: vec![Volume {
            name: "data".to_owned(),
            container: None,
            path: None,
            claim_uid: Some("c-1".to_owned()),
            storage: None,
            mode: VolumeMode::ReadWrite,
            snapshot: None,
            diverged: true,
        }],
        encryption: None,
        signature: None,
        sizes: Sizes {
            memory: Bytes(4_096_155_648),
            zero: Bytes(4_096_000_000),
            ..Sizes::default()
        },
        timings: BTreeMap::from([("freeze".to_owned(), 12.5)]),
    }
}
