use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use godwit_ownership::TargetSpec;
use godwit_ownership::message::{Ask, Before, OnFailure, OnLost, Request, Start};
use godwit_ownership::state::ColdReason;
use godwit_ownership::{Basis, Kind, LineageRef, Pen, ToAgent, ToShim};
use godwit_store::wrap::Operation;
use godwit_types::{Nonce, OpId, Owner, Tenant};

use super::*;
use crate::fixture;
use crate::frames::source::{self, HandedOver};

/// A shim that has gone away, or says nothing.
struct Shim {
    gone: bool,
}

#[async_trait]
impl Peer for Shim {
    async fn tell(&mut self, _: ToShim) -> Option<ToAgent> {
        None
    }

    async fn hear(&mut self) -> Option<ToAgent> {
        match self.gone {
            true => None,
            false => std::future::pending().await,
        }
    }

    async fn prove_dead(&mut self) -> bool {
        false
    }

    async fn remove_fence(&mut self) {}
}

#[tokio::test]
async fn a_restore_waits_for_its_turn_as_long_as_its_shim_does() {
    let turns = Semaphore::new(1);
    let [mut first, mut second] = [Shim { gone: false }, Shim { gone: false }];
    let held = turn(&turns, &mut first).await.unwrap();
    let waits = turn(&turns, &mut second);
    tokio::pin!(waits);
    assert!(futures::poll!(waits.as_mut()).is_pending(), "one at a time");
    let gone = turn(&turns, &mut Shim { gone: true }).await;
    assert_eq!(gone.err(), Some(Event::Ended), "nobody waits for it any more");
    drop(held);
    assert!(waits.await.unwrap().is_some());
}

#[tokio::test]
async fn what_is_written_for_a_shim_that_gave_up_has_ended_before_anybody_hears_of_it() {
    let (stop, ended) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
    let work = async {
        let (stop, ended) = (stop.clone(), Arc::clone(&ended));
        let writes = tokio::task::spawn_blocking(move || {
            while !stop.is_cancelled() {
                std::thread::yield_now();
            }
            ended.store(true, Ordering::Relaxed);
        });
        writes.await
    };
    let heard = unless_heard(work, &stop, &mut Shim { gone: true }).await;
    assert_eq!((heard.err(), ended.load(Ordering::Relaxed)), (Some(Event::Ended), true));

    let (stop, mut stays) = (CancellationToken::new(), Shim { gone: false });
    assert_eq!(unless_heard(async { 7 }, &stop, &mut stays).await, Ok(7));
}

/// A shim that does what it is told.
struct Obedient;

#[async_trait]
impl Peer for Obedient {
    async fn tell(&mut self, message: ToShim) -> Option<ToAgent> {
        match message {
            ToShim::Plan { .. } => Some(ToAgent::Held),
            ToShim::Commit { .. } => Some(ToAgent::Committing),
            ToShim::Resume { .. } => Some(ToAgent::Resumed),
            _ => None,
        }
    }

    async fn hear(&mut self) -> Option<ToAgent> {
        std::future::pending().await
    }

    async fn prove_dead(&mut self) -> bool {
        false
    }

    async fn remove_fence(&mut self) {}
}

fn target(op: OpId, me: &Owner, checkpoint: CheckpointId) -> TargetSpec {
    let start = Start {
        request: Some(Request::Continue {
            checkpoint: Some(checkpoint),
            force: None,
            begins: false,
        }),
        standing: false,
        before: Before {
            container: "web".to_owned(),
            reason: ColdReason::FirstStart,
            lived_s: None,
        },
        on_lost: OnLost::default(),
        on_failure: OnFailure::default(),
    };
    let (pod_uid, incarnation) = (me.pod_uid.clone(), me.incarnation);
    let pen = Pen { me: me.clone(), op: Some(op), nonce: Nonce::mint(), at_ms: 1 };
    let at = LineageRef {
        store: "main".to_owned(),
        tenant: Tenant::node(),
        lineage: fixture::lineage(),
    };
    let ask = Ask { op, pod_uid, incarnation, fence: None, start, others_dead: true };
    TargetSpec { pen, at, ask }
}

/// Appends what the source has written.
async fn stopped_at(tenant: &TenantStore, checkpoint: CheckpointId) {
    let log = tenant.lineage(&fixture::lineage());
    let mut basis = Basis::default();
    let me = fixture::owner("n1");
    let kinds = [
        Kind::Start { forked_from: None },
        Kind::Checkpoint { checkpoint },
        Kind::died_at(checkpoint),
    ];
    for kind in kinds {
        let pen = Pen { me: me.clone(), op: None, nonce: Nonce::mint(), at_ms: 0 };
        let entry = basis.next(&pen, kind).unwrap();
        log.append(&entry).await.unwrap();
        basis = Basis::of(Some(&entry));
    }
}

/// What it costs from the annotation to the first frame of the pager, besides the frames: each request is a round trip of somebody who
/// waits, but for three that are sent together.
#[tokio::test]
async fn a_restore_asks_its_store_for_nothing_twice() {
    let tenant = fixture::tenant().await;
    let point = fixture::point(&tenant, &[vec![1; 4096]]).await;
    stopped_at(&tenant, point.id).await;
    let (store, counts) = tenant.store().metered();
    let (op, me) = (OpId::mint(), fixture::owner("n2"));
    let (pin, reader) =
        store.tenant(&Tenant::node()).pin_and_open(point.id, op, &me).await.unwrap();
    let log = StoreLog::new(store.tenant(&Tenant::node()), &fixture::lineage());
    let machine = Target::new(target(op, &me, point.id));
    let mut shim = Obedient;
    let mut driver = Driver::new(machine, &log, &mut shim, Duration::MAX);
    assert_eq!(driver.feed(Event::Begin).await, Stop::Prepare(point.id));
    let packs = Arc::new(reader.head().await.unwrap().packs);
    let ended = driver.feed(Event::Prepared).await;
    assert!(matches!(ended, Stop::Done(Ending::Resumed(_))), "{ended:?}");
    let requests = |operation| counts.of(operation).requests;
    // Pin and take-over; where the log ends; tombstone (3), manifest, entry and head; that the manifest is there (2).
    let [creations, lists, gets, heads] =
        [Operation::Create, Operation::List, Operation::Get, Operation::Head].map(requests);
    assert_eq!([creations, lists, gets, heads], [2, 3, 6, 2]);
    assert_eq!(counts.all().requests, 13);
    let handed = HandedOver::default();
    handed.put(op, Handed { reader, packs, pin });
    let words = SourceWords {
        store: "main".to_owned(),
        tenant: Tenant::node(),
        checkpoint: point.id,
        op,
        owner: me,
    };
    source::opened(&store, &words, &handed).await.unwrap();
    assert_eq!(counts.all().requests, 13, "its pager's checkpoint is open");
    source::opened(&store, &words, &handed).await.unwrap();
    assert!(counts.all().requests > 13, "a pager that comes again finds it by itself");
}

#[tokio::test]
async fn what_is_opened_is_the_point_that_the_log_says_also_if_another_was_asked_for() {
    let tenant = fixture::tenant().await;
    let asked = fixture::point(&tenant, &[vec![1; 4096]]).await;
    let latest = fixture::point(&tenant, &[vec![2; 4096]]).await;
    let (op, me) = (OpId::mint(), fixture::owner("n2"));
    let (pin, reader) = tenant.pin_and_open(asked.id, op, &me).await.unwrap();
    let point = Point::Named(Box::new(reader));
    let wanted = Wanted { store_name: "main".to_owned(), tenant: tenant.clone(), point };
    let mut pinned = Some(pin);
    let reader = wanted.reader_of((op, &me), latest.id, &mut pinned).await.unwrap();
    assert_eq!(reader.manifest().id, latest.id);
    assert_eq!(pinned.unwrap().checkpoint(), latest.id);
    assert_eq!(tenant.pins(asked.id).await.unwrap(), []);
}
