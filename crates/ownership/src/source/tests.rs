use godwit_types::{CheckpointId, Incarnation, LineageName, Nonce, OpId, Outcome, Owner, Tenant};

use super::{Source, SourceSpec};
use crate::Refusal;
use crate::entry::{Basis, Entry, Pen};
use crate::fence::LineageRef;
use crate::machine::{Action, Ending, Event, Machine, Read};
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
        fenced: true,
        checkpoint: CheckpointId::from(3),
        outcome,
        to: None,
        reclaim_after_s: None,
    })
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
    assert_eq!(source.step(Event::Shim(ToAgent::Begun)), [Action::Ready]);
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
