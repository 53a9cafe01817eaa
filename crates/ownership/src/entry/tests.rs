use godwit_types::{CheckpointId, Generation, Incarnation, Nonce, Owner, Seq};

use super::{Basis, Entry, MAX_ENTRY, Pen};
use crate::OwnershipError;
use crate::fence::{Asked, Fence, Gone};
use crate::state::{Kind, Recipient, State};

fn pen() -> Pen {
    let me = Owner {
        cluster: "_none".to_owned(),
        node: "node-1".to_owned(),
        epoch: 0,
        pod_uid: "default+web".to_owned(),
        incarnation: Incarnation::from(1),
    };
    Pen { me, op: Some(2.into()), nonce: Nonce::from(3), at_ms: 1_700_000_000_000 }
}

fn offer() -> Entry {
    let start = Basis::default().next(&pen(), Kind::Start { forked_from: None }).unwrap();
    let to = Some(Recipient { node: Some("node-2".to_owned()), ..Recipient::default() });
    let kind = Kind::Offer { checkpoint: CheckpointId::from(9), to };
    Basis::of(Some(&start)).next(&pen(), kind).unwrap()
}

/// Written by an earlier build: never edited, always readable.
const GOLDEN: &str = r#"{"format":"godwit.entry/1","seq":2,"nonce":"00000000000000000000000003","op":"00000000000000000000000002","kind":"offer","checkpoint":"00000000000000000000000009","to":{"node":"node-2"},"state":{"is":"offered","owner":{"cluster":"_none","node":"node-1","epoch":0,"pod_uid":"default+web","incarnation":"00000000000000000000000001"},"checkpoint":"00000000000000000000000009","to":{"node":"node-2"},"good":["00000000000000000000000009"]},"generation":0,"by":{"cluster":"_none","node":"node-1","epoch":0,"pod_uid":"default+web","incarnation":"00000000000000000000000001"},"at_ms":1700000000000}"#;

const GOLDEN_FENCE: &str = r#"{"format":"godwit.fence/1","store":"default","tenant":"_node","lineage":"pod/web","incarnation":"00000000000000000000000001","state":"armed","op":"00000000000000000000000002","lived":true,"slot":2,"gone":"lost"}"#;

#[test]
fn an_entry_is_written_as_it_always_was() {
    assert_eq!(String::from_utf8(offer().encode().unwrap()).unwrap(), GOLDEN);
    assert_eq!(Entry::decode(GOLDEN.as_bytes()).unwrap(), offer());
}

#[test]
fn a_fence_is_written_as_it_always_was() {
    let fence = Fence::decode(GOLDEN_FENCE.as_bytes()).unwrap();
    assert_eq!((fence.slot, fence.gone), (Some(Seq(2)), Some(Gone::Lost)));
    assert_eq!(String::from_utf8(fence.encode().unwrap()).unwrap(), GOLDEN_FENCE);
}

#[test]
fn a_fence_remembers_the_request_that_its_life_began_with() {
    for (asked, json) in [
        (Asked::RestoreFrom(None), r#"{"restore_from":null}"#),
        (Asked::ForkFrom(9.into()), r#"{"fork_from":"00000000000000000000000009"}"#),
    ] {
        let mut fence = Fence::decode(GOLDEN_FENCE.as_bytes()).unwrap();
        assert_eq!(fence.consumed, None);
        fence.consumed = Some(asked);
        let bytes = fence.encode().unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(text.contains(&format!("\"consumed\":{json}")), "{text}");
        assert_eq!(Fence::decode(&bytes).unwrap(), fence);
    }
}

#[test]
fn unknown_fields_are_ignored_and_unknown_formats_are_not() {
    let more = GOLDEN.replacen("\"seq\"", "\"colour\":\"red\",\"seq\"", 1);
    assert_eq!(Entry::decode(more.as_bytes()).unwrap(), offer());
    let later = GOLDEN.replacen("entry/1", "entry/2", 1);
    let error = Entry::decode(later.as_bytes()).unwrap_err();
    assert!(matches!(error, OwnershipError::Format { .. }), "{error}");
}

#[test]
fn an_entry_that_is_too_long_is_neither_read_nor_written() {
    let padded = format!("{GOLDEN}{}", " ".repeat(MAX_ENTRY));
    let error = Entry::decode(padded.as_bytes()).unwrap_err();
    assert!(matches!(error, OwnershipError::TooLong { .. }), "{error}");
    let mut entry = offer();
    entry.by.node = "n".repeat(MAX_ENTRY);
    assert!(entry.encode().is_err());
}

#[test]
fn an_entry_with_too_many_points_is_not_believed() {
    let point = "\"00000000000000000000000009\"";
    let many = [point; 9].join(",");
    let long = GOLDEN.replacen(&format!("[{point}]"), &format!("[{many}]"), 1);
    assert!(Entry::decode(long.as_bytes()).is_err());
}

#[test]
fn a_slot_is_ours_by_nonce_and_kind() {
    let (tried, mut other) = (offer(), offer());
    assert!(other.is_attempt(&tried));
    other.kind = Kind::Reclaim;
    assert!(other.same_writer(&tried) && !other.is_attempt(&tried));
    other.nonce = Nonce::from(4);
    assert!(!other.same_writer(&tried));
}

#[test]
fn a_take_over_raises_the_generation_and_nothing_else_does() {
    let mut basis = Basis::of(Some(&offer()));
    let State::Offered { checkpoint, .. } = basis.state else { panic!("{basis:?}") };
    let mut target = pen();
    target.me.node = "node-2".to_owned();
    let kind = Kind::TakeOver { checkpoint, word: crate::state::Word::Owner };
    let taken = basis.next(&target, kind).unwrap();
    assert_eq!(taken.generation, Generation(1));
    basis = Basis::of(Some(&taken));
    assert_eq!(basis.next(&target, Kind::Reclaim).unwrap().generation, Generation(1));
}

#[test]
fn a_fence_fits_no_log_that_is_shorter_than_what_it_has_seen() {
    let mut fence = Fence::decode(GOLDEN_FENCE.as_bytes()).unwrap();
    assert!(!fence.fits(Seq(0)) && fence.fits(Seq(1)));
    (fence.slot, fence.seen) = (Some(Seq(1)), None);
    assert!(fence.fits(Seq(0)), "a first entry that may not have landed");
    fence.seen = Some(Seq(1));
    assert!(!fence.fits(Seq(0)) && fence.fits(Seq(1)));
    assert_eq!(Fence::decode(&fence.encode().unwrap()).unwrap(), fence);
}
