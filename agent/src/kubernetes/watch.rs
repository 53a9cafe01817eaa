//! This node's pods, as they change.

use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use tokio::sync::broadcast;

use super::api::Api;

/// So many changes wait for whoever is slow; who misses some looks at all pods.
const KEPT: usize = 1024;

/// What has changed.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// A pod is there, or is another now.
    Pod(Arc<Pod>),
    /// A pod is not there any more.
    Gone,
    /// All pods were listed anew.
    Listed,
}

pub(super) fn channel() -> (broadcast::Sender<Change>, broadcast::Receiver<Change>) {
    broadcast::channel(KEPT)
}

/// Watches for ever; an API server that is away is asked again.
pub(super) async fn forever(api: &Api, changes: broadcast::Sender<Change>) {
    let (store, writer) = reflector::store();
    let events = watcher(api.all_pods(), of_node(api.node())).default_backoff().reflect(writer);
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        if event.is_ok() {
            api.is_away(false);
        }
        let change = match event {
            Ok(Event::Apply(pod)) => Change::Pod(Arc::new(pod)),
            Ok(Event::Delete(_)) => Change::Gone,
            Ok(Event::InitDone) => {
                api.keep(store.clone());
                tracing::info!(pods = store.len(), "this node's pods are known");
                Change::Listed
            }
            Ok(Event::Init | Event::InitApply(_)) => continue,
            Err(error) => {
                if api.away_since().is_none() {
                    tracing::warn!(%error, "the API server does not tell of this node's pods; it is asked again");
                }
                api.is_away(true);
                continue;
            }
        };
        // Whoever listens is there as long as this.
        let _ = changes.send(change);
    }
}

/// The pods of this node, and no others.
fn of_node(node: &str) -> Config {
    Config::default().fields(&format!("spec.nodeName={node}"))
}

/// The next pods to look at: those that changed, or all after some were missed. `None`: nothing follows.
pub(super) async fn next(
    api: &Api,
    changes: &mut broadcast::Receiver<Change>,
) -> Option<Vec<Arc<Pod>>> {
    let all = || api.pods().map(|pods| pods.state()).unwrap_or_default();
    match changes.recv().await {
        Ok(Change::Pod(pod)) => Some(vec![pod]),
        Ok(Change::Gone) => Some(Vec::new()),
        Ok(Change::Listed) | Err(broadcast::error::RecvError::Lagged(_)) => Some(all()),
        Err(broadcast::error::RecvError::Closed) => None,
    }
}

/// The value of an annotation.
pub(super) fn annotation<'p>(pod: &'p Pod, name: &str) -> Option<&'p str> {
    pod.annotations().get(name).map(String::as_str)
}

/// containerd's ids of the containers of a pod that run: those that the kubelet restarts, and sidecars among its init containers.
pub(super) fn running(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else { return Vec::new() };
    let (init, main) = (&status.init_container_statuses, &status.container_statuses);
    let all = init.iter().chain(main).flatten();
    let runs = all.filter(|one| one.state.as_ref().is_some_and(|state| state.running.is_some()));
    runs.filter_map(|one| one.container_id.as_deref()?.strip_prefix("containerd://")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pods_of_this_node_are_asked_for() {
        let asked = of_node("n1");
        assert_eq!(asked.field_selector.as_deref(), Some("spec.nodeName=n1"));
        assert_eq!(asked.label_selector, None);
    }
}
