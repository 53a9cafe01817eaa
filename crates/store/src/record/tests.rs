//! Records as an earlier Godwit wrote them are read for ever, and written so: the files in `tests/golden/` are never edited.

use godwit_types::Incarnation;

use super::*;
use crate::identity::Identity;

fn at() -> Timestamp {
    "2026-11-21T02:00:00.123Z".parse().unwrap()
}

fn owner() -> Owner {
    Owner {
        cluster: "_none".to_owned(),
        node: "node-1".to_owned(),
        epoch: 2,
        pod_uid: "default+web".to_owned(),
        incarnation: Incarnation::from(3),
    }
}

fn intent(parent: Option<CheckpointId>) -> Intent {
    let (op, lineage) = (OpId::from(9), LineageName::new("sts/web.0").unwrap());
    Intent { op, owner: owner(), lineage, parent, at: at() }
}

fn tombstone(reason: TombstoneReason, why: &str) -> Tombstone {
    Tombstone { reason, why: why.to_owned(), at: at() }
}

/// It is read from these bytes, also with a field that nobody knows, and gives these bytes.
fn golden<R: Record + PartialEq + std::fmt::Debug>(record: &R, bytes: &str) {
    let key = Key::new("golden").unwrap();
    assert_eq!(&decode::<R>(&key, bytes.as_bytes()).unwrap(), record);
    assert_eq!(encode(record).unwrap(), bytes);
    let more = bytes.replacen('{', r#"{"of_a_later_version":[1],"#, 1);
    assert_eq!(&decode::<R>(&key, more.as_bytes()).unwrap(), record);
    let newer = bytes.replacen("/1\"", "/2\"", 1);
    let refused = decode::<R>(&key, newer.as_bytes()).unwrap_err();
    assert!(matches!(refused, StoreError::Format { .. }), "{refused:?}");
}

#[test]
fn records_of_version_1_are_read_and_written_as_they_were() {
    let id = Ulid::from(1u128);
    let store = Identity { id, created: at(), horizon_seconds: 86_400 };
    golden(&store, include_str!("../../tests/golden/v1/godwit.json"));
    let parent = Some(CheckpointId::from(4));
    golden(&intent(parent), include_str!("../../tests/golden/v1/intent.json"));
    golden(&intent(None), include_str!("../../tests/golden/v1/intent_alone.json"));
    let pin = PinRecord { op: OpId::from(9), owner: owner(), at: at() };
    golden(&pin, include_str!("../../tests/golden/v1/pin.json"));
    let deleted = tombstone(TombstoneReason::Deleted, "deleted by a person");
    golden(&deleted, include_str!("../../tests/golden/v1/tombstone.json"));
    let forced = tombstone(TombstoneReason::Forced, "deleted by force");
    golden(&forced, include_str!("../../tests/golden/v1/tombstone_forced.json"));
    let orphan = tombstone(TombstoneReason::Orphan, "no entry of its lineage commits it");
    golden(&orphan, include_str!("../../tests/golden/v1/tombstone_orphan.json"));
    let withdrawn = tombstone(TombstoneReason::Withdrawn, "an entry commits it after all");
    golden(&withdrawn, include_str!("../../tests/golden/v1/tombstone_withdrawn.json"));
    let hold = Hold { who: "ann".to_owned(), why: "audit".to_owned(), at: at() };
    golden(&hold, include_str!("../../tests/golden/v1/hold.json"));
    let keys = ["head", "packs/0000"];
    let keys = keys.map(|part| format!("t/_node/checkpoints/{}/{part}", CheckpointId::from(4)));
    let keys = keys.into_iter().map(|key| Key::new(key).unwrap()).collect();
    let candidates = Candidates { sweep: Ulid::from(5u128), keys };
    golden(&candidates, include_str!("../../tests/golden/v1/candidates.json"));
}
