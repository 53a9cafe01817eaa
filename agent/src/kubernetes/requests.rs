//! Annotations that ask for a checkpoint. A request stands until it is taken away: an agent that dies in between does it again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use godwit_engine::checkpoint::{CheckpointError, checkpoint};
use godwit_engine::journal::Journal;
use godwit_engine::{Node, shim::Shim};
use godwit_types::{CheckpointReport, Code, Outcome, PodKey, names};
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
    // By their values: another one is another request.
    let mut served: HashMap<String, String> = HashMap::new();
    let mut at_work: HashSet<String> = HashSet::new();
    let mut works: JoinSet<String> = JoinSet::new();
    loop {
        let pods = tokio::select! {
            pods = watch::next(api, &mut changes) => pods,
            // It may ask for something else by now.
            Some(Ok(uid)) = works.join_next() => {
                at_work.remove(&uid);
                Some(api.pod(&uid).into_iter().collect())
            }
        };
        let Some(pods) = pods else { return };
        served.retain(|uid, _| api.pod(uid).is_some());
        for pod in pods {
            let uid = kubelets_uid(&pod).unwrap_or_default().to_owned();
            let Some(value) = annotation(&pod, names::CHECKPOINT) else {
                served.remove(&uid);
                continue;
            };
            let is_new = served.get(&uid).is_none_or(|served| served != value);
            if is_new && may_be_served(&pod) && at_work.insert(uid.clone()) {
                served.insert(uid.clone(), value.to_owned());
                let (node, api) = (Arc::clone(node), Arc::clone(api));
                works.spawn(async move {
                    carry_out(&node, &api, &pod).await;
                    uid
                });
            }
        }
    }
}

/// Something of it runs, and it is to stay.
fn may_be_served(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && !running(pod).is_empty()
}

async fn carry_out(node: &Node, api: &Api, pod: &Pod) {
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
    if let Err(error) = tells::persist(api, TRIES, taken).await {
        tracing::warn!(pod = pod.name_any(), %error, "a request that was carried out cannot be taken away");
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
            Err(error) if left > 0 && may_succeed(error.code()) => {
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

/// Its store is away, or somebody else is at work for the pod.
fn may_succeed(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Precondition)
}

fn refused(note: String) -> Told {
    Told {
        warns: true,
        reason: "CheckpointFailed".to_owned(),
        action: "Checkpoint".to_owned(),
        note,
    }
}
