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
use godwit_engine::cluster::Knows as _;
use godwit_engine::journal::Journal;
use godwit_engine::pods_of::{self, PodOf};
use godwit_engine::restore::ahead;
use godwit_engine::shim::Shim;
use godwit_engine::{EngineError, Node, containerd};
use godwit_types::{Code, Outcome, PodKey, names};
use godwit_wire::api::{CheckpointRequest, CriCall, CriVerdict};
use godwit_wire::shim_op::{PodState, Status};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::kubernetes::{self, Api, Ends};

/// For the API server to say what a stop means, at least.
const ANSWERS: Duration = Duration::from_secs(1);
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
    /// Of a pod that runs on when it is over.
    runs_on: Option<Whole>,
}

/// A pod of which one container is stopped.
#[derive(Debug, Clone)]
struct Whole {
    stopped: String,
    alive: Alive,
}

/// The names in their pod of containers that live, by their ids.
type Alive = BTreeMap<String, String>;

impl Whole {
    /// What was stopped is gone, and another one runs in its place, beside all others: the pod has not ended then.
    fn is_again(&self, now: &Alive) -> bool {
        let runs = |name: &String| now.values().any(|other| other == name);
        // What had ended before it was stopped says nothing.
        self.alive.contains_key(&self.stopped)
            && !now.contains_key(&self.stopped)
            && self.alive.values().all(runs)
    }
}

impl Stop {
    /// It was for a stop that the pod has outlived.
    fn is_outlived(&self, alive: &Alive) -> bool {
        self.over.peek().is_some() && self.runs_on.as_ref().is_some_and(|was| was.is_again(alive))
    }

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
                    return Ok(exec(state(&pod.key).await));
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
        let begun = Instant::now();
        let outcome = match ends(cluster, &pod, grace).await {
            Ends::No => return,
            Ends::ForGood => Outcome::Stop,
            // It can run on then, and be continued.
            Ends::NotKnown => {
                tracing::warn!(pod = %pod.key, "the API server does not say whether it ends: it is stopped as any pod is, after a checkpoint");
                Outcome::Run
            }
        };
        let alive = self.alive(&pod.key).await;
        let left = grace.saturating_sub(begun.elapsed());
        self.once(pod, outcome, alive, left).within(left).await;
    }

    /// Containers of it that live; none, if one of them cannot be told.
    async fn alive(&self, key: &PodKey) -> Alive {
        let all = status(key).await.map(|status| status.containers).unwrap_or_default();
        let mut alive = Alive::new();
        for one in all.into_iter().filter(|one| one.pid > 0 && !one.exited) {
            match pods_of::find(&self.node, &one.id).await {
                Ok(Some(pod)) => drop(alive.insert(one.id, pod.container_name)),
                _ => return Alive::new(),
            }
        }
        alive
    }

    /// A container of `kubectl debug` in a pod that ends ends in time for the others' checkpoint.
    async fn end_onlooker(&self, pod: &PodOf, grace: Duration) {
        let Some(cluster) = &self.cluster else { return };
        // Kubelets stop such a container only with its pod.
        if ends(cluster, pod, grace).await == Ends::No {
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

    /// One checkpoint for all containers that a kubelet stops together, of whatever outcome: when it is over they end one after another,
    /// and a later one would find half a pod.
    fn once(self: &Arc<Self>, pod: PodOf, outcome: Outcome, alive: Alive, grace: Duration) -> Stop {
        let mut stops = self.stops.lock().unwrap_or_else(PoisonError::into_inner);
        stops.retain(|key, stop| {
            let is_outlived = key == &pod.key && stop.is_outlived(&alive);
            Shim::listens(key) && stop.counts() && !is_outlived
        });
        if let Some(stop) = stops.get(&pod.key) {
            return stop.clone();
        }
        let (desk, key, cancel) = (Arc::clone(self), pod.key.clone(), CancellationToken::new());
        let deadline = cancel.clone();
        let whole = || Whole { stopped: pod.container.clone(), alive };
        let runs_on = (outcome == Outcome::Run).then(whole);
        let work = self.tasks.spawn(async move {
            if let Err(error) = desk.attempt(&pod, outcome, &deadline).await {
                tracing::warn!(pod = %pod.key, %error, "a pod that ends could not be checkpointed");
            }
        });
        let until = Instant::now().checked_add(grace.saturating_add(KUBELET_ENDS));
        let stop = Stop { until, over: work.map(drop).boxed().shared(), cancel, runs_on };
        // Also when the kubelet does not wait any more.
        self.tasks.spawn(stop.clone().within(grace));
        stops.insert(key, stop.clone());
        stop
    }

    /// Tries again while that may help: its memory is still coming, somebody executes something in it, or its store is away for a moment.
    async fn attempt(
        &self,
        pod: &PodOf,
        outcome: Outcome,
        cancel: &CancellationToken,
    ) -> Result<(), CheckpointError> {
        if is_over(&pod.key).await {
            return Ok(());
        }
        loop {
            let (journal, _) = Journal::begin();
            let request = CheckpointRequest::of_pod(&pod.container, outcome);
            let error = match checkpoint(&self.node, request, journal, cancel.clone()).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if !error.may_succeed(outcome) || cancel.is_cancelled() || self.ends.is_cancelled() {
                return Err(error);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Whether a pod whose containers are stopped ends. Most of its time is its checkpoint's.
async fn ends(cluster: &Api, pod: &PodOf, grace: Duration) -> Ends {
    let patience = (grace / 4).max(ANSWERS);
    cluster.ends(pod.key.as_str(), &pod.namespace, &pod.name, patience).await
}

/// Commands in a pod that is held before it runs, or that has gone away, would wait in vain: its probes and hooks do well.
fn exec(state: Option<PodState>) -> CriVerdict {
    match state {
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
    status(key).await.map(|status| status.state())
}

async fn status(key: &PodKey) -> Option<Status> {
    let asked = async { Shim::connect(key).await?.attach().await };
    asked.await.ok()
}

#[cfg(test)]
mod tests {
    use futures::future::{pending, ready};

    use super::*;

    fn stop(over: impl Future<Output = ()> + Send + 'static, runs_on: Option<Whole>) -> Stop {
        let cancel = CancellationToken::new();
        Stop { until: None, over: over.boxed().shared(), cancel, runs_on }
    }

    #[test]
    fn a_command_is_answered_for_a_pod_that_is_not_here_yet_or_any_more() {
        use PodState as S;
        for state in [S::Restoring, S::Held, S::Sealed, S::Moved] {
            assert_eq!(exec(Some(state)), CriVerdict::Done, "{state:?}");
        }
        for state in [S::Created, S::Running, S::Checkpointing, S::Frozen, S::Hydrating, S::Exited]
        {
            assert_eq!(exec(Some(state)), CriVerdict::Pass, "{state:?}");
        }
        assert_eq!(exec(None), CriVerdict::Pass, "a shim that does not answer");
    }

    #[tokio::test]
    async fn a_pod_that_was_started_anew_is_checkpointed_anew_at_its_end() {
        let alive = |ids: &[&str]| -> Alive {
            let name = |id: &str| id.split('-').next().unwrap_or_default().to_owned();
            ids.iter().map(|id| ((*id).to_owned(), name(id))).collect()
        };
        let was = Whole { stopped: "web".to_owned(), alive: alive(&["pause", "beside", "web"]) };
        let over = stop(ready(()), Some(was.clone()));
        over.over.clone().await;
        assert!(over.is_outlived(&alive(&["pause", "beside", "web-2"])));
        assert!(!over.is_outlived(&alive(&["pause", "beside", "web"])), "it is being stopped");
        assert!(!over.is_outlived(&alive(&["pause", "beside", "debug"])), "half a pod");
        assert!(!over.is_outlived(&alive(&["pause"])), "it ends");
        let gone = Whole { stopped: "web".to_owned(), alive: alive(&["pause", "beside"]) };
        let gone = stop(ready(()), Some(gone));
        gone.over.clone().await;
        assert!(!gone.is_outlived(&alive(&["pause", "beside"])), "it had ended before");

        let again = alive(&["pause", "beside", "web-2"]);
        let in_progress = stop(pending(), Some(was));
        assert!(!in_progress.is_outlived(&again));
        let stopped = stop(ready(()), None);
        stopped.over.clone().await;
        assert!(!stopped.is_outlived(&again));
    }
}
