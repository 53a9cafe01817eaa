use godwit_types::{
    CheckpointId, Incarnation, LineageName, Nonce, OpId, Outcome, Owner, Seq, Tenant,
};

use super::{Source, SourceSpec};
use crate::Refusal;
use crate::entry::{Basis, Entry, Pen};
use crate::fence::{Fence, FenceState, LineageRef};
use crate::machine::{Action, Ending, Event, Machine, Put, Read};
use crate::message::{ToAgent, ToShim};
use crate::state::Kind;

fn pen() -> Pen {
    let me = Owner {
        cluster: "_none".to_owned(),
        node: "node-1".to_owned(),
        epoch: 0,
        pod_uid: "web".to_owned(),
        incarnation: Incarnation::from(1),
    };
    Pen { me, op: None, nonce: Nonce::from(1), at_ms: 0 }
}

fn at() -> LineageRef {
    let lineage = LineageName::new("pod/web").unwrap();
    LineageRef { store: "default".to_owned(), tenant: Tenant::node(), lineage }
}

fn source(outcome: Outcome) -> Source {
    Source::new(SourceSpec {
        pen: pen(),
        op: OpId::from(2),
        at: at(),
        fence: Some(fence()),
        checkpoint: CheckpointId::from(3),
        outcome,
        to: None,
        reclaim_after_s: None,
    })
}

fn fence() -> Fence {
    Fence {
        at: at(),
        incarnation: pen().me.incarnation,
        state: FenceState::Owned,
        op: None,
        lived: true,
        consumed: None,
        slot: Some(Seq(1)),
        seen: Some(Seq(1)),
        gone: None,
    }
}

fn start() -> Entry {
    Basis::default().next(&pen(), Kind::Start { forked_from: None }).unwrap()
}

fn newest(entry: &Entry) -> Event {
    Event::Newest(Read::Known(Some(Box::new(entry.clone()))))
}

/// The engine works.
fn working(outcome: Outcome) -> Source {
    let mut source = source(outcome);
    assert_eq!(source.step(Event::Begin), [Action::ReadNewest]);
    source.step(newest(&start()));
    assert_eq!(source.step(Event::Shim(ToAgent::Begun)), [Action::Examine]);
    assert_eq!(source.step(Event::Fit), [Action::Ready]);
    source
}

#[test]
fn an_operation_that_grew_too_old_at_work_is_given_up_at_once() {
    for outcome in [Outcome::Run, Outcome::Stop] {
        let mut source = working(outcome);
        let told = source.step(Event::TooOld);
        assert_eq!(told, [Action::Tell(ToShim::Cancel { unfence: false })]);
        let ended = source.step(Event::Shim(ToAgent::Done));
        assert_eq!(ended, [Action::Done(Ending::GivenUp(Refusal::TooOld))]);
    }
}

#[test]
fn an_empty_log_under_a_fence_that_has_seen_more_is_not_begun_anew() {
    let mut source = source(Outcome::Run);
    source.step(Event::Begin);
    let doubted = source.step(Event::Newest(Read::Known(None)));
    assert_eq!(doubted, [Action::Done(Ending::GivenUp(Refusal::StoreAway))]);
}

#[test]
fn a_first_checkpoint_tells_the_fence_that_its_log_has_begun() {
    let mut source = source(Outcome::Run);
    source.spec.fence = None;
    source.step(Event::Begin);
    source.step(Event::Newest(Read::Known(None)));
    source.step(Event::Shim(ToAgent::Begun));
    source.step(Event::Fit);
    let put = source.step(Event::Shim(ToAgent::Done));
    let [Action::Put(entry)] = &put[..] else { panic!("{put:?}") };
    assert_eq!(source.step(Event::Put(Put::Created)), [Action::ReadNewest]);
    let told = source.step(newest(entry));
    assert_eq!(told, [Action::Tell(ToShim::Stands { entry: entry.clone() })]);
    assert_eq!(source.step(Event::Shim(ToAgent::Done)), [Action::Ready]);
}

#[test]
fn a_pod_that_cannot_be_checkpointed_begins_no_lineage() {
    let mut source = source(Outcome::Stop);
    source.spec.fence = None;
    source.step(Event::Begin);
    source.step(Event::Newest(Read::Known(None)));
    assert_eq!(source.step(Event::Shim(ToAgent::Begun)), [Action::Examine]);
    let told = source.step(Event::Cancel);
    assert_eq!(told, [Action::Tell(ToShim::Cancel { unfence: true })]);
    let ended = source.step(Event::Shim(ToAgent::Done));
    assert_eq!(ended, [Action::Done(Ending::GivenUp(Refusal::Cancelled))]);
}

#[test]
fn a_store_that_refuses_the_entry_of_a_seal_lets_the_pod_run_on() {
    let mut source = working(Outcome::Stop);
    source.step(Event::Manifest);
    source.step(newest(&start()));
    let put = source.step(Event::Shim(ToAgent::Sealed));
    assert!(matches!(&put[..], [Action::Put(_)]), "{put:?}");
    assert_eq!(source.step(Event::Put(Put::NotWritten)), [Action::ReadNewest]);
    let (entry, unwritten) = (Box::new(start()), true);
    let told = source.step(newest(&start()));
    assert_eq!(told, [Action::Tell(ToShim::Unseal { entry, unwritten })]);
    let ended = source.step(Event::Shim(ToAgent::Done));
    assert_eq!(ended, [Action::Done(Ending::GivenUp(Refusal::StoreRefuses))]);
}

#[test]
fn a_store_that_refuses_the_entry_of_a_point_gives_it_up() {
    let mut source = working(Outcome::Run);
    source.step(Event::Manifest);
    source.step(newest(&start()));
    let ended = source.step(Event::Put(Put::NotWritten));
    assert_eq!(ended, [Action::Done(Ending::GivenUp(Refusal::StoreRefuses))]);
}
