//! `godwit-agent`: one per node. Moves bytes; decides nothing about other nodes; holds nothing that a running pod cannot lose.
//!
//! Start: stores opened and probed (one that is away is opened later), CRIU asked for its version, every pod looked at (what is sealed or committing is
//! settled), then the three sockets are served. Stop (SIGTERM, SIGINT): no new requests, those in progress are finished,
//! within [`DRAIN`]. A killed agent loses nothing: shims thaw what is not sealed, pagers wait for the next agent.

mod api;
mod cgroup;
mod config;
mod start;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use godwit_engine::frames::FrameServer;
use godwit_engine::frames::source::StoreSources;
use godwit_engine::{look, restore, sweep};
use godwit_types::names;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;

/// Longest wait for requests in progress after a signal to stop.
const DRAIN: Duration = Duration::from_secs(100);

/// The node's daemon: checkpoints and restores of its containers.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Configuration
    #[arg(long, value_name = "FILE", default_value = names::AGENT_CONFIG)]
    config: PathBuf,
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
    let node = Arc::new(start::node(config, run_dir.to_owned()).await?);
    look::first(&node).await;
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
                let served =
                    restore::serve::serve(node, Path::new(names::AGENT_OP_SOCKET), stop).await;
                served.context("operations of shims")
            }
        }),
        tasks.spawn({
            let (node, stop) = (Arc::clone(&node), stop.clone());
            async move { api::serve(node, Path::new(names::AGENT_API_SOCKET), stop).await }
        }),
        tasks.spawn({
            let (node, stop) = (Arc::clone(&node), stop.clone());
            async move {
                look::forever(&node, stop).await;
                Ok(())
            }
        }),
        tasks.spawn({
            let (node, stop) = (Arc::clone(&node), stop.clone());
            async move {
                sweep::forever(&node, stop).await;
                Ok(())
            }
        }),
        tasks.spawn({
            let (node, stop) = (Arc::clone(&node), stop.clone());
            async move {
                node.stores.keep_opening(stop.clone()).await;
                stop.cancelled().await;
                Ok(())
            }
        }),
    ];
    tasks.close();
    start::notify_ready();
    tracing::info!(node = node.identity.node, version = env!("CARGO_PKG_VERSION"), "ready");
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

/// Waits for a signal, or for a server that ended by itself: the outer result is about the waiting, the inner one is the
/// server's.
async fn until_stopped(
    ends: [tokio::task::JoinHandle<anyhow::Result<()>>; 6],
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
