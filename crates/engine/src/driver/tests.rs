use std::sync::Mutex;

use godwit_ownership::fence::LineageRef;
use godwit_ownership::state::Kind;
use godwit_ownership::{Basis, Pen, Refusal, Source, SourceSpec};
use godwit_store::ManualClock;
use godwit_types::{Incarnation, LineageName, Nonce, OpId, Outcome, Owner, Tenant};

use super::*;

/// For anything to happen on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// T/2 of these tests.
const HALF: Duration = Duration::from_secs(12 * 3600);

fn pen() -> Pen {
    let me = Owner {
        cluster: "_none".to_owned(),
        node: "n1".to_owned(),
        epoch: 0,
        pod_uid: "default+web".to_owned(),
        incarnation: Incarnation::from(1),
    };
    Pen { me, op: None, nonce: Nonce::from(1), at_ms: 0 }
}

fn stop() -> Source {
    source(Outcome::Stop)
}

fn source(outcome: Outcome) -> Source {
    let lineage = LineageName::mint();
    Source::new(SourceSpec {
        pen: pen(),
        op: OpId::from(2),
        at: LineageRef { store: "default".to_owned(), tenant: Tenant::node(), lineage },
        fence: None,
        checkpoint: CheckpointId::from(3),
        outcome,
        to: None,
        reclaim_after_s: None,
    })
}

/// A log that loses every entry but a reclaim, and does not say so; that takes half a day.
struct Losing {
    newest: Mutex<Entry>,
    clock: Arc<ManualClock>,
    lost: Mutex<usize>,
}

impl Losing {
    fn begun() -> Self {
        let start = Basis::default().next(&pen(), Kind::Start { forked_from: None });
        let newest = Mutex::new(start.unwrap());
        Self { newest, clock: Arc::default(), lost: Mutex::default() }
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock) as _
    }
}

#[async_trait]
impl Log for Losing {
    async fn newest(&self) -> Read<Option<Box<Entry>>> {
        Read::Known(Some(Box::new(self.newest.lock().unwrap().clone())))
    }

    async fn slot(&self, seq: Seq) -> Read<Option<Box<Entry>>> {
        let newest = self.newest.lock().unwrap().clone();
        Read::Known((newest.seq == seq).then(|| Box::new(newest)))
    }

    async fn put(&self, entry: &Entry) -> Put {
        if entry.kind != Kind::Reclaim {
            *self.lost.lock().unwrap() += 1;
            self.clock.advance(HALF);
            return Put::Unknown;
        }
        *self.newest.lock().unwrap() = entry.clone();
        Put::Created
    }

    async fn presence(&self, _: CheckpointId) -> Read<Presence> {
        Read::Known(Presence::Exists)
    }
}

/// A shim that does what it is told.
struct Willing;

#[async_trait]
impl Peer for Willing {
    async fn tell(&mut self, message: ToShim) -> Option<ToAgent> {
        Some(match message {
            ToShim::Begin { .. } => ToAgent::Begun,
            ToShim::Seal { .. } => ToAgent::Sealed,
            _ => ToAgent::Done,
        })
    }

    async fn hear(&mut self) -> Option<ToAgent> {
        std::future::pending().await
    }

    async fn prove_dead(&mut self) -> bool {
        false
    }

    async fn remove_fence(&mut self) {}
}

#[tokio::test]
async fn who_cancels_while_an_entry_is_settled_is_heard() {
    let (log, mut peer, cancel) = (Losing::begun(), Willing, CancellationToken::new());
    let driver = Driver::new(stop(), &log, &mut peer, Duration::MAX);
    let mut driver = driver.cancelled_by(&cancel);
    begin(&mut driver).await;
    cancel.cancel();
    let stop = tokio::time::timeout(SOON, driver.feed(Event::Manifest)).await;
    let Ok(Stop::Done(Ending::Unsealed(entry))) = stop else { panic!("{stop:?}") };
    assert_eq!(entry.kind, Kind::Reclaim);
}

async fn begin(driver: &mut Driver<'_, Source, Willing>) {
    assert_eq!(driver.feed(Event::Begin).await, Stop::Examine);
    assert_eq!(driver.feed(Event::Fit).await, Stop::Ready);
}

async fn ended(driver: &mut Driver<'_, Source, Willing>) -> Stop {
    begin(driver).await;
    tokio::time::timeout(SOON, driver.feed(Event::Manifest)).await.unwrap()
}

#[tokio::test]
async fn a_stop_that_grows_too_old_while_it_is_settled_is_taken_back() {
    let (log, mut peer) = (Losing::begun(), Willing);
    let driver = Driver::new(stop(), &log, &mut peer, Duration::MAX);
    let stop = ended(&mut driver.too_old_after(HALF, &log.clock())).await;
    let Stop::Done(Ending::Unsealed(entry)) = stop else { panic!("{stop:?}") };
    assert_eq!(entry.kind, Kind::Reclaim);
    assert_eq!(*log.lost.lock().unwrap(), 1);
}

#[tokio::test]
async fn a_checkpoint_that_leaves_its_pod_running_is_given_up_when_it_is_too_old() {
    let (log, mut peer) = (Losing::begun(), Willing);
    let driver = Driver::new(source(Outcome::Run), &log, &mut peer, Duration::MAX);
    let stop = ended(&mut driver.too_old_after(HALF, &log.clock())).await;
    assert_eq!(stop, Stop::Done(Ending::GivenUp(Refusal::TooOld)));
}

#[tokio::test]
async fn what_grew_too_old_at_work_writes_nothing() {
    let (log, mut peer) = (Losing::begun(), Willing);
    let driver = Driver::new(stop(), &log, &mut peer, Duration::MAX);
    let mut driver = driver.too_old_after(HALF, &log.clock());
    begin(&mut driver).await;
    log.clock.advance(HALF);
    let stop = tokio::time::timeout(SOON, driver.feed(Event::Manifest)).await.unwrap();
    assert_eq!(stop, Stop::Done(Ending::GivenUp(Refusal::TooOld)));
    assert_eq!(*log.lost.lock().unwrap(), 0);
}
