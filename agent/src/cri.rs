//! The kubelet's calls that may be ours to answer (`godwit-cri-proxy` shows them): decided from what shims and the API server say.
//!
//! Owns: stops at a checkpoint. A pod is stopped once, however many of its containers the kubelet stops, and whoever asks hears how it
//! ended. A stop goes on when nobody waits for it any more: half a stop is none.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use godwit_engine::checkpoint::{CheckpointError, checkpoint};
use godwit_engine::journal::Journal;
use godwit_engine::pods_of::{self, PodOf};
use godwit_engine::shim::Shim;
use godwit_engine::{EngineError, Node};
use godwit_types::{Code, Outcome, PodKey, names};
use godwit_wire::api::{CheckpointRequest, CriCall, CriVerdict};
use godwit_wire::shim_op::PodState;
use tokio_util::sync::CancellationToken;

use crate::kubernetes::{Api, Ends};

/// Between tries of a stop.
const AGAIN: Duration = Duration::from_millis(250);

/// Ends when a pod was stopped at a checkpoint, or could not be.
type Stop = Shared<BoxFuture<'static, ()>>;

/// Decides.
pub(crate) struct Desk {
    node: Arc<Node>,
    cluster: Option<Arc<Api>>,
    stops: Mutex<BTreeMap<PodKey, Stop>>,
}

impl Desk {
    pub(crate) fn new(node: Arc<Node>, cluster: Option<Arc<Api>>) -> Self {
        Self { node, cluster, stops: Mutex::default() }
    }

    /// What becomes of a call.
    ///
    /// # Errors
    /// Which pod it concerns is not known.
    pub(crate) async fn decide(self: &Arc<Self>, call: CriCall) -> Result<CriVerdict, EngineError> {
        let (CriCall::Stop { container, .. }
        | CriCall::Exec { container }
        | CriCall::Checkpoint { container }) = &call;
        let Some(pod) = pods_of::find(&self.node, container).await? else {
            return Ok(CriVerdict::Pass);
        };
        Ok(match call {
            CriCall::Stop { grace_seconds, .. } => {
                self.stop(pod, Duration::from_secs(grace_seconds)).await
            }
            CriCall::Exec { .. } => exec(&pod.key).await,
            CriCall::Checkpoint { container } => {
                let request = CheckpointRequest::of_pod(&container, Outcome::Run);
                let (journal, _) = Journal::begin();
                // Who asked the kubelet gets his archive in any case; how this ended is told on the pod.
                let _ = checkpoint(&self.node, request, journal, CancellationToken::new()).await;
                CriVerdict::Pass
            }
        })
    }

    /// The kubelet stops a container, and with it the pod's others: if that is the pod's end, the pod goes on later from where it is now.
    async fn stop(self: &Arc<Self>, pod: PodOf, grace: Duration) -> CriVerdict {
        if pod.annotation(names::CHECKPOINT_ON_STOP) != Some("true") {
            return CriVerdict::Pass;
        }
        let Some(cluster) = &self.cluster else { return CriVerdict::Pass };
        if cluster.ends(pod.key.as_str()).await != Ends::ForGood {
            return CriVerdict::Pass;
        }
        self.stop_once(pod, grace).await;
        // containerd sees what has become of the container, and tells it.
        CriVerdict::Pass
    }

    fn stop_once(self: &Arc<Self>, pod: PodOf, grace: Duration) -> Stop {
        let mut stops = self.stops.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stop) = stops.get(&pod.key) {
            return stop.clone();
        }
        let (desk, key) = (Arc::clone(self), pod.key.clone());
        let work = tokio::spawn(async move {
            desk.stop_at_a_checkpoint(&pod, grace).await;
            desk.stops.lock().unwrap_or_else(PoisonError::into_inner).remove(&pod.key);
        });
        let stop = work.map(drop).boxed().shared();
        stops.insert(key, stop.clone());
        stop
    }

    /// Within the grace period; after that the kubelet's way is gone. Once it is sealed nothing is cancelled.
    async fn stop_at_a_checkpoint(&self, pod: &PodOf, grace: Duration) {
        let cancel = CancellationToken::new();
        let made = self.try_to_stop(pod, &cancel);
        tokio::pin!(made);
        let made = tokio::select! {
            made = &mut made => made,
            () = tokio::time::sleep(grace) => {
                cancel.cancel();
                made.await
            }
        };
        if let Err(error) = made {
            tracing::warn!(pod = %pod.key, %error, "a pod that ends could not be stopped at a checkpoint");
        }
    }

    /// Tries again while that may help: its memory is still coming, or its store is away for a moment.
    async fn try_to_stop(
        &self,
        pod: &PodOf,
        cancel: &CancellationToken,
    ) -> Result<(), CheckpointError> {
        loop {
            let (journal, _) = Journal::begin();
            let request = CheckpointRequest::of_pod(&pod.container, Outcome::Stop);
            let error = match checkpoint(&self.node, request, journal, cancel.clone()).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let helps = matches!(error.code(), Code::Unavailable | Code::Precondition);
            if !helps || cancel.is_cancelled() {
                return Err(error);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Commands in a pod that is held before it runs, or that has gone away, would wait in vain: its probes and hooks do well.
async fn exec(key: &PodKey) -> CriVerdict {
    let asked = async { Shim::connect(key).await?.attach().await };
    match asked.await.map(|status| status.state()) {
        Ok(PodState::Restoring | PodState::Held | PodState::Sealed | PodState::Moved) => {
            CriVerdict::Done
        }
        _ => CriVerdict::Pass,
    }
}
