//! This node's pods as the API server last told them, and what is written to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::Store;
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::{Value, json};
use tokio::sync::{Mutex as Turn, MutexGuard};
use tokio::time::{sleep, timeout};

/// Who writes: field manager and reporting controller.
const ME: &str = "godwit-agent";
/// Longest note of an event (events.k8s.io/v1: 1 kB).
const NOTE: usize = 1000;
/// Which static pod an object mirrors.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// For the watch to hear of a pod that the kubelet has heard of.
const LATE: Duration = Duration::from_secs(10);
/// From one look at what the watch has told to the next.
const LOOKS: Duration = Duration::from_millis(50);
/// For the API server to answer.
const ANSWERS: Duration = Duration::from_secs(10);
/// Writes in a row that somebody else is ahead of.
const CONFLICTS: u32 = 4;

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
    /// Pods may come to the node. Who writes into the node's object holds it meanwhile: nobody writes what was true before.
    takes_pods: Turn<bool>,
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
        let takes_pods = Turn::new(true);
        Self { client, node, recorder, pods: OnceLock::new(), away_since, takes_pods }
    }

    /// Whether pods may come to the node, for who writes that into its object.
    pub(super) async fn takes_pods(&self) -> MutexGuard<'_, bool> {
        self.takes_pods.lock().await
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

    /// Whether it answers now: a watch that has come back says nothing before something happens.
    pub(super) async fn answers(&self) -> bool {
        let one = ListParams::default().fields(&format!("spec.nodeName={}", self.node)).limit(1);
        let answers = matches!(timeout(ANSWERS, self.all_pods().list(&one)).await, Ok(Ok(_)));
        if answers {
            self.is_away(false);
        }
        answers
    }

    /// The uids, as the kubelet knows them, of all pods of the node at this moment; `None`: it does not answer.
    pub(super) async fn uids(&self) -> Option<BTreeSet<String>> {
        let ours = ListParams::default().fields(&format!("spec.nodeName={}", self.node));
        let listed = timeout(ANSWERS, self.all_pods().list(&ours)).await.ok()?.ok()?;
        Some(listed.iter().filter_map(kubelets_uid).map(str::to_owned).collect())
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
        timeout(LATE, self.heard_of(uid, |_| true)).await.ok()
    }

    /// Waits for as long as it takes until the watch has told of such a pod of this uid.
    pub(super) async fn heard_of(&self, uid: &str, is_such: impl Fn(&Pod) -> bool) -> Arc<Pod> {
        loop {
            if let Some(pod) = self.pod(uid).filter(|pod| is_such(pod)) {
                return pod;
            }
            sleep(LOOKS).await;
        }
    }

    /// Writes annotations of this very pod, not of one that came after it.
    ///
    /// # Errors
    /// The API server is away, or does not permit it. A pod that is gone is none.
    pub(super) async fn annotate(&self, pod: &Pod, all: &Annotations) -> kube::Result<()> {
        let body = Patch::Merge(json!({"metadata": {"uid": pod.uid(), "annotations": all}}));
        let (pods, name) = (self.pods_beside(pod), pod.name_any());
        match in_time(pods.patch(&name, &by_me(), &body)).await {
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// The same, and takes an annotation away: only if its value is the pod's still, for another one asks for something else. The
    /// pod without it, if so.
    ///
    /// # Errors
    /// As [`Self::annotate`], and a conflict with who writes in between again and again.
    pub(super) async fn acknowledge(
        &self,
        pod: &Pod,
        name: &'static str,
        all: Annotations,
    ) -> kube::Result<Option<Pod>> {
        let mut tries = CONFLICTS;
        loop {
            tries -= 1;
            match self.acknowledge_once(pod, name, all.clone()).await {
                Err(kube::Error::Api(status)) if status.is_conflict() && tries > 0 => {}
                Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(None),
                other => return other,
            }
        }
    }

    async fn acknowledge_once(
        &self,
        pod: &Pod,
        name: &'static str,
        mut all: Annotations,
    ) -> kube::Result<Option<Pod>> {
        let (pods, its_name) = (self.pods_beside(pod), pod.name_any());
        let now = in_time(pods.get_opt(&its_name)).await?;
        let Some(now) = now.filter(|now| now.uid() == pod.uid()) else { return Ok(None) };
        let is_served = now.annotations().get(name) == pod.annotations().get(name);
        if is_served {
            all.insert(name, None);
        }
        let version = now.resource_version();
        let body =
            Patch::Merge(json!({"metadata": {"resourceVersion": version, "annotations": all}}));
        let patched = in_time(pods.patch(&its_name, &by_me(), &body)).await?;
        Ok(Some(patched).filter(|_| is_served))
    }

    /// The pods of its namespace.
    fn pods_beside(&self, pod: &Pod) -> kube::Api<Pod> {
        kube::Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default())
    }

    /// Publishes an event.
    ///
    /// # Errors
    /// The API server is away, or does not permit it.
    pub(super) async fn tell(&self, pod: &Pod, told: Told) -> kube::Result<()> {
        let event = Event {
            type_: if told.warns { EventType::Warning } else { EventType::Normal },
            reason: told.reason,
            note: Some(cut(told.note)),
            action: told.action,
            secondary: None,
        };
        in_time(self.recorder.publish(&event, &pod.object_ref(&()))).await
    }

    /// Merges this into the node's object, or into its status.
    ///
    /// # Errors
    /// The API server is away, or does not permit it.
    pub(super) async fn patch_node(&self, body: Value, status: bool) -> kube::Result<Node> {
        let nodes = self.nodes();
        match status {
            // Conditions are a map by type only to this kind of patch.
            true => {
                let body = Patch::Strategic(body);
                in_time(nodes.patch_status(&self.node, &by_me(), &body)).await
            }
            false => in_time(nodes.patch(&self.node, &by_me(), &Patch::Merge(body))).await,
        }
    }
}

/// The uid of its sandbox. A static pod is known by the hash of its manifest; its object is a mirror of it, with another uid.
pub(super) fn kubelets_uid(pod: &Pod) -> Option<&str> {
    let by_its_node = pod.owner_references().iter().any(|owner| owner.kind == "Node");
    let mirrored = pod.annotations().get(MIRROR).filter(|_| by_its_node).map(String::as_str);
    mirrored.or(pod.metadata.uid.as_deref())
}

/// An API server that has vanished answers nothing, and kube waits for ever.
async fn in_time<T>(asked: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    let silent = |_| Err(kube::Error::Service("the API server does not answer".into()));
    timeout(ANSWERS, asked).await.unwrap_or_else(silent)
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

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_says_nothing_is_not_waited_for() {
        let silent = in_time(std::future::pending::<kube::Result<()>>()).await;
        assert!(matches!(silent, Err(kube::Error::Service(_))), "{silent:?}");
        assert!(in_time(std::future::ready(Ok(()))).await.is_ok());
    }

    #[test]
    fn a_note_is_no_longer_than_an_api_server_takes() {
        assert_eq!(cut("short".to_owned()), "short");
        let long = cut("ö".repeat(1000));
        assert!(long.len() <= 1000 && long.ends_with('…'), "{}", long.len());
    }
}
