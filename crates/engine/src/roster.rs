//! The kubelet's pods that run in our shim here, and whether each could be checkpointed now.
//!
//! Asks containerd and the shims, and for lineages their stores; no API server. Only looks: whoever is at work for a pod is waited for
//! a little, and never held up.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use godwit_ownership::{Fence, LineageRef};
use godwit_types::{CheckpointId, Code, Outcome, PodKey, names};
use godwit_wire::api::{CheckpointRequest, Eligibility, ListedPod, PodList};
use tokio::time::timeout;

use crate::EngineError;
use crate::checkpoint::{CheckpointError, eligible};
use crate::containerd::{self, OfKubelet};
use crate::log::StoreLog;
use crate::node::Node;
use crate::shim::Shim;

const NAME: &str = "io.kubernetes.pod.name";
const SPACE: &str = "io.kubernetes.pod.namespace";
const CONTAINER: &str = "io.kubernetes.container.name";
/// Pods that are looked at beside each other.
const AT_ONCE: usize = 8;
/// Longest look at a pod: who is at work for it, and its store, may take so long.
const PATIENCE: Duration = Duration::from_secs(15);

/// Lists them.
///
/// # Errors
/// containerd does not tell.
pub async fn of(node: &Node) -> Result<PodList, EngineError> {
    let all = containerd::all_of_kubelet(&node.containerd, names::CRI_NAMESPACE).await?;
    let looks = grouped(&all, Shim::listens).into_iter().map(|pod| look(node, pod));
    Ok(PodList { pods: futures::stream::iter(looks).buffered(AT_ONCE).collect().await })
}

/// A pod as containerd knows it.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    key: PodKey,
    namespace: String,
    name: String,
    /// The names of the containers that run.
    containers: Vec<String>,
    /// The id of one of them, or of the sandbox.
    member: String,
}

/// Those that live and are ours, by namespace and name. Of a pod whose sandbox was made anew the dead one is there, too.
fn grouped(all: &[OfKubelet], is_ours: impl Fn(&PodKey) -> bool) -> Vec<Known> {
    let mut pods = BTreeMap::new();
    for one in all.iter().filter(|one| one.lives) {
        let label = |name| one.labels.get(name).map(String::as_str).unwrap_or_default();
        let Ok(key) = PodKey::new(label(containerd::POD_UID)) else { continue };
        if !is_ours(&key) {
            continue;
        }
        let (namespace, name) = (label(SPACE), label(NAME));
        let begun = || Known {
            key,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            containers: Vec::new(),
            member: one.id.clone(),
        };
        let pod = pods.entry((namespace, name, label(containerd::POD_UID))).or_insert_with(begun);
        // Sandboxes have no such label.
        if let Some(container) = one.labels.get(CONTAINER) {
            pod.containers.push(container.clone());
            pod.member.clone_from(&one.id);
        }
    }
    pods.values_mut().for_each(|pod| pod.containers.sort_unstable());
    pods.into_values().collect()
}

async fn look(node: &Node, pod: Known) -> ListedPod {
    let (at, eligibility) =
        tokio::join!(timeout(PATIENCE, lineage(&pod.key)), eligibility(node, &pod));
    let at = at.ok().flatten();
    let last = async { timeout(PATIENCE, last_checkpoint(node, at.as_ref()?)).await.ok()? };
    ListedPod {
        namespace: pod.namespace,
        name: pod.name,
        uid: pod.key.to_string(),
        containers: pod.containers,
        last_checkpoint: last.await,
        lineage: at.map(|at| at.lineage.to_string()),
        eligibility,
    }
}

/// What its fence says; a pod without one has none yet.
async fn lineage(key: &PodKey) -> Option<LineageRef> {
    let status = Shim::connect(key).await.ok()?.attach().await.ok()?;
    Some(Fence::decode(&status.fence).ok()?.at)
}

async fn last_checkpoint(node: &Node, at: &LineageRef) -> Option<CheckpointId> {
    let tenant = node.store(Some(&at.store)).ok()?.1.tenant(&at.tenant);
    StoreLog::new(tenant, &at.lineage).last_point().await
}

async fn eligibility(node: &Node, pod: &Known) -> Eligibility {
    let asked = async {
        loop {
            match eligible(node, CheckpointRequest::of_pod(&pod.member, Outcome::Run)).await {
                // Somebody is at work for it.
                Err(CheckpointError::Cancelled) => node.pods.free(&pod.key).await,
                known => return known,
            }
        }
    };
    let unknown = |reason: &str| Eligibility::Unknown { reason: reason.to_owned() };
    match timeout(PATIENCE, asked).await {
        Err(_) => unknown("somebody is at work for it, or its store does not answer: ask again"),
        Ok(Ok(())) => Eligibility::Yes,
        Ok(Err(error)) => match error.code() {
            Code::Refused | Code::Corrupt => Eligibility::No { reason: error.to_string() },
            _ => unknown(&error.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(id: &str, uid: &str, container: Option<&str>, lives: bool) -> OfKubelet {
        let mut labels = vec![(containerd::POD_UID, uid), (SPACE, "shop"), (NAME, "web")];
        labels.extend(container.map(|name| (CONTAINER, name)));
        let labels = labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        OfKubelet { id: id.to_owned(), labels, lives }
    }

    #[test]
    fn a_pod_has_the_containers_that_run_and_the_dead_are_not_counted() {
        let all = [
            one("s1", "1-2", None, true),
            one("s0", "1-2", None, false),
            one("c2", "1-2", Some("side"), true),
            one("c1", "1-2", Some("main"), true),
            one("c0", "1-2", Some("init"), false),
            one("s9", "9-9", None, true),
            one("s8", "8-8", None, false),
        ];
        let pods = grouped(&all, |key| key.as_str() != "9-9");
        assert_eq!(pods.len(), 1, "{pods:?}");
        assert_eq!((pods[0].namespace.as_str(), pods[0].name.as_str()), ("shop", "web"));
        assert_eq!(pods[0].containers, ["main", "side"]);
        assert!(["c1", "c2"].contains(&pods[0].member.as_str()));
    }

    #[test]
    fn a_pod_none_of_whose_containers_run_is_asked_by_its_sandbox() {
        let all = [one("c1", "1-2", Some("main"), false), one("s1", "1-2", None, true)];
        let pods = grouped(&all, |_| true);
        assert_eq!((pods[0].member.as_str(), pods[0].containers.len()), ("s1", 0));
    }

    #[test]
    fn what_has_no_uid_that_could_be_a_key_is_no_pod() {
        assert!(
            grouped(&[one("x", "", None, true), one("y", "../a", None, true)], |_| true).is_empty()
        );
    }
}
