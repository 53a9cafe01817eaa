use super::*;
use crate::fixture::manifest as sample;

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
