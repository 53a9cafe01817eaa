//! Entries and fences as an earlier Godwit wrote them are read for ever and written so: the files in `golden/` are never edited.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test all through.

use std::collections::BTreeSet;

use godwit_ownership::fence::{Asked, Fence, FenceState, Gone, LineageRef};
use godwit_ownership::state::{ColdReason, Fork, Kind, Recipient, StoppedTasks, Word};
use godwit_ownership::{Basis, Entry, Pen, fold};
use godwit_types::{CheckpointId, Incarnation, Nonce, OpId, Owner, Seq, Tenant};

/// The files whose name begins so, in the order of their names.
fn golden(prefix: &str) -> Vec<(String, String)> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1");
    let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap());
    let named = files.map(|file| (file.file_name().into_string().unwrap(), file.path()));
    let mut named: Vec<_> = named.filter(|(name, _)| name.starts_with(prefix)).collect();
    named.sort();
    named.into_iter().map(|(name, path)| (name, std::fs::read_to_string(path).unwrap())).collect()
}

fn owner(node: u8, life: u128, epoch: u64) -> Owner {
    Owner {
        cluster: "_none".to_owned(),
        node: format!("node-{node}"),
        epoch,
        pod_uid: "default+web".to_owned(),
        incarnation: Incarnation::from(life),
    }
}

fn point(n: u128) -> CheckpointId {
    CheckpointId::from(100 + n)
}

fn offer(n: u128, to: Option<Recipient>) -> Kind {
    Kind::Offer { checkpoint: point(n), to }
}

fn stop(n: u128, tasks: StoppedTasks) -> Kind {
    Kind::Stop { checkpoint: point(n), tasks }
}

fn take(n: u128, word: Word) -> Kind {
    Kind::TakeOver { checkpoint: point(n), word }
}

fn cold(reason: ColdReason, lived_s: Option<u64>) -> Kind {
    Kind::Cold { container: "web".to_owned(), reason, lived_s }
}

/// One log with every kind, every state, and every reason.
fn wishes() -> Vec<(Owner, Kind)> {
    use ColdReason::*;
    use StoppedTasks::{Dead, Sealed};
    let (n1, n2) = (owner(1, 1, 0), owner(2, 2, 0));
    let (n1b, n1c, n2b) = (owner(1, 4, 0), owner(1, 5, 0), owner(2, 3, 1));
    let some = |text: &str| Some(text.to_owned());
    let [cluster, node, pod_uid] = ["_none", "node-2", "default+web"].map(some);
    let to = Some(Recipient { cluster, node, pod_uid });
    let to_node = Some(Recipient { node: some("node-1"), ..Recipient::default() });
    let force = Word::Force { who: "ann".to_owned(), why: "node-2 burned".to_owned() };
    let evidence = Word::Evidence { node: "node-1".to_owned(), lease_seq: 7 };
    let fork = Fork { lineage: "sts/db.0".parse().unwrap(), checkpoint: point(6) };
    vec![
        (n1.clone(), Kind::Start { forked_from: None }),
        (n1.clone(), Kind::Checkpoint { checkpoint: point(1) }),
        (n1.clone(), offer(2, to)),
        (n1.clone(), Kind::Reclaim),
        (n1.clone(), offer(3, None)),
        (n2.clone(), take(3, Word::Owner)),
        (n2b.clone(), Kind::Resume),
        (n2b, stop(4, Sealed)),
        (n1b.clone(), take(4, Word::Owner)),
        (n1b.clone(), cold(Crashed, Some(5))),
        (n1b.clone(), cold(Exited, None)),
        (n1b, cold(FirstStart, None)),
        (n1c.clone(), cold(SandboxLost, Some(7200))),
        (n1c.clone(), stop(3, Dead)),
        (n1c.clone(), cold(PointMissing, None)),
        (n1c, stop(2, Dead)),
        (n2.clone(), cold(CannotRestore, None)),
        (n2.clone(), stop(2, Dead)),
        (n2.clone(), cold(RestoreNever, None)),
        (n1.clone(), take(2, force)),
        (n2.clone(), take(1, evidence)),
        (n2.clone(), offer(5, to_node)),
        (n2.clone(), stop(5, Dead)),
        (n2.clone(), Kind::Reclaim),
        (n2, Kind::End),
        (n1, Kind::Start { forked_from: Some(fork) }),
        (
            owner(2, 6, 0),
            Kind::StartOver { who: "ann".to_owned(), why: "node-1 burned".to_owned() },
        ),
    ]
}

fn log() -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for (n, (me, kind)) in (1_u64..).zip(wishes()) {
        let op = (kind != Kind::End).then(|| OpId::from(300 + u128::from(n)));
        let nonce = Nonce::from(200 + u128::from(n));
        let pen = Pen { me, op, nonce, at_ms: 1_700_000_000_000 + 1000 * n };
        entries.push(Basis::of(entries.last()).next(&pen, kind).unwrap());
    }
    entries
}

#[test]
fn entries_of_every_kind_and_state_are_read_and_written_as_they_were() {
    let (log, files) = (log(), golden("entry_"));
    assert_eq!(log.len(), files.len());
    let mut seen = BTreeSet::new();
    for (entry, (name, bytes)) in log.iter().zip(&files) {
        let (seq, kind, state) = (entry.seq.0, entry.kind.word(), entry.state.word());
        assert_eq!(name, &format!("entry_{seq:02}_{kind}_{state}.json"));
        assert_eq!(&String::from_utf8(entry.encode().unwrap()).unwrap(), bytes, "{name}");
        assert_eq!(&Entry::decode(bytes.as_bytes()).unwrap(), entry, "{name}");
        seen.insert((kind, state));
    }
    let all = [
        ("checkpoint", "owned"),
        ("cold", "owned"),
        ("end", "ended"),
        ("offer", "offered"),
        ("reclaim", "owned"),
        ("resume", "owned"),
        ("start", "owned"),
        ("start-over", "owned"),
        ("stop", "stopped"),
        ("take-over", "owned"),
    ];
    assert_eq!(seen, all.into(), "the state that each kind leads to");
}

#[test]
fn a_log_of_version_1_is_still_permitted_and_means_the_same() {
    let read: Vec<Entry> = golden("entry_")
        .iter()
        .map(|(_, bytes)| Entry::decode(bytes.as_bytes()).unwrap())
        .collect();
    assert_eq!(Some(&fold(&read).unwrap()), read.last().map(|entry| &entry.state));
}

#[test]
fn fences_are_read_and_written_as_they_were() {
    let files = golden("fence_");
    let at = LineageRef {
        store: "default".to_owned(),
        tenant: Tenant::node(),
        lineage: "pod/web".parse().unwrap(),
    };
    let owned = Fence {
        at,
        incarnation: Incarnation::from(1),
        state: FenceState::Owned,
        op: None,
        lived: true,
        consumed: None,
        slot: Some(Seq(1)),
        seen: Some(Seq(1)),
        gone: None,
    };
    let of = |slot: u64, seen: Option<u64>| Fence {
        slot: Some(Seq(slot)),
        seen: seen.map(Seq),
        ..owned.clone()
    };
    let (op, from) = (Some(OpId::from(2)), Some(Asked::RestoreFrom(Some(point(3)))));
    let (fork, latest) = (Some(Asked::ForkFrom(point(6))), Some(Asked::RestoreFrom(None)));
    let fences = [
        Fence { state: FenceState::Armed, op, consumed: from, ..of(8, Some(7)) },
        Fence { gone: Some(Gone::Wanted), ..of(24, None) },
        Fence { state: FenceState::Moved, gone: Some(Gone::Lost), ..of(5, None) },
        owned.clone(),
        Fence { op, lived: false, consumed: fork, ..of(26, Some(26)) },
        Fence { op, consumed: latest, ..of(6, Some(6)) },
    ];
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    let expected = ["armed", "ended", "moved", "owned", "owned_forked", "owned_restored"];
    assert_eq!(names, expected.map(|name| format!("fence_{name}.json")));
    for (fence, (name, bytes)) in fences.iter().zip(&files) {
        assert_eq!(&String::from_utf8(fence.encode().unwrap()).unwrap(), bytes, "{name}");
        assert_eq!(&Fence::decode(bytes.as_bytes()).unwrap(), fence, "{name}");
    }
}
