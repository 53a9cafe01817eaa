//! The CRI proxy on a node, as a machine without systemd runs it.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result};
use godwit_lab::{Node, Spawned, default_bin_dir, wait};
use godwit_types::names;

use crate::proc_text;

/// The program.
pub const NAME: &str = "godwit-cri-proxy";
const PLACE: &str = "/usr/local/bin/godwit-cri-proxy";
const LOG: &str = "/var/log/lab/godwit-cri-proxy.log";
/// For it to serve, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A proxy on [`names::CRI_SOCKET`]. The first process of it ends when this is dropped; a successor with its node.
pub struct Proxy {
    node: Node,
    _process: Spawned,
}

impl Proxy {
    /// Puts the program on the node, starts it and waits until it serves.
    ///
    /// # Errors
    /// It is not built, or does not serve.
    pub fn start(node: &Node) -> Result<Self> {
        node.put_program(&default_bin_dir().join(NAME), PLACE)?;
        let line = format!("exec {PLACE} --listen {} >>{LOG} 2>&1", names::CRI_SOCKET);
        let process = node.spawn(&["sh", "-c", &format!("mkdir -p /var/log/lab; {line}")])?;
        let socket = node.host_path(names::CRI_SOCKET)?;
        wait::until("the CRI proxy to serve", PATIENCE, || UnixStream::connect(&socket))
            .with_context(|| node.read_file(LOG).unwrap_or_default())?;
        Ok(Self { node: node.clone(), _process: process })
    }

    /// Process ids in the node, the oldest first.
    ///
    /// # Errors
    /// The node cannot be asked.
    pub fn pids(&self) -> Result<Vec<u32>> {
        let line = format!("pgrep --full '^{PLACE}' || true");
        let pids = self.node.sh(&line)?;
        Ok(pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
    }

    /// Has a successor take over, and waits until it is the only one.
    ///
    /// # Errors
    /// None takes over, or the first one does not end.
    pub fn replace(&self) -> Result<()> {
        let before = self.pids()?;
        let [old] = before[..] else { anyhow::bail!("one process was expected: {before:?}") };
        self.node.sh(&format!("kill -s HUP {old}"))?;
        wait::until("a successor to be alone", PATIENCE, || match self.pids() {
            Ok(now) if now.len() == 1 && now != before => Ok(()),
            now => Err(format!("{now:?}")),
        })?;
        Ok(())
    }

    /// Memory that is its own, and all that is resident: KiB.
    ///
    /// # Errors
    /// The node cannot be asked.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let pids = self.pids()?;
        let [pid] = pids[..] else { anyhow::bail!("one process was expected: {pids:?}") };
        let status = self.node.read_file(&format!("/proc/{pid}/status"))?;
        Ok((proc_text::number(&status, "RssAnon:")?, proc_text::number(&status, "VmRSS:")?))
    }
}
