use async_trait::async_trait;
use godwit_ownership::{ToAgent, ToShim};

use super::*;

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
