//! What it means to a pod that its containers are stopped: its end, or a new start under the same uid.

use std::future::pending;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod, PodCondition};
use kube::api::ListParams;
use tokio::time::{sleep, timeout};

use super::api::{Api, kubelets_uid};
use crate::logind;

/// For an end that the kubelet knows of to be heard of.
const HEARS: Duration = Duration::from_secs(1);
/// From one question to the next.
const ASKS: Duration = Duration::from_millis(400);
/// Why a kubelet ends a pod whose object says so only when all of it has ended (`pkg/kubelet/eviction`, `pkg/kubelet/preemption`).
const EVICTS: [&str; 2] = ["Evicted", "Preempting"];

/// What a stop of a pod's containers means to the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    /// It is deleted, or must leave its node: nothing starts under its uid any more.
    ForGood,
    /// The pod is there, and stays: the kubelet starts them anew.
    No,
    /// The API server does not answer, or did not a moment ago.
    NotKnown,
}

impl Api {
    /// What it means that its containers are stopped. The kubelet may have heard of it a moment earlier, or long before a watch that
    /// was interrupted: who hears nothing asks, for as long as `patience`.
    pub(crate) async fn ends(
        &self,
        uid: &str,
        namespace: &str,
        name: &str,
        patience: Duration,
    ) -> Ends {
        let heard = async {
            tokio::select! {
                biased;
                _ = self.heard_of(uid, is_over) => {}
                () = self.hears_of_its_eviction(uid, namespace) => {}
                () = node_shuts_down() => {}
            }
        };
        let told = async {
            sleep(HEARS).await;
            // A kubelet's eviction may still be on its way to an API server that was away.
            let mut was_away = self.away_since().is_some();
            loop {
                match self.told(uid, namespace, name).await {
                    Some(Ends::No) if was_away => return Ends::NotKnown,
                    Some(ends) => return ends,
                    None => was_away = true,
                }
                sleep(ASKS).await;
            }
        };
        let known = async {
            tokio::select! {
                biased;
                () = heard => Ends::ForGood,
                ends = told => ends,
            }
        };
        timeout(HEARS + patience, known).await.unwrap_or(Ends::NotKnown)
    }

    async fn hears_of_its_eviction(&self, uid: &str, namespace: &str) {
        let events: kube::Api<Event> = kube::Api::namespaced(self.client().clone(), namespace);
        let of_it = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
        loop {
            match events.list(&of_it).await {
                Ok(found) if found.items.iter().any(|one| is_eviction(one, self.node())) => return,
                Ok(_) => {}
                Err(error) => tracing::info!(uid, %error, "whether a pod is evicted is not known"),
            }
            sleep(ASKS).await;
        }
    }

    /// By the API server's own word of now, if it has one. A pod that is not there was deleted by force.
    async fn told(&self, uid: &str, namespace: &str, name: &str) -> Option<Ends> {
        let pods: kube::Api<Pod> = kube::Api::namespaced(self.client().clone(), namespace);
        match timeout(HEARS, pods.get_opt(name)).await {
            Ok(Ok(Some(pod))) if kubelets_uid(&pod) == Some(uid) && !is_over(&pod) => {
                Some(Ends::No)
            }
            Ok(Ok(_)) => Some(Ends::ForGood),
            Ok(Err(error)) => {
                tracing::info!(name, %error, "whether a pod ends is not known");
                None
            }
            Err(_) => None,
        }
    }
}

/// Its kubelet ends all of its pods then, and none of them starts there again.
async fn node_shuts_down() {
    if logind::shuts_down().await != Ok(true) {
        pending().await
    }
}

/// Deleted, or disrupted: by an eviction, a preemption, its node's end (KEP-3329).
fn is_over(pod: &Pod) -> bool {
    let disrupted = |one: &PodCondition| one.type_ == "DisruptionTarget" && one.status == "True";
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_some() || conditions.into_iter().flatten().any(disrupted)
}

/// Told by the kubelet of this node. Who may write events into a pod's namespace can pretend to be it, and has that pod stopped at a
/// checkpoint where it would have been killed.
fn is_eviction(event: &Event, node: &str) -> bool {
    let says = |word: &Option<String>, one: &str| word.as_deref() == Some(one);
    let ours = event
        .source
        .as_ref()
        .is_some_and(|source| says(&source.component, "kubelet") && says(&source.host, node));
    ours && EVICTS.iter().any(|reason| says(&event.reason, reason))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    #[test]
    fn a_pod_is_over_when_it_is_deleted_or_disrupted() {
        let over = |pod: Value| is_over(&from_value(pod).unwrap());
        let condition = |kind: &str, status: &str| json!({"status": {"conditions": [{"type": kind, "status": status}]}});
        assert!(over(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})));
        assert!(over(condition("DisruptionTarget", "True")));
        assert!(!over(condition("DisruptionTarget", "False")));
        assert!(!over(condition("Ready", "False")));
        assert!(!over(json!({})));
    }

    #[test]
    fn an_eviction_is_told_by_the_kubelet_of_the_pods_node() {
        let told = |reason: &str, component: &str, host: &str| {
            let event = json!({
                "metadata": {}, "involvedObject": {}, "reason": reason,
                "source": {"component": component, "host": host},
            });
            is_eviction(&from_value(event).unwrap(), "n1")
        };
        assert!(told("Evicted", "kubelet", "n1") && told("Preempting", "kubelet", "n1"));
        assert!(!told("Killing", "kubelet", "n1"));
        assert!(!told("Evicted", "kubelet", "n2"));
        assert!(!told("Evicted", "somebody", "n1"));
    }
}
