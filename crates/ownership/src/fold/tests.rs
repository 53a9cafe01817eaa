use godwit_types::{CheckpointId, Generation, Incarnation, Nonce, Owner};
use proptest::prelude::*;

use super::fold;
use crate::OwnershipError;
use crate::entry::{Basis, Entry, Pen};
use crate::state::{ColdReason, Fork, Kind, Recipient, State, StoppedTasks, Word};

fn owner(node: u8, life: u8) -> Owner {
    Owner {
        cluster: "_none".to_owned(),
        node: format!("node-{node}"),
        epoch: 0,
        pod_uid: format!("web-{node}"),
        incarnation: Incarnation::from(u128::from(life)),
    }
}

fn kind() -> impl Strategy<Value = Kind> {
    let point = (0..6_u128).prop_map(CheckpointId::from);
    let to =
        proptest::option::of((1..4_u8).prop_map(|node| Recipient {
            node: Some(format!("node-{node}")),
            ..Recipient::default()
        }));
    let reason = prop_oneof![
        Just(ColdReason::Exited),
        Just(ColdReason::Crashed),
        Just(ColdReason::CannotRestore),
        Just(ColdReason::PointMissing),
    ];
    let word = prop_oneof![
        3 => Just(Word::Owner),
        1 => Just(Word::Force { who: "ann".to_owned(), why: "because".to_owned() }),
        1 => Just(Word::Evidence { node: "node-1".to_owned(), lease_seq: 4 }),
    ];
    let tasks = prop_oneof![Just(StoppedTasks::Sealed), Just(StoppedTasks::Dead)];
    let fork = point
        .clone()
        .prop_map(|checkpoint| Fork { lineage: "pod/other".parse().unwrap(), checkpoint });
    prop_oneof![
        proptest::option::of(fork).prop_map(|forked_from| Kind::Start { forked_from }),
        point.clone().prop_map(|checkpoint| Kind::Checkpoint { checkpoint }),
        (reason, proptest::option::of(0..100_u64)).prop_map(|(reason, lived_s)| Kind::Cold {
            container: "c".to_owned(),
            reason,
            lived_s
        }),
        (point.clone(), to).prop_map(|(checkpoint, to)| Kind::Offer { checkpoint, to }),
        (point.clone(), tasks).prop_map(|(checkpoint, tasks)| Kind::Stop { checkpoint, tasks }),
        Just(Kind::Reclaim),
        Just(Kind::Resume),
        (point, word).prop_map(|(checkpoint, word)| Kind::TakeOver { checkpoint, word }),
        Just(Kind::StartOver { who: "ann".to_owned(), why: "because".to_owned() }),
        Just(Kind::End),
    ]
}

/// The log that these wishes give: what is not permitted is left out.
fn log(wishes: Vec<(u8, u8, Kind)>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for (n, (node, life, kind)) in wishes.into_iter().enumerate() {
        let (me, nonce) = (owner(node, life), Nonce::from(n as u128));
        let pen = Pen { me, op: None, nonce, at_ms: n as u64 };
        if let Ok(entry) = Basis::of(entries.last()).next(&pen, kind) {
            entries.push(entry);
        }
    }
    entries
}

fn wishes() -> impl Strategy<Value = Vec<(u8, u8, Kind)>> {
    let begin = (1..4_u8, 0..3_u8).prop_map(|(n, l)| (n, l, Kind::Start { forked_from: None }));
    let more = proptest::collection::vec((1..4_u8, 0..3_u8, kind()), 0..80);
    (begin, more).prop_map(|(begin, more)| std::iter::once(begin).chain(more).collect())
}

proptest! {
    #[test]
    fn the_fold_is_the_state_inside_the_newest_entry(wishes in wishes()) {
        let entries = log(wishes);
        let newest = entries.last().map_or(State::Empty, |entry| entry.state.clone());
        prop_assert_eq!(fold(&entries).unwrap(), newest);
    }

    #[test]
    fn a_log_without_its_oldest_entries_folds_to_the_same(wishes in wishes(), cut in 0..20_usize) {
        let entries = log(wishes);
        let kept = &entries[cut.min(entries.len() - 1)..];
        prop_assert_eq!(fold(kept).unwrap(), fold(&entries).unwrap());
    }

    #[test]
    fn an_entry_reads_back_as_it_was_written(wishes in wishes()) {
        for entry in log(wishes) {
            let bytes = entry.encode().unwrap();
            prop_assert_eq!(Entry::decode(&bytes).unwrap(), entry);
        }
    }

    #[test]
    fn generations_never_go_down(wishes in wishes()) {
        let entries = log(wishes);
        prop_assert!(entries.windows(2).all(|pair| pair[0].generation <= pair[1].generation));
    }

    #[test]
    fn no_bytes_make_the_decoder_fail_otherwise_than_by_an_error(bytes: Vec<u8>) {
        let _ = Entry::decode(&bytes);
        let _ = crate::Fence::decode(&bytes);
    }

    #[test]
    fn a_log_with_an_entry_left_out_or_changed_is_noticed(wishes in wishes(), at in 1..20_usize) {
        let mut entries = log(wishes);
        prop_assume!(entries.len() > 2);
        let at = 1 + at % (entries.len() - 2);
        let mut changed = entries.clone();
        changed[at].generation = Generation(99);
        let differs = matches!(fold(&changed), Err(OwnershipError::StateDiffers { .. }));
        prop_assert!(differs);
        entries.remove(at);
        let gap = matches!(fold(&entries), Err(OwnershipError::Gap { .. }));
        prop_assert!(gap);
    }
}
