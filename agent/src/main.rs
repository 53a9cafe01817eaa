//! `godwit-agent`: one per node. Moves bytes; decides nothing about other nodes; holds nothing that a running pod cannot lose.
//!
//! Start: nobody else is this node's agent, CRIU asked for its version, then shims and pagers are served: containers are started
//! from here on, and only those that need a store wait for it. Meanwhile stores are opened and probed (one that is away is opened
//! later) and every pod is looked at (what is sealed or committing is settled); then people are served. Stop (SIGTERM, SIGINT): no
//! new requests, those in progress are finished, within [`DRAIN`]. A killed agent loses nothing: shims thaw what is not sealed, pagers wait for the next agent.

mod api;
mod cgroup;
mod config;
mod cri;
mod diagnosis;
mod kubernetes;
mod logind;
mod start;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use godwit_engine::frames::FrameServer;
use godwit_engine::frames::source::StoreSources;
use godwit_engine::{Node, look, restore, sweep};
use godwit_types::names;
use godwit_wire::AsyncListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::cri::Desk;

/// Longest wait for requests in progress after a signal to stop.
const DRAIN: Duration = Duration::from_secs(100);

/// The node's daemon: checkpoints and restores of its containers.
#[derive(Debug, Parser)]
#[command(version, about, after_help = "GODWIT_LOG=debug: more words in the log")]
struct Arguments {
    /// Configuration
    #[arg(long, value_name = "FILE", default_value = names::AGENT_CONFIG)]
    config: PathBuf,
    /// How the API server is reached, on a node of a cluster; in the place of `kubeconfig` in the configuration's section [kubernetes]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Only check the configuration and exit
    #[arg(long)]
    check: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("GODWIT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let config = Config::read(&arguments.config)?;
    let config = config.reached_by(&arguments.config, arguments.kubeconfig)?;
    if arguments.check {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(config))
}

async fn run(config: Config) -> anyhow::Result<()> {
    let run_dir = Path::new(names::RUN_DIR);
    let prepared = start::prepare(run_dir, Path::new(names::AGENT_LOCK));
    let _only = prepared.with_context(|| format!("cannot use {}", run_dir.display()))?;
    let kubernetes = config.kubernetes.clone();
    let node = Arc::new(start::node(config, run_dir.to_owned()).await?);
    let shims = AsyncListener::bind(Path::new(names::AGENT_OP_SOCKET));
    let shims = shims.context("operations of shims")?;
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let frames = FrameServer::new(Arc::new(StoreSources(Arc::clone(&node))));
    let ends = [
        tasks.spawn({
            let stop = stop.clone();
            async move {
                let served = frames.serve(Path::new(names::AGENT_FRAMES_SOCKET), stop).await;
                served.context("frames for pagers")
            }
        }),
        tasks.spawn({
            let (node, stop) = (Arc::clone(&node), stop.clone());
            async move {
                restore::serve::serve(node, shims, stop).await;
                Ok(())
            }
        }),
        tasks.spawn(all_else(Arc::clone(&node), kubernetes, stop.clone())),
    ];
    tasks.close();
    start::notify_ready();
    let failure = until_stopped(ends, &stop).await?;
    stop.cancel();
    // Who waits for a turn is refused now.
    node.operations.close();
    tracing::info!("stopping: no new requests, those in progress are finished");
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::warn!("requests in progress are left to the next agent");
    }
    failure
}

/// What no container waits for that does without a store: the stores are opened and every pod is looked at, then people are served,
/// and what is due now and then is done.
async fn all_else(
    node: Arc<Node>,
    kubernetes: Option<kubernetes::Settings>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let Some(settled) = stop.run_until_cancelled(start::settle(&node)).await else {
        return Ok(());
    };
    settled?;
    tracing::info!(node = node.identity.node, version = env!("CARGO_PKG_VERSION"), "ready");
    let api = Path::new(names::AGENT_API_SOCKET);
    let now_and_then = async {
        let looks = look::forever(&node, stop.clone());
        let sweeps = sweep::forever(&node, stop.clone());
        tokio::join!(looks, sweeps, node.stores.keep_opening(stop.clone()));
        Ok::<_, anyhow::Error>(())
    };
    let cluster = match kubernetes {
        Some(settings) => {
            let api = kubernetes::api(&node, settings).await?;
            node.cluster.told_by(Arc::<kubernetes::Api>::clone(&api));
            Some(api)
        }
        None => None,
    };
    let desk = Arc::new(Desk::new(Arc::clone(&node), cluster.clone(), stop.clone()));
    let calls = Arc::clone(&desk);
    let calls = async {
        calls.serve().await;
        Ok(())
    };
    let cluster = async {
        if let Some(cluster) = cluster {
            kubernetes::serve(Arc::clone(&node), cluster, stop.clone()).await;
        }
        Ok(())
    };
    let people = api::serve(Arc::clone(&node), desk, api, stop.clone());
    tokio::try_join!(people, calls, now_and_then, cluster)?;
    Ok(())
}

/// Waits for a signal, or for a server that ended by itself: the outer result is about the waiting, the inner one is the
/// server's.
async fn until_stopped(
    ends: [tokio::task::JoinHandle<anyhow::Result<()>>; 3],
    stop: &CancellationToken,
) -> anyhow::Result<anyhow::Result<()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let ended = async move { futures::future::select_all(ends).await.0 };
    Ok(tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        () = stop.cancelled() => Ok(()),
        result = ended => result.context("a server of the agent").and_then(|r| r),
    })
}
