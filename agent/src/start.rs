//! What happens once, when the agent starts.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use godwit_criu::launch::Launcher;
use godwit_criu::probe::probe;
use godwit_engine::budget::Budget;
use godwit_engine::cluster::Cluster;
use godwit_engine::frames::source::HandedOver;
use godwit_engine::news::Channel;
use godwit_engine::node::{NO_CLUSTER, Operations, Restored};
use godwit_engine::pods::Pods;
use godwit_engine::pods_of::Found;
use godwit_engine::restore::{Ahead, Unfit};
use godwit_engine::stores::{Bearer, Stores};
use godwit_engine::{Node, compat, look};
use godwit_types::{MachineId, names};
use godwit_wire::NodeIdentity;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tokio::sync::Semaphore;

use crate::cgroup;
use crate::config::Config;

/// CRIU's first start on a node probes the kernel.
const PROBE: Duration = Duration::from_secs(20);

/// Makes the run directory, root's alone, with what earlier agents left behind removed. Who holds what is given back is the node's
/// only agent: nothing of another one that lives is touched.
///
/// # Errors
/// Another agent lives, or the operating system's.
pub(crate) fn prepare(run_dir: &Path, lock: &Path) -> anyhow::Result<File> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(run_dir)?;
    std::fs::set_permissions(run_dir, PermissionsExt::from_mode(0o700))?;
    let only = be_the_only_one(lock)?;
    // CRIU sessions of a killed agent have rolled back: their images are nobody's.
    match std::fs::remove_dir_all(run_dir.join("images")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(only),
    }
}

/// Locks the file and writes our process id into it. The kernel unlocks it however we end; what we start does not inherit it.
fn be_the_only_one(lock: &Path) -> anyhow::Result<File> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(lock)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder)?;
            anyhow::bail!(
                "another godwit-agent serves this node (process {}; it holds {}): stop it first, or use --check to try a configuration",
                holder.trim(),
                lock.display()
            );
        }
        locked => locked?,
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

/// Asks CRIU, learns what the node is. Its stores are not opened yet.
///
/// # Errors
/// A sentence that says which part of the configuration or of the node is not right.
pub(crate) async fn node(config: Config, run_dir: PathBuf) -> anyhow::Result<Node> {
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name = node_name(config.node.unwrap_or_else(host))?;
    let machine = machine_id(Path::new(names::MACHINE_ID))?;
    let cluster = config.kubernetes.map_or_else(|| NO_CLUSTER.to_owned(), |it| it.cluster);
    let me = Bearer { cluster: cluster.clone(), node: name.clone(), machine };
    let launcher = Launcher {
        criu: config.criu.clone(),
        log_level: config.criu_log_level,
        ghost_limit: u32::try_from(config.ghost_limit.0)?,
        cgroup_procs: cgroup::beside_this_process(),
        ..Launcher::default()
    };
    let found = tokio::task::spawn_blocking({
        let launcher = launcher.clone();
        move || probe(&launcher, Instant::now() + PROBE)
    });
    let found = found.await?.with_context(|| {
        format!("{} cannot be used: install CRIU 4.1 or later", config.criu.display())
    })?;
    if !found.lazy_pages {
        tracing::warn!(
            "CRIU says that this kernel has no usable userfaultfd: restores will be refused"
        );
    }
    let stores = Stores::new(config.stores, config.default_store, me, Path::new(names::STORES));
    let version = found.version;
    let criu = format!("{}.{}.{}", version.major, version.minor, version.sublevel);
    Ok(Node {
        identity: NodeIdentity { cluster, node: name, epoch: 0 },
        stores,
        budget: Budget::new(config.memory_budget),
        freeze_deadline: config.freeze_deadline,
        hydration_deadline: config.hydration_deadline,
        launcher,
        criu: version,
        compat: compat::of_this_node(&criu, "runc"),
        lazy_pages: found.lazy_pages,
        containerd: config.containerd,
        run_dir,
        operations: Semaphore::new(config.operations),
        restores: Semaphore::new(config.operations),
        handed: HandedOver::default(),
        progress: Operations::default(),
        pods: Pods::default(),
        restored: Restored::default(),
        news: Channel::default(),
        ahead: Ahead::default(),
        unfit: Unfit::default(),
        found: Found::default(),
        cluster: Cluster::default(),
    })
}

/// Opens the stores, then looks at every pod: what is sealed or committing is settled. Shims may ask meanwhile.
///
/// # Errors
/// A sentence that says which store cannot be used, and why.
pub(crate) async fn settle(node: &Node) -> anyhow::Result<()> {
    if let Err((name, error)) = node.stores.open().await {
        return Err(error).with_context(|| format!("store {name:?} cannot be used"));
    }
    look::first(node).await;
    Ok(())
}

/// It is a part of keys.
fn node_name(name: String) -> anyhow::Result<String> {
    let is_one = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let fits = (1..=253).contains(&name.len()) && !name.starts_with('.');
    anyhow::ensure!(
        fits && name.chars().all(is_one),
        "this node cannot be called {name:?}: set `node` in agent.toml to 1 to 253 letters, digits, '.', '-' or '_', the first no '.'"
    );
    Ok(name)
}

/// Which machine this is.
fn machine_id(path: &Path) -> anyhow::Result<MachineId> {
    let read = || -> anyhow::Result<MachineId> {
        Ok(MachineId::new(std::fs::read_to_string(path)?.trim().to_ascii_lowercase())?)
    };
    read().with_context(|| {
        format!(
            "{} does not say which machine this is: run `systemd-machine-id-setup` and start the agent again",
            path.display()
        )
    })
}

/// Tells systemd that shims are served, if systemd asked for it (`sd_notify(3)`): containerd waits for it at boot.
pub(crate) fn notify_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let told = std::os::unix::net::UnixDatagram::unbound()
        .and_then(|socket| socket.send_to(b"READY=1", path));
    if let Err(error) = told {
        tracing::warn!(error = %error, "systemd could not be told that the agent is ready");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_part_of_a_key_is_refused() {
        assert_eq!(node_name("n1.example".to_owned()).unwrap(), "n1.example");
        for bad in ["", "a b", "a/b", ".hidden", "knöt"] {
            let refused = node_name(bad.to_owned()).unwrap_err().to_string();
            assert!(refused.contains("set `node` in agent.toml"), "{refused}");
        }
    }

    #[test]
    fn a_second_agent_is_refused_and_touches_nothing_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let (run_dir, lock) = (dir.path().join("run"), dir.path().join("run/agent.lock"));
        std::fs::create_dir_all(run_dir.join("images/of-the-dead")).unwrap();
        let first = prepare(&run_dir, &lock).unwrap();
        assert!(!run_dir.join("images").exists());
        let images = run_dir.join("images/in-progress");
        std::fs::create_dir_all(&images).unwrap();
        for _ in 0..2 {
            let refused = prepare(&run_dir, &lock).unwrap_err().to_string();
            let us = format!("(process {}; it holds {})", std::process::id(), lock.display());
            assert!(refused.contains(&us) && refused.contains("--check"), "{refused}");
            assert!(images.exists());
        }
        drop(first);
        prepare(&run_dir, &lock).unwrap();
        assert!(!images.exists(), "it was nobody's any more");
    }

    #[test]
    fn a_machine_without_an_id_is_told_how_it_gets_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("machine-id");
        let refused = || machine_id(&path).unwrap_err().to_string();
        assert!(refused().contains("systemd-machine-id-setup"), "{}", refused());
        for bad in ["", "\n", "uninitialized\n"] {
            std::fs::write(&path, bad).unwrap();
            assert!(refused().contains("systemd-machine-id-setup"), "{}", refused());
        }
        std::fs::write(&path, "0123456789ABCDEF0123456789abcdef\n").unwrap();
        assert_eq!(machine_id(&path).unwrap().as_str(), "0123456789abcdef0123456789abcdef");
    }
}
