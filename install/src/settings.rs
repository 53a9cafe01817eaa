//! What the installer is told: the command line.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{Error, Result, agent};

/// Puts Godwit on a node and takes it off again.
///
/// Exit codes: 0 done; 10 done as far as this program can: what it says last is left to you; else those of `godwit`.
#[derive(Debug, Parser)]
#[command(name = "godwit-install", version)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Install Godwit on this node, bring it to another release, or (--revert) take it off
    Node(Settings),
}

/// How to do it.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// Directory with the programs of the release; by default where this program is
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// Where releases are kept
    #[arg(long, value_name = "DIR", default_value = "/opt/godwit")]
    pub prefix: PathBuf,
    /// The agent's configuration to begin with, if the node has none yet
    #[arg(long, value_name = "FILE")]
    pub agent_config: Option<PathBuf>,
    /// containerd's socket
    #[arg(long, value_name = "SOCKET", default_value = "/run/containerd/containerd.sock")]
    pub containerd_socket: PathBuf,
    /// containerd's configuration; by default what the running containerd was started with
    #[arg(long, value_name = "FILE")]
    pub containerd_config: Option<PathBuf>,
    /// What starts daemons on this node; by default systemd where it runs
    #[arg(long, value_enum)]
    pub init: Option<InitKind>,
    /// Shell command that restarts containerd, for nodes without systemd
    #[arg(long, value_name = "COMMAND")]
    pub restart_containerd: Option<String>,
    /// The kubelet's configuration file, or its directory of drop-ins: the kubelet shall go through Godwit's CRI proxy. Once asked for
    /// it stays so until it is reverted
    #[arg(long, value_name = "PATH", conflicts_with = "revert")]
    pub kubelet_config: Option<PathBuf>,
    /// Shell command that restarts the kubelet, as `systemctl restart kubelet`; without it that is left to you
    #[arg(long, value_name = "COMMAND")]
    pub restart_kubelet: Option<String>,
    /// Only check whether this node is ready; changes nothing
    #[arg(long, conflicts_with_all = ["dry_run", "revert"])]
    pub check: bool,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Take Godwit off this node
    #[arg(long)]
    pub revert: bool,
    /// With --revert: also while containers of Godwit run; the programs that they need stay until they are gone
    #[arg(long, requires = "revert")]
    pub force: bool,
    /// With --revert: also remove all of /etc/godwit and of /var/lib/godwit: configuration, keys, fences, and the node's own store with all its checkpoints
    #[arg(long, requires = "revert")]
    pub purge: bool,
    /// Do not wait until what is written has reached the disk: only for nodes that are thrown away
    #[arg(long)]
    pub volatile: bool,
}

/// What starts daemons on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InitKind {
    /// systemd: a unit for the agent; containerd is restarted by its unit.
    Systemd,
    /// Nobody that we know: files only; whoever starts daemons there starts the agent and restarts containerd.
    None,
}

impl InitKind {
    /// What this node has (`sd_booted(3)`).
    #[must_use]
    pub fn of_node() -> Self {
        match Path::new("/run/systemd/system").is_dir() {
            true => Self::Systemd,
            false => Self::None,
        }
    }
}

impl Settings {
    /// As without any option, for the containerd that the agent was told of.
    ///
    /// # Errors
    /// None, as long as no option is required.
    pub fn of_node() -> Result<Self> {
        let parsed = Arguments::try_parse_from(["godwit-install", "node"]);
        let Command::Node(settings) =
            parsed.map_err(|why| Error::Refused(why.to_string()))?.command;
        let configured = agent::configured("containerd").map(PathBuf::from);
        let containerd_socket = configured.unwrap_or(settings.containerd_socket);
        Ok(Self { containerd_socket, ..settings })
    }

    /// What starts daemons here.
    #[must_use]
    pub fn init(&self) -> InitKind {
        self.init.unwrap_or_else(InitKind::of_node)
    }
}
