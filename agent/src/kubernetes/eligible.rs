//! Whether each pod could be checkpointed as it is now: written on it when that changes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use godwit_engine::checkpoint::eligible;
use godwit_engine::{Node, shim::Shim};
use godwit_types::{Code, Outcome, PodKey, names};
use godwit_wire::api::CheckpointRequest;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep_until};

use super::api::{Annotations, Api, kubelets_uid};
use super::watch::{self, Change, annotation, running};

/// What processes do changes: each pod is looked at again so often.
const AGAIN: Duration = Duration::from_secs(120);
/// One that could not be looked at, as somebody is at work for it, or its store is away; then after twice as long.
const SOON: Duration = Duration::from_secs(5);

/// Looks at pods for ever: when their containers change, and now and then.
pub(super) async fn forever(node: &Node, api: &Api, mut changes: broadcast::Receiver<Change>) {
    // What was running when a pod was looked at last.
    let mut looked: HashMap<String, Vec<String>> = HashMap::new();
    let mut all = Instant::now() + AGAIN;
    let (mut next, mut soon) = (all, SOON);
    loop {
        let pods = tokio::select! {
            pods = watch::next(api, &mut changes) => pods,
            () = sleep_until(next) => {
                let now = Instant::now();
                if now >= all {
                    all = now + AGAIN;
                    looked.clear();
                }
                soon = if next < all { (soon * 2).min(AGAIN) } else { SOON };
                next = all;
                Some(api.pods().map(|pods| pods.state()).unwrap_or_default())
            }
        };
        let Some(pods) = pods else { return };
        for pod in pods {
            let runs: Vec<String> = running(&pod).into_iter().map(str::to_owned).collect();
            let uid = kubelets_uid(&pod).unwrap_or_default().to_owned();
            let is_ours = PodKey::new(&*uid).is_ok_and(|key| Shim::listens(&key));
            if runs.is_empty() || !is_ours || looked.get(&uid) == Some(&runs) {
                continue;
            }
            match look(node, api, &pod, &runs).await {
                true => drop(looked.insert(uid, runs)),
                false => next = next.min(Instant::now() + soon),
            }
        }
    }
}

/// Whether an answer is written.
async fn look(node: &Node, api: &Api, pod: &Arc<Pod>, runs: &[String]) -> bool {
    let Some(container) = runs.first() else { return false };
    let answer = match eligible(node, CheckpointRequest::of_pod(container, Outcome::Run)).await {
        Ok(()) => "true".to_owned(),
        // Somebody is at work for it, or has ended meanwhile: that says nothing about the pod.
        Err(error) if !is_about_the_pod(error.code()) => return false,
        Err(error) => error.to_string(),
    };
    if annotation(pod, names::ELIGIBLE) == Some(&answer) {
        return true;
    }
    let written = Annotations::from([(names::ELIGIBLE, Some(answer))]);
    let written = api.annotate(pod, &written).await;
    if let Err(error) = &written {
        tracing::debug!(pod = pod.name_any(), %error, "a pod could not be annotated");
    }
    written.is_ok()
}

fn is_about_the_pod(code: Code) -> bool {
    matches!(code, Code::Refused | Code::Corrupt)
}
