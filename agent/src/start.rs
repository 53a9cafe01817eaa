//! What happens once, before the agent serves.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use godwit_criu::launch::Launcher;
use godwit_criu::probe::probe;
use godwit_engine::budget::Budget;
use godwit_engine::node::{NO_CLUSTER, Operations};
use godwit_engine::stores::Stores;
use godwit_engine::{Node, compat};
use godwit_types::names;
use godwit_wire::NodeIdentity;
use tokio::sync::Semaphore;

use crate::config::Config;

/// CRIU's first start on a node probes the kernel.
const PROBE: Duration = Duration::from_secs(20);

/// Makes the run directory, root's alone, with what earlier agents left behind removed.
///
/// # Errors
/// The operating system's.
pub(crate) fn prepare(run_dir: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(run_dir)?;
    std::fs::set_permissions(run_dir, PermissionsExt::from_mode(0o700))?;
    // CRIU sessions of a killed agent have rolled back: their images are nobody's.
    match std::fs::remove_dir_all(run_dir.join("images")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Opens the stores, asks CRIU, learns what the node is.
///
/// # Errors
/// A sentence that says which part of the configuration or of the node is not right.
pub(crate) async fn node(config: Config, run_dir: PathBuf) -> anyhow::Result<Node> {
    let name = match config.node {
        Some(name) => name,
        None => rustix::system::uname().nodename().to_string_lossy().into_owned(),
    };
    let launcher = Launcher { criu: config.criu.clone(), ..Launcher::default() };
    let found = tokio::task::spawn_blocking({
        let launcher = launcher.clone();
        move || probe(&launcher, Instant::now() + PROBE)
    });
    let found = found.await?.with_context(|| {
        format!("{} cannot be used: install CRIU 4.1 or later", config.criu.display())
    })?;
    if !found.lazy_pages {
        tracing::warn!(
            "CRIU says that this kernel has no usable userfaultfd: lazy restores will fail"
        );
    }
    let stores = Stores::new(config.stores, config.default_store, Path::new(names::STORES));
    if let Err((name, error)) = stores.open().await {
        return Err(error).with_context(|| format!("store {name:?} cannot be used"));
    }
    let version = found.version;
    let criu = format!("{}.{}.{}", version.major, version.minor, version.sublevel);
    Ok(Node {
        identity: NodeIdentity { cluster: NO_CLUSTER.to_owned(), node: name, epoch: 0 },
        stores,
        budget: Budget::new(config.memory_budget),
        freeze_deadline: config.freeze_deadline,
        hydration_deadline: config.hydration_deadline,
        launcher,
        criu: version,
        compat: compat::of_this_node(&criu, "runc"),
        containerd: config.containerd,
        run_dir,
        operations: Semaphore::new(config.operations),
        progress: Operations::default(),
    })
}

/// Tells systemd that the agent serves, if systemd asked for it (`sd_notify(3)`).
pub(crate) fn notify_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let told = std::os::unix::net::UnixDatagram::unbound()
        .and_then(|socket| socket.send_to(b"READY=1", path));
    if let Err(error) = told {
        tracing::warn!(error = %error, "systemd could not be told that the agent is ready");
    }
}
