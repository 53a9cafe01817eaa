use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use tokio::time::Instant;

use super::*;
use crate::blob::memory::MemoryStore;
use crate::blob::{BlobStore, Creation, Key, SharedStore};
use crate::error::BlobError;

fn key() -> Key {
    Key::new("a/b").unwrap()
}

fn body() -> Bytes {
    Bytes::from_static(b"0123456789")
}

fn faulty() -> Arc<Faulty> {
    Arc::new(Faulty::new(Arc::new(MemoryStore::new())))
}

fn retry(inner: &Arc<Faulty>, attempts: u32) -> Retry {
    let policy = RetryPolicy { attempts, ..RetryPolicy::default() };
    Retry::new(Arc::clone(inner) as SharedStore, policy)
}

#[tokio::test(start_paused = true)]
async fn what_is_unavailable_for_a_while_is_tried_again() {
    let faulty = faulty();
    faulty.add(Rule::new(Fault::Fail).times(3));
    let store = retry(&faulty, 4);
    store.put(&key(), body()).await.unwrap();
    faulty.add(Rule::new(Fault::ReplyLost).on(Operation::Get).times(2));
    assert_eq!(store.get(&key(), 99).await.unwrap(), body());
    faulty.add(Rule::new(Fault::Fail).always());
    assert!(matches!(store.get(&key(), 99).await, Err(BlobError::Unavailable { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_create_is_sent_once_whatever_happens() {
    let faulty = faulty();
    faulty.add(Rule::new(Fault::Fail).on(Operation::Create));
    let store = retry(&faulty, 5);
    assert!(matches!(store.create(&key(), body()).await.unwrap(), Creation::Unknown(_)));
    assert_eq!(store.head(&key()).await.unwrap(), None, "nobody sent it again");
}

#[tokio::test(start_paused = true)]
async fn refusals_and_absence_are_not_tried_again() {
    let faulty = faulty();
    let store = retry(&faulty, 5);
    let begin = Instant::now();
    faulty.add(Rule::new(Fault::Refuse));
    assert!(matches!(store.get(&key(), 9).await, Err(BlobError::Denied { .. })));
    assert!(matches!(store.get(&key(), 9).await, Err(BlobError::NotFound { .. })));
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn no_more_requests_are_under_way_than_allowed() {
    let faulty = faulty();
    let second = Duration::from_secs(1);
    faulty.add(Rule::new(Fault::Delay(second)).always());
    let limits = Limits { requests: 3, bytes_per_second: None };
    let store = Limit::new(faulty, limits);
    let (key, begin) = (key(), Instant::now());
    join_all((0..9).map(|_| store.put(&key, body()))).await;
    assert_eq!(begin.elapsed().as_secs(), 3);
}

/// A store with a wire of 1 MiB a second.
fn narrow() -> Limit {
    let limits = Limits { requests: 64, bytes_per_second: Some(MIB as u64) };
    Limit::new(Arc::new(MemoryStore::new()), limits)
}

const MIB: usize = 1 << 20;

fn pack(number: usize) -> Key {
    Key::new(format!("t/_node/checkpoints/id/packs/{number}")).unwrap()
}

fn entry() -> Key {
    Key::new("t/_node/lineages/web/log/17").unwrap()
}

#[tokio::test(start_paused = true)]
async fn bytes_pass_at_the_allowed_rate_in_both_directions() {
    let (store, begin) = (narrow(), Instant::now());
    for _ in 0..3 {
        store.put(&key(), vec![0; MIB].into()).await.unwrap();
    }
    store.get(&key(), u64::MAX).await.unwrap();
    store.get_range(&key(), 0..MIB as u64 / 2).await.unwrap();
    // Each of 1 MiB keeps the wire for a second; the last request waits for four of them.
    assert_eq!(begin.elapsed().as_secs(), 4);
}

#[tokio::test(start_paused = true)]
async fn entries_of_logs_and_single_frames_do_not_wait_for_packs_and_packs_pay_for_them() {
    let (store, begin) = (narrow(), Instant::now());
    let put = |n| {
        let (store, key) = (&store, pack(n));
        async move { store.put(&key, vec![0; 16 * MIB].into()).await.unwrap() }
    };
    let urgent = async {
        // The packs are in the queue: it is 64 s long.
        tokio::task::yield_now().await;
        store.create(&entry(), vec![0; 3 * MIB].into()).await.unwrap();
        store.list("t/_node/lineages/web/log/", None, 9).await.unwrap();
        store.get(&entry(), u64::MAX).await.unwrap();
        assert_eq!(begin.elapsed().as_millis(), 0, "of a log");
        store.put(&key(), vec![0; MIB / 4].into()).await.unwrap();
        store.get_range(&key(), 0..MIB as u64 / 4).await.unwrap();
        // The second one waited for the first one alone, on half of the wire.
        assert_eq!(begin.elapsed().as_millis(), 500, "two frames");
    };
    tokio::join!(join_all((0..4).map(put)), urgent);
    assert_eq!(begin.elapsed().as_secs(), 48, "the packs that were there before");
    put(4).await;
    // 64 MiB of packs, 3 MiB twice and half a MiB have passed before it.
    assert_eq!(begin.elapsed().as_millis(), 70_500);
}

#[tokio::test(start_paused = true)]
async fn what_is_small_keeps_the_rate_too_and_leaves_large_ones_half_of_it() {
    let (store, begin) = (&narrow(), Instant::now());
    let small = |n: usize| async move { store.put(&pack(n), vec![0; MIB / 8].into()).await };
    join_all((0..81).map(small)).await;
    // The last one of 81 waits for ten MiB.
    assert_eq!(begin.elapsed().as_secs(), 10);
    let large = |n: usize| async move { store.put(&pack(n), vec![0; 4 * MIB].into()).await };
    let begin = Instant::now();
    tokio::join!(join_all((0..5).map(large)), join_all((0..81).map(small)));
    // The large ones were there first; ten MiB have passed them on their half, and who comes next waits for all of it.
    assert_eq!(begin.elapsed().as_secs(), 20);
    large(99).await.unwrap();
    assert_eq!(begin.elapsed().as_secs(), 30);
}

#[tokio::test]
async fn requests_failures_and_bytes_are_counted_by_kind() {
    let (faulty, counts) = (faulty(), Arc::new(Counts::default()));
    let store = Meter::new(Arc::clone(&faulty) as SharedStore, Arc::clone(&counts));
    store.create(&key(), body()).await.unwrap();
    store.get_range(&key(), 2..5).await.unwrap();
    let _ = store.get(&Key::new("absent").unwrap(), 9).await;
    faulty.add(Rule::new(Fault::ReplyLost).on(Operation::Create));
    store.create(&Key::new("x").unwrap(), body()).await.unwrap();
    faulty.add(Rule::new(Fault::Fail));
    let _ = store.delete(&key()).await;
    let create = Totals { requests: 2, failures: 1, sent: 20, received: 0 };
    assert_eq!(counts.of(Operation::Create), create);
    assert_eq!(counts.of(Operation::GetRange).received, 3);
    assert_eq!(counts.of(Operation::Get).failures, 0, "absence is an answer");
    assert_eq!(counts.all().requests, 5);
    assert_eq!(counts.all().failures, 2);
}

#[tokio::test(start_paused = true)]
async fn each_fault_does_what_it_says() {
    let store = faulty();
    store.put(&key(), body()).await.unwrap();
    store.add(Rule::new(Fault::Torn(4)).on(Operation::Get));
    assert_eq!(store.get(&key(), 99).await.unwrap(), "0123");
    store.add(Rule::new(Fault::Flip));
    assert_ne!(store.get(&key(), 99).await.unwrap(), body());
    store.add(Rule::new(Fault::Slow(5)).on(Operation::GetRange));
    let begin = Instant::now();
    store.get_range(&key(), 0..10).await.unwrap();
    assert_eq!(begin.elapsed().as_secs(), 2);
    store.add(Rule::new(Fault::Torn(3)).on(Operation::Put).matching("b"));
    store.put(&key(), body()).await.unwrap();
    assert_eq!(store.get(&key(), 99).await.unwrap(), "012", "stored torn, said to be whole");
    store.add(Rule::new(Fault::Hang).after(1));
    store.head(&key()).await.unwrap();
    let hung = tokio::time::timeout(Duration::from_secs(9), store.head(&key())).await;
    assert!(hung.is_err());
}

#[tokio::test]
async fn a_late_write_lands_when_told_and_not_over_what_was_created_meanwhile() {
    let store = faulty();
    store.add(Rule::new(Fault::Late).times(2));
    assert!(matches!(store.create(&key(), "late".into()).await.unwrap(), Creation::Unknown(_)));
    let other = Key::new("other").unwrap();
    assert!(store.put(&other, "late".into()).await.is_err());
    assert_eq!(store.create(&key(), "first".into()).await.unwrap(), Creation::Created);
    assert_eq!(store.in_flight(), 2);
    store.land().await.unwrap();
    assert_eq!(store.get(&key(), 9).await.unwrap(), "first");
    assert_eq!(store.get(&other, 9).await.unwrap(), "late");
}
