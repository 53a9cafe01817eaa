use godwit_types::{CheckpointId, Incarnation, LineageName, Nonce, Owner, Seq, Tenant};

use super::{Look, LookSpec};
use crate::entry::{Basis, Entry, Pen};
use crate::fence::{Fence, FenceState, LineageRef};
use crate::machine::{Action, Ending, Event, Machine, Put, Read, Timer};
use crate::message::{Before, Holds, Status, ToAgent, ToShim};
use crate::state::{ColdReason, Kind, StoppedTasks};

fn me() -> Owner {
    Owner {
        cluster: "_none".to_owned(),
        node: "node-1".to_owned(),
        epoch: 0,
        pod_uid: "web".to_owned(),
        incarnation: Incarnation::from(1),
    }
}

fn look() -> Look {
    let Owner { cluster, node, epoch, .. } = me();
    Look::new(LookSpec { cluster, node, epoch, nonce: Nonce::from(9), at_ms: 0, old: true })
}

fn status(holds: Holds) -> Event {
    let lineage = LineageName::new("pod/web").unwrap();
    let fence = Fence {
        at: LineageRef { store: "default".to_owned(), tenant: Tenant::node(), lineage },
        incarnation: me().incarnation,
        state: FenceState::Owned,
        op: None,
        lived: true,
        consumed: None,
        slot: None,
        seen: Some(Seq(1)),
        gone: None,
    };
    let (pod_uid, incarnation) = (me().pod_uid, me().incarnation);
    let status = Status { pod_uid, incarnation, fence: Some(fence), holds };
    Event::Shim(ToAgent::Status(Box::new(status)))
}

fn start() -> Entry {
    let pen = Pen { me: me(), op: None, nonce: Nonce::from(1), at_ms: 0 };
    Basis::default().next(&pen, Kind::Start { forked_from: None }).unwrap()
}

fn newest(entry: &Entry) -> Event {
    Event::Newest(Read::Known(Some(Box::new(entry.clone()))))
}

#[test]
fn a_cold_entry_that_is_owed_is_written_and_the_shim_hears_of_it() {
    let mut look = look();
    assert_eq!(look.step(Event::Begin), [Action::Tell(ToShim::Attach)]);
    let before = Before { container: "c".to_owned(), reason: ColdReason::Exited, lived_s: None };
    let running = status(Holds::Running { owes_cold: Some(before) });
    assert_eq!(look.step(running), [Action::ReadNewest]);
    let put = look.step(newest(&start()));
    let [Action::Put(cold)] = &put[..] else { panic!("{put:?}") };
    assert_eq!(cold.kind.word(), "cold");
    assert_eq!(look.step(Event::Put(Put::Created)), [Action::ReadNewest]);
    let told = look.step(newest(cold));
    assert_eq!(told, [Action::Tell(ToShim::Unseal { entry: cold.clone(), unwritten: false })]);
    assert_eq!(look.step(Event::Shim(ToAgent::Done)), [Action::Done(Ending::Fine)]);
}

#[test]
fn a_zombie_is_told_who_has_it() {
    let mut look = look();
    look.step(Event::Begin);
    look.step(status(Holds::Running { owes_cold: None }));
    let mut taken = start();
    let crate::State::Owned { owner, .. } = &mut taken.state else { panic!() };
    owner.node = "node-2".to_owned();
    let told = look.step(newest(&taken));
    assert_eq!(told, [Action::Tell(ToShim::Moved { entry: Box::new(taken) })]);
}

#[test]
fn a_pod_that_does_as_the_log_says_is_left_alone() {
    let mut look = look();
    look.step(Event::Begin);
    look.step(status(Holds::Running { owes_cold: None }));
    assert_eq!(look.step(newest(&start())), [Action::Done(Ending::Fine)]);
}

#[test]
fn a_store_that_does_not_answer_changes_nothing() {
    let mut look = look();
    look.step(Event::Begin);
    look.step(status(Holds::Running { owes_cold: None }));
    let unknown = look.step(Event::Newest(Read::Unavailable));
    assert_eq!(unknown, [Action::Done(Ending::Fine)]);
}

#[test]
fn a_log_that_is_shorter_than_the_fence_says_changes_nothing() {
    let mut look = look();
    look.step(Event::Begin);
    look.step(status(Holds::Running { owes_cold: None }));
    let empty = look.step(Event::Newest(Read::Known(None)));
    assert_eq!(empty, [Action::Done(Ending::Fine)]);
}

#[test]
fn a_sealed_pod_is_neither_unsealed_nor_settled_in_an_empty_store() {
    let mut look = look();
    look.step(Event::Begin);
    let pen = Pen { me: me(), op: None, nonce: Nonce::from(2), at_ms: 0 };
    let kind = Kind::Stop { checkpoint: CheckpointId::from(5), tasks: StoppedTasks::Sealed };
    let entry = Box::new(Basis::of(Some(&start())).next(&pen, kind).unwrap());
    look.step(status(Holds::Sealed { entry, reclaim_after_s: None }));
    let waits = [Action::Wait(Timer::Retry)];
    assert_eq!(look.step(Event::Slot(Read::Known(None))), waits);
    assert_eq!(look.step(Event::Timer(Timer::Retry)), [Action::ReadNewest]);
    assert_eq!(look.step(Event::Newest(Read::Known(None))), waits);
}
