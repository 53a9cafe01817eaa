use std::sync::Mutex;

use godwit_ownership::fence::LineageRef;
use godwit_ownership::state::Kind;
use godwit_ownership::{Basis, Pen, Source, SourceSpec};
use godwit_types::{Incarnation, LineageName, Nonce, OpId, Outcome, Owner, Tenant};

use super::*;

/// For anything to happen on a busy machine.
const SOON: Duration = Duration::from_secs(60);

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
    let lineage = LineageName::mint();
    Source::new(SourceSpec {
        pen: pen(),
        op: OpId::from(2),
        at: LineageRef { store: "default".to_owned(), tenant: Tenant::node(), lineage },
        fence: None,
        checkpoint: CheckpointId::from(3),
        outcome: Outcome::Stop,
        to: None,
        reclaim_after_s: None,
    })
}

/// A log that loses every entry but a reclaim, and does not say so.
struct Losing(Mutex<Entry>);

impl Losing {
    fn begun() -> Self {
        let start = Basis::default().next(&pen(), Kind::Start { forked_from: None });
        Self(Mutex::new(start.unwrap()))
    }
}

#[async_trait]
impl Log for Losing {
    async fn newest(&self) -> Read<Option<Box<Entry>>> {
        Read::Known(Some(Box::new(self.0.lock().unwrap().clone())))
    }

    async fn slot(&self, seq: Seq) -> Read<Option<Box<Entry>>> {
        let newest = self.0.lock().unwrap().clone();
        Read::Known((newest.seq == seq).then(|| Box::new(newest)))
    }

    async fn put(&self, entry: &Entry) -> Put {
        if entry.kind != Kind::Reclaim {
            return Put::Unknown;
        }
        *self.0.lock().unwrap() = entry.clone();
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
    assert_eq!(driver.feed(Event::Begin).await, Stop::Ready);
    cancel.cancel();
    let stop = tokio::time::timeout(SOON, driver.feed(Event::Manifest)).await;
    let Ok(Stop::Done(Ending::Unsealed(entry))) = stop else { panic!("{stop:?}") };
    assert_eq!(entry.kind, Kind::Reclaim);
}
