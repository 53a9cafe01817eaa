//! Annotations that ask for a checkpoint. A request stands until it is taken away: an agent that dies in between does it again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use godwit_engine::checkpoint::{CheckpointError, checkpoint};
use godwit_engine::journal::Journal;
use godwit_engine::{Node, shim::Shim};
use godwit_types::{CheckpointReport, Outcome, PodKey, names};
use godwit_wire::api::CheckpointRequest;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::api::{Annotations, Api, Told, kubelets_uid};
use super::tells;
use super::watch::{self, Change, annotation, running};

/// Between tries of what may succeed later: 1 s, 2 s, … .
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// After so many it is given up: a little more than two minutes.
const TRIES: u32 = 8;

/// Serves requests for ever: one at a time for each pod. A request is another one when the pod was seen without it in between.
pub(super) async fn forever(
    node: &Arc<Node>,
    api: &Arc<Api>,
    mut changes: broadcast::Receiver<Change>,
) {
    let mut requests = Requests::default();
    let mut works: JoinSet<(String, Option<u64>)> = JoinSet::new();
    loop {
        let pods = tokio::select! {
            pods = watch::next(api, &mut changes) => pods,
            // It may ask for something else by now.
            Some(Ok((uid, taken_at))) = works.join_next() => {
                requests.ended(&uid, taken_at);
                Some(api.pod(&uid).into_iter().collect())
            }
        };
        let Some(pods) = pods else { return };
        requests.forget(|uid| api.pod(uid).is_none());
        for pod in pods {
            let Some(uid) = requests.begin(&pod) else { continue };
            let (node, api) = (Arc::clone(node), Arc::clone(api));
            works.spawn(async move {
                let taken_at = carry_out(&node, &api, &pod).await;
                (uid, taken_at)
            });
        }
    }
}

/// Which requests were begun, by the pods' uids.
#[derive(Debug, Default)]
struct Requests {
    served: HashMap<String, Served>,
    at_work: HashSet<String>,
}

impl Requests {
    /// The uid of a pod that asks for what nobody has begun: it is begun now.
    fn begin(&mut self, pod: &Pod) -> Option<String> {
        let uid = kubelets_uid(pod).unwrap_or_default();
        let Some(value) = annotation(pod, names::CHECKPOINT) else {
            self.served.remove(uid);
            return None;
        };
        let is_new = self.served.get(uid).is_none_or(|served| !served.is(value, version(pod)));
        if !is_new || !may_be_served(pod) || !self.at_work.insert(uid.to_owned()) {
            return None;
        }
        let served = Served { value: value.to_owned(), taken_at: None };
        self.served.insert(uid.to_owned(), served);
        Some(uid.to_owned())
    }

    /// Nobody is at work for it any more; it was taken away in this version of the pod, if it was.
    fn ended(&mut self, uid: &str, taken_at: Option<u64>) {
        self.at_work.remove(uid);
        if let Some(served) = self.served.get_mut(uid) {
            served.taken_at = taken_at;
        }
    }

    /// Pods that are not there any more ask for nothing.
    fn forget(&mut self, is_gone: impl Fn(&str) -> bool) {
        self.served.retain(|uid, _| !is_gone(uid));
    }
}

/// A request that was carried out.
#[derive(Debug)]
struct Served {
    value: String,
    /// The pod's version when it was taken away, if it was.
    taken_at: Option<u64>,
}

impl Served {
    /// Whether a pod of this version that asks for this asks for it still. What was told before it was taken away comes late.
    fn is(&self, value: &str, version: Option<u64>) -> bool {
        let asks_again = self.taken_at.is_some_and(|taken_at| version > Some(taken_at));
        self.value == value && !asks_again
    }
}

/// Versions of one resource are comparable (KEP-5504), and numbers.
fn version(pod: &Pod) -> Option<u64> {
    pod.metadata.resource_version.as_deref()?.parse().ok()
}

/// Something of it runs, and it is to stay.
fn may_be_served(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && !running(pod).is_empty()
}

/// The pod's version after the request was taken away, if it was.
async fn carry_out(node: &Node, api: &Api, pod: &Pod) -> Option<u64> {
    let mut written = Annotations::new();
    let mut told = None;
    match made(node, pod).await {
        Ok(Some(report)) => written = tells::of_checkpoint(&report),
        // It was told when it failed.
        Ok(None) => {}
        Err(refused) => told = Some(refused),
    }
    if let Some(told) = &told
        && let Err(error) = tells::persist(api, TRIES, || api.tell(pod, told.clone())).await
    {
        tracing::warn!(pod = pod.name_any(), %error, "who asked could not be told why not");
    }
    let taken = || api.acknowledge(pod, names::CHECKPOINT, written.clone());
    match tells::persist(api, TRIES, taken).await {
        Ok(now) => now.as_ref().and_then(version),
        Err(error) => {
            tracing::warn!(pod = pod.name_any(), %error, "a request that was carried out cannot be taken away");
            None
        }
    }
}

/// Makes it, and again while that may help. `None`: it failed, as its event says.
async fn made(node: &Node, pod: &Pod) -> Result<Option<CheckpointReport>, Told> {
    let value = annotation(pod, names::CHECKPOINT).unwrap_or_default();
    if value != names::NOW {
        return Err(refused(format!(
            "the annotation {} is {}, not {value:?}",
            names::CHECKPOINT,
            names::NOW
        )));
    }
    let uid = kubelets_uid(pod).unwrap_or_default();
    let is_ours = PodKey::new(uid).is_ok_and(|key| Shim::listens(&key));
    if !is_ours {
        return Err(refused(
            "NotGodwit: this pod does not run in Godwit's runtime, so its memory cannot be saved: give it runtimeClassName: godwit and create it anew"
                .to_owned(),
        ));
    }
    let mut wait = FIRST_WAIT;
    for left in (0..TRIES).rev() {
        match once(node, pod).await {
            Ok(report) => return Ok(Some(report)),
            Err(error) if left > 0 && error.may_succeed(Outcome::Run) => {
                tokio::time::sleep(wait).await;
                wait *= 2;
            }
            Err(_) => break,
        }
    }
    Ok(None)
}

async fn once(node: &Node, pod: &Pod) -> Result<CheckpointReport, CheckpointError> {
    let container = running(pod).first().copied().unwrap_or_default();
    let request = CheckpointRequest::of_pod(container, Outcome::Run);
    let (journal, _) = Journal::begin();
    checkpoint(node, request, journal, CancellationToken::new()).await
}

fn refused(note: String) -> Told {
    Told {
        warns: true,
        reason: "CheckpointFailed".to_owned(),
        action: "Checkpoint".to_owned(),
        note,
    }
}

#[cfg(test)]
mod tests;
