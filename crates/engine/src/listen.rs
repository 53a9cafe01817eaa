//! A socket of the agent and a task for each peer that connects to it.
//!
//! Keeps: what keeps one peer out (no descriptor is left, it is not root) ends nobody's service; whoever connects when the agent is
//! about to end is told at once that nobody listens.

use std::time::Duration;

use godwit_wire::{AsyncListener, AsyncSocket, Envelope};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Pause after an error of accept that would come again at once (no descriptor left).
const PAUSE: Duration = Duration::from_millis(100);

/// Attends to every peer that connects, until cancelled; whoever is attended to then is attended to the end. `who` they are is for
/// whoever reads the log.
pub(crate) async fn serve<S: Envelope, R: Envelope, F>(
    listener: AsyncListener,
    who: &'static str,
    stop: &CancellationToken,
    attend: impl Fn(AsyncSocket<S, R>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let tasks = TaskTracker::new();
    while let Some(peer) = stop.run_until_cancelled(next(&listener, who)).await {
        tasks.spawn(attend(peer));
    }
    // Nobody is accepted any more: who connected would wait, and others for room in the queue.
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

async fn next<S: Envelope, R: Envelope>(
    listener: &AsyncListener,
    who: &'static str,
) -> AsyncSocket<S, R> {
    loop {
        match listener.accept().await {
            Ok(peer) => return peer,
            Err(error) => {
                tracing::warn!(error = %error, who, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use godwit_wire::agent_op::{FromAgent, ToAgent};
    use godwit_wire::{Socket, WireError};
    use tokio::sync::Semaphore;

    use super::*;

    type Peer = AsyncSocket<FromAgent, ToAgent>;

    /// Asks until it is so.
    async fn until(mut is_so: impl FnMut() -> bool) {
        let asking = async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), asking).await.unwrap();
    }

    #[tokio::test]
    async fn who_connects_while_the_last_ones_are_attended_to_is_told_that_nobody_listens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let stop = CancellationToken::new();
        let [entered, gate] = [(); 2].map(|()| Arc::new(Semaphore::new(0)));
        let listener = AsyncListener::bind(&path).unwrap();
        let serving = tokio::spawn({
            let stop = stop.clone();
            let (entered, gate) = (Arc::clone(&entered), Arc::clone(&gate));
            async move {
                let attend = |_peer: Peer| {
                    entered.add_permits(1);
                    let gate = Arc::clone(&gate);
                    async move { drop(gate.acquire().await) }
                };
                serve(listener, "a shim", &stop, attend).await;
            }
        });
        let connect = || Socket::<ToAgent, FromAgent>::connect_silently(&path);
        connect().unwrap();
        until(|| entered.available_permits() > 0).await;
        stop.cancel();
        until(|| matches!(connect(), Err(WireError::NobodyListens { .. }))).await;
        assert!(!serving.is_finished(), "what is in progress is finished");
        gate.close();
        serving.await.unwrap();
    }
}
