use godwit_types::{CheckpointId, Incarnation, Nonce, Owner};

use super::{Settle, Verdict};
use crate::entry::{Basis, Entry, Pen};
use crate::machine::{Action, Event, Put, Read, Timer};
use crate::rules::Rules;
use crate::state::Kind;

fn pen(nonce: u128) -> Pen {
    let me = Owner {
        cluster: "_none".to_owned(),
        node: "node-1".to_owned(),
        epoch: 0,
        pod_uid: "web".to_owned(),
        incarnation: Incarnation::from(1),
    };
    Pen { me, op: None, nonce: Nonce::from(nonce), at_ms: 0 }
}

fn start() -> Entry {
    Basis::default().next(&pen(1), Kind::Start { forked_from: None }).unwrap()
}

fn offer() -> Box<Entry> {
    let kind = Kind::Offer { checkpoint: CheckpointId::from(5), to: None };
    Box::new(Basis::of(Some(&start())).next(&pen(2), kind).unwrap())
}

fn slot(found: Option<Entry>) -> Event {
    Event::Slot(Read::Known(found.map(Box::new)))
}

/// The first PUT got no answer, and the slot is empty.
fn after_a_404(old: bool) -> Settle {
    let (mut settle, first) = Settle::put(Rules::ALL, offer(), old);
    assert_eq!(first, [Action::Put(offer())]);
    let read = settle.step(&Event::Put(Put::Unknown));
    assert_eq!(read, Err(vec![Action::ReadSlot(offer().seq)]));
    assert_eq!(settle.step(&slot(None)), Err(vec![Action::Wait(Timer::Retry)]));
    settle
}

#[test]
fn a_404_is_answered_by_the_same_bytes_again() {
    let mut settle = after_a_404(false);
    assert_eq!(settle.step(&Event::Timer(Timer::Retry)), Err(vec![Action::ReadNewest]));
    assert_eq!(settle.step(&newest(start())), Err(vec![Action::Put(offer())]));
    assert_eq!(settle.step(&Event::Put(Put::Created)), Ok(Verdict::Mine));
}

#[test]
fn a_log_without_the_entry_before_is_not_written() {
    let mut settle = after_a_404(false);
    assert_eq!(settle.step(&Event::Timer(Timer::Retry)), Err(vec![Action::ReadNewest]));
    let empty = settle.step(&Event::Newest(Read::Known(None)));
    assert_eq!(empty, Err(vec![Action::Wait(Timer::Retry)]));
}

#[test]
fn a_refused_put_ends_the_matter_only_if_it_was_the_only_one() {
    let (mut settle, _) = Settle::put(Rules::ALL, offer(), false);
    assert_eq!(settle.step(&Event::Put(Put::NotWritten)), Ok(Verdict::NotWritten));
    let mut settle = after_a_404(false);
    assert!(settle.step(&Event::Timer(Timer::Retry)).is_err());
    assert!(settle.step(&newest(start())).is_err());
    let waits = Err(vec![Action::Wait(Timer::Retry)]);
    assert_eq!(settle.step(&Event::Put(Put::NotWritten)), waits);
    let (mut found, _) = Settle::read(Rules::ALL, offer(), false);
    assert!(found.step(&slot(None)).is_err());
    assert!(found.step(&Event::Timer(Timer::Retry)).is_err());
    assert!(found.step(&newest(start())).is_err());
    assert_eq!(found.step(&Event::Put(Put::NotWritten)), waits);
}

fn newest(entry: Entry) -> Event {
    Event::Newest(Read::Known(Some(Box::new(entry))))
}

#[test]
fn an_offer_older_than_half_a_day_is_settled_only_by_reclaim() {
    let mut settle = after_a_404(true);
    let read = settle.step(&Event::Timer(Timer::Retry));
    assert_eq!(read, Err(vec![Action::ReadNewest]));
    let Err(put) = settle.step(&newest(start())) else { panic!() };
    let [Action::Put(reclaim)] = &put[..] else { panic!("{put:?}") };
    assert_eq!((&reclaim.kind, reclaim.seq), (&Kind::Reclaim, offer().seq));
    assert_eq!(settle.step(&Event::Put(Put::Created)), Ok(Verdict::TakenBack));
}

#[test]
fn an_offer_that_is_cancelled_is_settled_by_reclaim() {
    let mut settle = after_a_404(false);
    settle.take_back();
    assert_eq!(settle.step(&Event::Timer(Timer::Retry)), Err(vec![Action::ReadNewest]));
}

#[test]
fn a_claim_is_settled_by_its_own_bytes_at_any_age() {
    let claim = Box::new(start());
    let (mut settle, _) = Settle::put(Rules::ALL, claim.clone(), true);
    assert!(settle.step(&Event::Put(Put::Unknown)).is_err());
    assert!(settle.step(&slot(None)).is_err());
    assert_eq!(settle.step(&Event::Timer(Timer::Retry)), Err(vec![Action::ReadNewest]));
    let again = settle.step(&Event::Newest(Read::Known(None)));
    assert_eq!(again, Err(vec![Action::Put(claim)]));
}

#[test]
fn a_conflict_is_put_again() {
    let (mut settle, _) = Settle::put(Rules::ALL, offer(), false);
    assert_eq!(settle.step(&Event::Put(Put::Conflict)), Err(vec![Action::Put(offer())]));
}

#[test]
fn the_nonce_says_whose_the_slot_is() {
    for (found, verdict) in [(*offer(), Verdict::Mine), (other(), Verdict::Lost)] {
        let (mut settle, _) = Settle::put(Rules::ALL, offer(), false);
        assert!(settle.step(&Event::Put(Put::Exists)).is_err());
        assert_eq!(settle.step(&slot(Some(found))), Ok(verdict));
    }
}

fn other() -> Entry {
    Basis::of(Some(&start())).next(&pen(3), Kind::Reclaim).unwrap()
}

#[test]
fn a_store_that_does_not_answer_is_asked_again() {
    let (mut settle, _) = Settle::read(Rules::ALL, offer(), false);
    let waits = settle.step(&Event::Slot(Read::Unavailable));
    assert_eq!(waits, Err(vec![Action::Wait(Timer::Retry)]));
    let again = settle.step(&Event::Timer(Timer::Retry));
    assert_eq!(again, Err(vec![Action::ReadSlot(offer().seq)]));
}
