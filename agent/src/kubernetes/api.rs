//! This node's pods as the API server last told them, and what is written to them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::Store;
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

/// Who writes: field manager and reporting controller.
const ME: &str = "godwit-agent";
/// Longest note of an event (events.k8s.io/v1: 1 kB).
const NOTE: usize = 1000;
/// Which static pod an object mirrors.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// For the watch to hear of a pod that the kubelet has heard of.
const LATE: Duration = Duration::from_secs(10);

/// For the watch to hear of an end that the kubelet has heard of.
const HEARS: Duration = Duration::from_secs(1);

/// Annotations to be written; `None` takes one away.
pub(super) type Annotations = BTreeMap<&'static str, Option<String>>;

/// The API server, as one node's agent sees it.
pub(crate) struct Api {
    client: Client,
    node: String,
    recorder: Recorder,
    pods: OnceLock<Store<Pod>>,
    /// Since when it does not tell of pods.
    away_since: Mutex<Option<Timestamp>>,
}

/// What a stop of a pod's containers means to the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    /// It is deleted, or must leave its node: nothing starts under its uid any more.
    ForGood,
    /// As far as is known the kubelet starts them anew.
    NotKnown,
}

/// What users read about a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) warns: bool,
    pub(super) reason: String,
    /// Events of one action and reason are counted, not repeated.
    pub(super) action: String,
    pub(super) note: String,
}

impl Api {
    pub(super) fn new(client: Client, node: String) -> Self {
        let reporter = Reporter { controller: ME.to_owned(), instance: Some(node.clone()) };
        let recorder = Recorder::new(client.clone(), reporter);
        let away_since = Mutex::default();
        Self { client, node, recorder, pods: OnceLock::new(), away_since }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Since when it does not tell of pods; `None` while it does.
    pub(super) fn away_since(&self) -> Option<Timestamp> {
        *self.away_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It tells of pods, or does not.
    pub(super) fn is_away(&self, away: bool) {
        let mut since = self.away_since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = if away { since.or(Some(Timestamp::now())) } else { None };
    }

    /// The pods of all namespaces.
    pub(super) fn all_pods(&self) -> kube::Api<Pod> {
        kube::Api::all(self.client.clone())
    }

    pub(super) fn nodes(&self) -> kube::Api<Node> {
        kube::Api::all(self.client.clone())
    }

    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// From now on pods are found here.
    pub(super) fn keep(&self, pods: Store<Pod>) {
        // Said once, by the one who watches.
        let _ = self.pods.set(pods);
    }

    /// Every pod that is known. `None` until all were listed once.
    pub(super) fn pods(&self) -> Option<&Store<Pod>> {
        self.pods.get()
    }

    /// A pod that exists, by the uid that its kubelet knows it by.
    pub(super) fn pod(&self, uid: &str) -> Option<Arc<Pod>> {
        let pods = self.pods()?;
        let known = pods.find(|pod| pod.metadata.uid.as_deref() == Some(uid));
        known.or_else(|| pods.find(|pod| kubelets_uid(pod) == Some(uid)))
    }

    /// The same, of which somebody else has heard already.
    pub(super) async fn pod_soon(&self, uid: &str) -> Option<Arc<Pod>> {
        let found = async {
            loop {
                if let Some(pod) = self.pod(uid) {
                    return pod;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(LATE, found).await.ok()
    }

    /// What it means that its containers are stopped. The kubelet may have heard of it a moment earlier.
    pub(crate) async fn ends(&self, uid: &str, namespace: &str, name: &str) -> Ends {
        let deadline = Instant::now() + HEARS;
        loop {
            let known = self.pod(uid);
            if known.as_ref().is_some_and(|pod| is_over(pod)) {
                return Ends::ForGood;
            }
            if Instant::now() >= deadline {
                // One that is not there was deleted by force, or was never heard of.
                let is_gone = known.is_none() && self.is_gone(uid, namespace, name).await;
                return if is_gone { Ends::ForGood } else { Ends::NotKnown };
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether there is no such pod, by the API server's own word.
    async fn is_gone(&self, uid: &str, namespace: &str, name: &str) -> bool {
        let pods: kube::Api<Pod> = kube::Api::namespaced(self.client.clone(), namespace);
        match timeout(HEARS, pods.get_opt(name)).await {
            Ok(Ok(found)) => found.is_none_or(|pod| kubelets_uid(&pod) != Some(uid)),
            Ok(Err(error)) => {
                tracing::info!(name, %error, "whether a pod is gone is not known");
                false
            }
            Err(_) => false,
        }
    }

    /// Writes annotations of this very pod, not of one that came after it.
    ///
    /// # Errors
    /// The API server is away, or does not permit it. A pod that is gone is none.
    pub(super) async fn annotate(&self, pod: &Pod, all: &Annotations) -> kube::Result<()> {
        let body = json!({"metadata": {"uid": pod.uid(), "annotations": all}});
        let namespace = pod.namespace().unwrap_or_default();
        let pods: kube::Api<Pod> = kube::Api::namespaced(self.client.clone(), &namespace);
        let patched = pods.patch(&pod.name_any(), &by_me(), &Patch::Merge(body)).await;
        match patched {
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// Publishes an event; one that cannot be is in the log.
    pub(super) async fn tell(&self, pod: &Pod, told: Told) {
        let event = Event {
            type_: if told.warns { EventType::Warning } else { EventType::Normal },
            reason: told.reason,
            note: Some(cut(told.note)),
            action: told.action,
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &pod.object_ref(&())).await {
            tracing::warn!(pod = pod.name_any(), event = event.reason, %error, "an event could not be told");
        }
    }

    /// Merges this into the node's object, or into its status.
    ///
    /// # Errors
    /// The API server is away, or does not permit it.
    pub(super) async fn patch_node(&self, body: Value, status: bool) -> kube::Result<Node> {
        let nodes = self.nodes();
        match status {
            // Conditions are a map by type only to this kind of patch.
            true => nodes.patch_status(&self.node, &by_me(), &Patch::Strategic(body)).await,
            false => nodes.patch(&self.node, &by_me(), &Patch::Merge(body)).await,
        }
    }
}

/// The uid of its sandbox. A static pod is known by the hash of its manifest; its object is a mirror of it, with another uid.
pub(super) fn kubelets_uid(pod: &Pod) -> Option<&str> {
    let by_its_node = pod.owner_references().iter().any(|owner| owner.kind == "Node");
    let mirrored = pod.annotations().get(MIRROR).filter(|_| by_its_node).map(String::as_str);
    mirrored.or(pod.metadata.uid.as_deref())
}

/// Deleted, or disrupted: by an eviction, a preemption, its node's end (KEP-3329).
fn is_over(pod: &Pod) -> bool {
    let disrupted = |one: &PodCondition| one.type_ == "DisruptionTarget" && one.status == "True";
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_some() || conditions.into_iter().flatten().any(disrupted)
}

fn by_me() -> PatchParams {
    PatchParams { field_manager: Some(ME.to_owned()), ..PatchParams::default() }
}

fn cut(mut note: String) -> String {
    if note.len() > NOTE {
        let end = (0..=NOTE - 3).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
        note.truncate(end);
        note.push('…');
    }
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_no_longer_than_an_api_server_takes() {
        assert_eq!(cut("short".to_owned()), "short");
        let long = cut("ö".repeat(1000));
        assert!(long.len() <= 1000 && long.ends_with('…'), "{}", long.len());
    }
}
