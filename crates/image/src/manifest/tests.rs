use super::*;
use crate::{PackKind, PackName};
use godwit_types::{Bytes, PackIndex};

/// A manifest with something in every field.
pub(crate) fn sample() -> Manifest {
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
            path: None,
            claim_uid: Some("c-1".to_owned()),
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

#[test]
fn a_manifest_reads_back_and_begins_with_its_format() {
    let manifest = sample();
    let bytes = manifest.encode().unwrap();
    assert!(bytes.starts_with(b"{\n  \"format\": \"godwit.checkpoint/1\""));
    assert_eq!(Manifest::decode(&bytes), Ok(manifest));
}

#[test]
fn unknown_fields_are_ignored_and_a_newer_format_is_named() {
    let mut json: serde_json::Value = serde_json::to_value(sample()).unwrap();
    json["flavour"] = "new".into();
    json["compat"]["moon"] = 1.into();
    assert_eq!(Manifest::decode(json.to_string().as_bytes()), Ok(sample()));
    let newer = br#"{"format": "godwit.checkpoint/2", "id": 5}"#;
    assert!(matches!(Manifest::decode(newer), Err(ImageError::Version { found: 2, .. })));
    let other = br#"{"format": "something else"}"#;
    assert_eq!(Manifest::decode(other), Err(ImageError::Magic { what: "manifest" }));
    assert!(matches!(Manifest::decode(b"{"), Err(ImageError::Json { .. })));
}

#[test]
fn rules_that_a_hostile_manifest_would_break_are_checked() {
    type Break = fn(&mut Manifest);
    let breaks: [(&str, Break); 9] = [
        ("no head", |m| m.objects.retain(|o| !o.key.ends_with("head"))),
        ("leaves the prefix", |m| m.objects[0].key = "../../x".to_owned()),
        ("another's head", |m| m.objects[0].key = head_key(CheckpointId::from(1))),
        ("unsorted", |m| m.objects.reverse()),
        ("twice", |m| m.objects.insert(0, m.objects[0].clone())),
        ("huge pack", |m| m.objects[0].size = 1 << 40),
        ("same name", |m| m.containers.push(m.containers[0].clone())),
        ("outside the head", |m| m.containers[0].head.offset = u64::MAX),
        ("page size", |m| m.compat.page_size = 4095),
    ];
    for (what, break_it) in breaks {
        let mut manifest = sample();
        break_it(&mut manifest);
        assert!(manifest.validate().is_err(), "{what}");
        let bytes = serde_json::to_vec(&manifest).unwrap();
        assert!(Manifest::decode(&bytes).is_err(), "{what}");
    }
}

#[test]
fn a_manifest_that_no_reader_would_take_is_not_written() {
    let mut manifest = sample();
    manifest.source.pod = "p".repeat(MAX_MANIFEST_BYTES);
    let refused = manifest.encode().unwrap_err();
    assert!(matches!(refused, ImageError::Limit { what: "manifest", .. }), "{refused}");
}

#[test]
fn packs_are_told_from_the_head() {
    let manifest = sample();
    let packs: Vec<String> = manifest.packs().map(|(name, _)| name.to_string()).collect();
    assert_eq!(packs.len(), 2);
    assert!(packs.iter().all(|p| p.contains("/packs/")));
    assert!(manifest.head().is_some());
}
