//! The agent's Kubernetes half: what users ask for and are told on their pods. Without an API server everything else goes on.
//!
//! ```text
//! watch     this node's pods, kept in memory            `watch`
//! requests  annotations that ask for a checkpoint       `requests`
//! tells     events and annotations of what happens      `tells`, by the engine's news
//! eligible  whether a pod could be checkpointed now     `eligible`
//! burials   the last word about pods that are gone      `burials`
//! node      the node's label and condition              `this_node`
//! ends      what a stop of a pod's containers means    `ends`
//! knows     what the engine asks about a pod         `knows`
//! diagnosis how the API server answers, for people      `diagnosis`
//! ```
//! Rights: `install/kubernetes/godwit.yaml`. It annotates pods of its own node, and writes nothing else of them.

mod api;
mod burials;
mod diagnosis;
mod eligible;
mod ends;
#[cfg(test)]
mod fake;
mod knows;
mod requests;
mod tells;
mod this_node;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use godwit_engine::Node;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

pub(crate) use self::api::Api;
pub(crate) use self::ends::Ends;
pub(crate) use self::this_node::take_pods;

/// The section `[kubernetes]` of `agent.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// What lineage logs call this cluster.
    pub(crate) cluster: String,
    /// How its API server is reached; without it as from a pod.
    pub(crate) kubeconfig: Option<PathBuf>,
}

/// The API server, which nobody has talked to yet.
///
/// # Errors
/// The settings cannot be used. An API server that is away is none.
pub(crate) async fn api(node: &Node, settings: Settings) -> anyhow::Result<Arc<Api>> {
    let client = client(settings.kubeconfig.as_deref()).await?;
    Ok(Arc::new(Api::new(client, node.identity.node.clone())))
}

/// Tells and asks the API server until cancelled.
pub(crate) async fn serve(node: Arc<Node>, api: Arc<Api>, stop: CancellationToken) {
    // Nothing that is told from here on is missed.
    let news = node.news.listen();
    let (seen, changes) = watch::channel();
    let work = async {
        tokio::join!(
            watch::forever(&api, seen),
            requests::forever(&node, &api, changes.resubscribe()),
            eligible::forever(&node, &api, changes.resubscribe()),
            burials::forever(&node, &api, changes),
            tells::forever(&api, news),
            this_node::forever(&node, &api),
        )
    };
    stop.run_until_cancelled(work).await;
}

async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<kube::Client> {
    let config = match kubeconfig {
        Some(path) => {
            let read = async {
                let read = Kubeconfig::read_from(path)?;
                kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await
            };
            let what = || format!("[kubernetes] kubeconfig {} cannot be used", path.display());
            read.await.with_context(what)?
        }
        None => kube::Config::incluster().context(
            "[kubernetes] says no kubeconfig, and this agent runs in no pod of a cluster: set `kubeconfig` in agent.toml",
        )?,
    };
    Ok(kube::Client::try_from(config)?)
}
