//! The kubelet's calls that may be ours to answer (`godwit-cri-proxy` shows them): decided from what shims and the API server say.
//!
//! Owns: stops at a checkpoint. A pod is stopped once, however many of its containers the kubelet stops, and whoever asks waits for its
//! end. It goes on when nobody waits for it any more: half a stop is none. One that failed is not tried again: the kubelet's way has
//! begun, and what a later one found would be half a pod.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use godwit_engine::checkpoint::{CheckpointError, checkpoint};
use godwit_engine::journal::Journal;
use godwit_engine::pods_of::{self, PodOf};
use godwit_engine::restore::ahead;
use godwit_engine::shim::Shim;
use godwit_engine::{EngineError, Node, containerd};
use godwit_types::{Code, Outcome, PodKey, names};
use godwit_wire::api::{CheckpointRequest, CriCall, CriVerdict};
use godwit_wire::shim_op::PodState;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::kubernetes::{self, Api, Ends};

/// Between tries of a stop.
const AGAIN: Duration = Duration::from_millis(250);
/// For the checkpoint that a kubelet's own waits for: it gives both two minutes (`runtimeRequestTimeout`).
const BESIDE: Duration = Duration::from_secs(45);
/// What a container of `kubectl debug` has of its pod's grace period, at most: process 1 of such a container is a shell, as a rule, and
/// heeds no SIGTERM. The rest is for the checkpoint that waits for its end.
const LOOKS_ON: Duration = Duration::from_secs(5);

/// From its grace period's end until nothing of a pod that ends is left to stop: a pod that is stopped later has not ended.
const KUBELET_ENDS: Duration = Duration::from_secs(150);

/// A stop of a pod at a checkpoint.
#[derive(Clone)]
struct Stop {
    /// It counts for whoever asks until then, however it ended; `None`: for ever.
    until: Option<Instant>,
    /// Ends when it was stopped, or could not be.
    over: Shared<BoxFuture<'static, ()>>,
    /// Once it is sealed nothing is cancelled.
    cancel: CancellationToken,
}

impl Stop {
    fn counts(&self) -> bool {
        let now = Instant::now();
        self.over.peek().is_none() || self.until.is_none_or(|until| now < until)
    }

    /// Waits for its end, for which it has so long from now. Of all who wait, the shortest time counts.
    async fn within(self, grace: Duration) {
        tokio::select! {
            () = self.over.clone() => {}
            () = tokio::time::sleep(grace) => {
                self.cancel.cancel();
                self.over.await;
            }
        }
    }
}

/// Decides.
pub(crate) struct Desk {
    node: Arc<Node>,
    cluster: Option<Arc<Api>>,
    stops: Mutex<BTreeMap<PodKey, Stop>>,
    /// What goes on when its kubelet does not wait any more.
    tasks: TaskTracker,
    /// The agent ends.
    ends: CancellationToken,
}

impl Desk {
    pub(crate) fn new(node: Arc<Node>, cluster: Option<Arc<Api>>, ends: CancellationToken) -> Self {
        Self { node, cluster, stops: Mutex::default(), tasks: TaskTracker::new(), ends }
    }

    /// Waits for the agent's end and then for what is in progress: nothing is begun any more.
    pub(crate) async fn serve(&self) {
        self.ends.cancelled().await;
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The API server, where the node has one.
    pub(crate) fn cluster(&self) -> Option<&Api> {
        self.cluster.as_deref()
    }

    /// Lets the cluster's pods come to this node, or not any more. Why it could not be told, if so.
    pub(crate) async fn take_pods(&self, takes: bool) -> Option<String> {
        kubernetes::take_pods(&self.node, self.cluster()?, takes).await.err()
    }

    /// What becomes of a call.
    ///
    /// # Errors
    /// Which pod it concerns is not known.
    pub(crate) async fn decide(self: &Arc<Self>, call: CriCall) -> Result<CriVerdict, EngineError> {
        let of = |container| pods_of::find(&self.node, container);
        match call {
            CriCall::Sandbox(pod) => {
                let (node, ends) = (Arc::clone(&self.node), self.ends.clone());
                self.tasks.spawn(async move {
                    ends.run_until_cancelled(ahead::read(&node, &pod)).await;
                });
            }
            CriCall::Stop { container, grace_seconds } => {
                if let Some(pod) = of(&container).await? {
                    self.stop(pod, Duration::from_secs(grace_seconds)).await;
                }
            }
            CriCall::Exec { container } => {
                if let Some(pod) = of(&container).await? {
                    return Ok(exec(&pod.key).await);
                }
            }
            CriCall::Checkpoint { container } => {
                if of(&container).await?.is_some() {
                    self.checkpoint_beside(container).await;
                }
            }
        }
        // containerd sees what has become of the container, and tells it.
        Ok(CriVerdict::Pass)
    }

    /// Who asked the kubelet gets his archive in any case, and in time; how this ends is told on the pod.
    async fn checkpoint_beside(&self, container: String) {
        let (node, cancel) = (Arc::clone(&self.node), CancellationToken::new());
        let cancelled = cancel.clone();
        let mut work = self.tasks.spawn(async move {
            let request = CheckpointRequest::of_pod(&container, Outcome::Run);
            let (journal, _) = Journal::begin();
            checkpoint(&node, request, journal, cancelled).await
        });
        if tokio::time::timeout(BESIDE, &mut work).await.is_err() {
            // Two at once are refused.
            cancel.cancel();
            let _ = work.await;
        }
    }

    /// The kubelet stops a container, and with it the pod's others: if that is the pod's end, the pod goes on later from where it is now.
    async fn stop(self: &Arc<Self>, pod: PodOf, grace: Duration) {
        if pod.annotation(names::CHECKPOINT_ON_STOP) != Some("true") {
            return;
        }
        let Some(cluster) = &self.cluster else { return };
        // No checkpoint is made while it runs. Its own stop goes its way meanwhile.
        if cluster.is_ephemeral(pod.key.as_str(), &pod.container_name) {
            let desk = Arc::clone(self);
            self.tasks.spawn(async move { desk.end_onlooker(&pod, grace).await });
            return;
        }
        if cluster.ends(pod.key.as_str(), &pod.namespace, &pod.name).await == Ends::ForGood {
            self.stop_once(pod, grace).within(grace).await;
        }
    }

    /// A container of `kubectl debug` in a pod that ends ends in time for the others' checkpoint.
    async fn end_onlooker(&self, pod: &PodOf, grace: Duration) {
        let Some(cluster) = &self.cluster else { return };
        if cluster.ends(pod.key.as_str(), &pod.namespace, &pod.name).await != Ends::ForGood {
            return;
        }
        tokio::time::sleep(LOOKS_ON.min(grace / 4)).await;
        let socket = &self.node.containerd;
        match containerd::kill(socket, names::CRI_NAMESPACE, &pod.container).await {
            Err(error) if error.code() != Code::NotFound => {
                tracing::warn!(pod = %pod.key, container = pod.container_name, %error, "an ephemeral container could not be ended");
            }
            _ => {}
        }
    }

    fn stop_once(self: &Arc<Self>, pod: PodOf, grace: Duration) -> Stop {
        let mut stops = self.stops.lock().unwrap_or_else(PoisonError::into_inner);
        stops.retain(|key, stop| Shim::listens(key) && stop.counts());
        if let Some(stop) = stops.get(&pod.key) {
            return stop.clone();
        }
        let (desk, key, cancel) = (Arc::clone(self), pod.key.clone(), CancellationToken::new());
        let deadline = cancel.clone();
        let work = self.tasks.spawn(async move {
            if let Err(error) = desk.try_to_stop(&pod, &deadline).await {
                tracing::warn!(pod = %pod.key, %error, "a pod that ends could not be stopped at a checkpoint");
            }
        });
        let until = Instant::now().checked_add(grace.saturating_add(KUBELET_ENDS));
        let stop = Stop { until, over: work.map(drop).boxed().shared(), cancel };
        // Also when the kubelet does not wait any more.
        self.tasks.spawn(stop.clone().within(grace));
        stops.insert(key, stop.clone());
        stop
    }

    /// Tries again while that may help: its memory is still coming, somebody executes something in it, or its store is away for a moment.
    async fn try_to_stop(
        &self,
        pod: &PodOf,
        cancel: &CancellationToken,
    ) -> Result<(), CheckpointError> {
        if is_over(&pod.key).await {
            return Ok(());
        }
        loop {
            let (journal, _) = Journal::begin();
            let request = CheckpointRequest::of_pod(&pod.container, Outcome::Stop);
            let error = match checkpoint(&self.node, request, journal, cancel.clone()).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let helps = matches!(error.code(), Code::Unavailable | Code::Precondition);
            if !helps || cancel.is_cancelled() || self.ends.is_cancelled() {
                return Err(error);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Commands in a pod that is held before it runs, or that has gone away, would wait in vain: its probes and hooks do well.
async fn exec(key: &PodKey) -> CriVerdict {
    match state(key).await {
        Some(PodState::Restoring | PodState::Held | PodState::Sealed | PodState::Moved) => {
            CriVerdict::Done
        }
        _ => CriVerdict::Pass,
    }
}

/// Nothing of it runs any more: an agent before this one has stopped it, or it has ended.
async fn is_over(key: &PodKey) -> bool {
    let over = [PodState::Sealed, PodState::Moved, PodState::Exited];
    state(key).await.is_some_and(|state| over.contains(&state))
}

async fn state(key: &PodKey) -> Option<PodState> {
    let asked = async { Shim::connect(key).await?.attach().await };
    asked.await.ok().map(|status| status.state())
}
