use godwit_types::{CheckpointId, Incarnation, Owner};

use super::{Refusal, permitted};
use crate::state::{ColdReason, Kind, Points, Recipient, State, StoppedTasks, Word};

fn who(node: &str, pod: &str, life: u128) -> Owner {
    Owner {
        cluster: "_none".to_owned(),
        node: node.to_owned(),
        epoch: 0,
        pod_uid: pod.to_owned(),
        incarnation: Incarnation::from(life),
    }
}

fn owner() -> Owner {
    who("node-1", "web", 1)
}

fn p(n: u128) -> CheckpointId {
    CheckpointId::from(n)
}

fn states() -> [(&'static str, State); 5] {
    let good = Points::default().with(p(1));
    [
        ("empty", State::Empty),
        ("owned", State::Owned { owner: owner(), restored: None, good: good.clone() }),
        (
            "offered",
            State::Offered { owner: owner(), checkpoint: p(1), to: None, good: good.clone() },
        ),
        ("stopped", State::Stopped { owner: owner(), checkpoint: p(1), good }),
        ("ended", State::Ended { owner: owner() }),
    ]
}

fn cold(reason: ColdReason) -> Kind {
    Kind::Cold { container: "c".to_owned(), reason, lived_s: None }
}

fn kinds() -> Vec<(&'static str, Kind)> {
    let force = Word::Force { who: "ann".to_owned(), why: "node-1 burns".to_owned() };
    vec![
        ("start", Kind::Start { forked_from: None }),
        ("checkpoint", Kind::Checkpoint { checkpoint: p(2) }),
        ("cold", cold(ColdReason::Exited)),
        ("cold-never", cold(ColdReason::CannotRestore)),
        ("cold-gone", cold(ColdReason::PointMissing)),
        ("offer", Kind::Offer { checkpoint: p(2), to: None }),
        ("stop", Kind::Stop { checkpoint: p(2), tasks: StoppedTasks::Sealed }),
        ("died", Kind::died_at(p(1))),
        ("reclaim", Kind::Reclaim),
        ("resume", Kind::Resume),
        ("take-over", Kind::TakeOver { checkpoint: p(1), word: Word::Owner }),
        ("force", Kind::TakeOver { checkpoint: p(1), word: force }),
        ("over", Kind::StartOver { who: "ann".to_owned(), why: "node-1 burns".to_owned() }),
        ("end", Kind::End),
    ]
}

/// store.md §2.1, row by row: who may append what.
#[test]
fn the_table_of_the_design_is_the_code() {
    let writers = [
        ("owner", owner()),
        ("its next life", who("node-1", "web", 2)),
        ("another pod", who("node-2", "web-2", 3)),
    ];
    let mut table = String::new();
    for (state_name, state) in states() {
        for (writer, by) in &writers {
            let may: Vec<_> = kinds()
                .into_iter()
                .filter(|(_, kind)| permitted(&state, by, kind).is_ok())
                .map(|(name, _)| name)
                .collect();
            table.push_str(&format!("{state_name}, {writer}: {}\n", may.join(" ")));
        }
    }
    assert_eq!(
        table,
        "empty, owner: start\n\
         empty, its next life: start\n\
         empty, another pod: start\n\
         owned, owner: checkpoint cold cold-never cold-gone offer stop died reclaim resume end\n\
         owned, its next life: cold cold-never cold-gone died resume force end\n\
         owned, another pod: force over\n\
         offered, owner: offer died reclaim\n\
         offered, its next life: died\n\
         offered, another pod: take-over force\n\
         stopped, owner: cold-never cold-gone reclaim take-over force end\n\
         stopped, its next life: cold-never cold-gone take-over force end\n\
         stopped, another pod: cold-never take-over force\n\
         ended, owner: start\n\
         ended, its next life: start\n\
         ended, another pod: start\n"
    );
}

#[test]
fn a_running_pod_is_refused_with_the_sentence_that_says_what_to_do() {
    let (_, owned) = &states()[1];
    let by = who("node-2", "web-2", 3);
    let kind = Kind::TakeOver { checkpoint: p(1), word: Word::Owner };
    let refusal = permitted(owned, &by, &kind).unwrap_err();
    assert_eq!(
        refusal.told("web"),
        "web still runs on node-1: stop it with `godwit checkpoint --stop`, or copy this point with fork-from; if node-1 is dead, continue it with godwit.dev/force=REASON beside restore-from"
    );
}

#[test]
fn an_offer_to_somebody_is_for_nobody_else() {
    let to = Some(Recipient { node: Some("node-2".to_owned()), ..Recipient::default() });
    let good = Points::default();
    let state = State::Offered { owner: owner(), checkpoint: p(1), to, good };
    let kind = Kind::TakeOver { checkpoint: p(1), word: Word::Owner };
    assert!(permitted(&state, &who("node-2", "web-2", 3), &kind).is_ok());
    let refused = permitted(&state, &who("node-3", "web-3", 4), &kind);
    assert_eq!(refused, Err(Refusal::OfferedElsewhere { node: "node-1".to_owned() }));
}

#[test]
fn only_the_point_that_is_offered_can_be_continued() {
    let by = who("node-2", "web-2", 3);
    let kind = Kind::TakeOver { checkpoint: p(9), word: Word::Owner };
    for (_, state) in &states()[2..4] {
        let refused = permitted(state, &by, &kind);
        assert_eq!(refused, Err(Refusal::OtherPoint { asked: p(9), latest: p(1) }));
    }
}

#[test]
fn a_point_whose_pod_crashes_at_once_is_not_good_any_more() {
    let good = Points::default().with(p(1)).with(p(2));
    let crash = |lived_s| Kind::Cold {
        container: "c".to_owned(),
        reason: ColdReason::Crashed,
        lived_s: Some(lived_s),
    };
    let state = State::Owned { owner: owner(), restored: Some(p(2)), good };
    let soon = permitted(&state, &owner(), &crash(3)).unwrap();
    assert_eq!(soon.good(), [p(1)]);
    let late = permitted(&state, &owner(), &crash(60)).unwrap();
    assert_eq!(late.good(), [p(2), p(1)]);
}

#[test]
fn a_state_remembers_a_bounded_number_of_points() {
    let mut state = states()[1].1.clone();
    for n in 10..40 {
        let kind = Kind::Checkpoint { checkpoint: p(n) };
        state = permitted(&state, &owner(), &kind).unwrap();
    }
    assert_eq!(state.good().len(), crate::state::MAX_POINTS);
    assert_eq!(state.good().first(), Some(&p(39)));
}

#[test]
fn every_refusal_is_a_sentence_about_the_pod() {
    for (_, state) in states() {
        for (_, kind) in kinds() {
            if let Err(refusal) = permitted(&state, &who("node-2", "web-2", 3), &kind) {
                assert!(refusal.told("web").contains("web"), "{refusal:?}");
            }
        }
    }
}
