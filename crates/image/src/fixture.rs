//! For the tests of this crate and of those above it, which enable the feature `fixture`.

use std::collections::BTreeMap;

use godwit_types::{
    Bytes, CheckpointId, Generation, LineageName, OpId, Outcome, PackIndex, Sizes, Tenant,
};
use jiff::Timestamp;

use crate::manifest::{
    ByteRange, Compat, Container, FORMAT, Network, Object, Source, TcpMode, Volume, VolumeMode,
};
use crate::{Digest, Manifest, PackKind, PackName};

/// A manifest with something in every field. Tests replace what they are about.
///
/// # Panics
/// Never: its names are valid.
#[must_use]
#[expect(clippy::unwrap_used, reason = "constants, in tests only")]
pub fn manifest() -> Manifest {
    let id = CheckpointId::from(2);
    let parent = CheckpointId::from(1);
    let pack = |checkpoint, n| Object {
        key: PackName { checkpoint, kind: PackKind::Data, index: PackIndex(n) }.to_string(),
        size: 1 << 20,
        digest: Digest::of(&[n as u8]),
    };
    let mut objects = vec![Object::head(id, b"head"), pack(parent, 3), pack(id, 0)];
    objects.sort_by(|a, b| a.key.cmp(&b.key));
    Manifest {
        format: FORMAT.to_owned(),
        id,
        tenant: Tenant::node(),
        lineage: LineageName::new("sts/web.0").unwrap(),
        generation: Generation(4),
        parent: Some(parent),
        op: OpId::from(9),
        created: Timestamp::from_millisecond(1_700_000_000_123).unwrap(),
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
            spec_digest: Digest::of(b"spec"),
            processes: 3,
            pages: 77,
            head: ByteRange { offset: 0, length: 4 },
        }],
        init_done: vec!["setup".to_owned()],
        objects,
        compat: Compat {
            arch: "x86_64".to_owned(),
            cpu_features: vec!["avx2".to_owned()],
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
        sizes: Sizes { memory: Bytes(1 << 30), ..Default::default() },
        timings: BTreeMap::from([("freeze".to_owned(), 12.5)]),
    }
}
