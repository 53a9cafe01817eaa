//! Which pod of ours a container of the kubelet's belongs to. Remembered: a container's id and its specification never change.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use godwit_types::{Code, PodKey, names};

use crate::EngineError;
use crate::checkpoint::source::annotation;
use crate::containerd::{self, ContainerdError};
use crate::node::Node;
use crate::shim::Shim;

/// So many containers are remembered: more than a node runs.
const KEPT: usize = 4096;

/// A container and its pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodOf {
    /// The pod.
    pub key: PodKey,
    /// Its namespace in the cluster.
    pub namespace: String,
    /// Its name there.
    pub name: String,
    /// The container's id.
    pub container: String,
    /// Its name in the pod.
    pub container_name: String,
    /// Annotations that concern us.
    annotations: BTreeMap<String, String>,
}

impl PodOf {
    /// The value of an annotation of the pod, as it was when the container was made.
    #[must_use]
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(String::as_str)
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// By container id.
    pods: BTreeMap<String, Option<PodOf>>,
    /// Oldest first.
    order: VecDeque<String>,
}

impl Found {
    fn get(&self, container: &str) -> Option<Option<PodOf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pods.get(container).cloned()
    }

    fn put(&self, container: &str, pod: Option<PodOf>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.pods.insert(container.to_owned(), pod).is_none() {
            kept.order.push_back(container.to_owned());
        }
        while kept.pods.len() > KEPT {
            let Some(oldest) = kept.order.pop_front() else { break };
            kept.pods.remove(&oldest);
        }
    }
}

/// The pod of a container, if our shim serves it.
///
/// # Errors
/// containerd does not tell.
pub async fn find(node: &Node, container: &str) -> Result<Option<PodOf>, EngineError> {
    let found = match node.found.get(container) {
        Some(found) => found,
        None => {
            let found = ask(node, container).await?;
            node.found.put(container, found.clone());
            found
        }
    };
    // Not remembered: a shim may be about to follow another one.
    Ok(found.filter(|pod| Shim::listens(&pod.key)))
}

async fn ask(node: &Node, container: &str) -> Result<Option<PodOf>, ContainerdError> {
    let spec = match containerd::spec_of(&node.containerd, names::CRI_NAMESPACE, container).await {
        Ok(spec) => spec,
        Err(error) if error.code() == Code::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let key = annotation(&spec, names::SANDBOX_UID).and_then(|uid| PodKey::new(uid).ok());
    let Some(key) = key else { return Ok(None) };
    let ours = |(name, _): &(&String, &String)| name.starts_with("godwit.dev/");
    let all = spec.annotations().iter().flatten().filter(ours);
    let annotations = all.map(|(name, value)| (name.clone(), value.clone())).collect();
    let told = |name| annotation(&spec, name).unwrap_or_default().to_owned();
    let container_name = told(names::CONTAINER_NAME);
    let [namespace, name] = [names::SANDBOX_NAMESPACE, names::SANDBOX_NAME].map(told);
    let container = container.to_owned();
    Ok(Some(PodOf { key, namespace, name, container, container_name, annotations }))
}
