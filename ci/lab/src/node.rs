//! One node: its life from power-on to power loss. What runs inside it is in the modules below.

mod control_plane;
mod daemon;
mod enter;
mod files;
mod kubernetes;
mod pod;
mod role;
mod services;
mod worker;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use enter::Spawned;
pub use pod::PodNetwork;
pub use role::Role;
pub use services::{AgentOptions, Service};
pub(crate) use worker::KUBELET_CONFIG;

use crate::cgroup::{self, Groups};
use crate::command::tail;
use crate::error::{LabError, Result};
use crate::network::Network;
use crate::process::{self, Recorded};
use crate::{kubernetes as programs, places, rootfs, wait};

const INIT: &str = include_str!("node/init.sh");
/// For a node to make its namespaces and mounts on a busy machine.
const BOOT: Duration = Duration::from_secs(60);
/// For the kernel to end all processes of a node.
const END: Duration = Duration::from_secs(60);

/// Which version of control groups a node sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupView {
    /// The first-version hierarchies of the machine; one that has none cannot show them.
    V1,
    /// Only a cgroup2 mount; on a machine that runs v1 controllers it can freeze, kill and count, but not limit.
    V2,
}

impl CgroupView {
    /// What this machine can show a node; what nodes get when nothing else is asked for comes first.
    ///
    /// # Errors
    /// [`LabError::Missing`] when it has no control groups.
    pub fn of_machine() -> Result<Vec<Self>> {
        cgroup::views_of_machine()
    }
}

/// What is fixed when a node is made and kept across its reboots.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NodeShape {
    pub(crate) name: String,
    pub(crate) host_part: u8,
    pub(crate) cgroup: CgroupView,
    #[serde(default)]
    pub(crate) role: Role,
}

/// A handle on one node of a lab; cheap to clone, valid across reboots of the node.
#[derive(Debug, Clone)]
pub struct Node {
    shape: NodeShape,
    dir: PathBuf,
    lab: PathBuf,
    network: Network,
    groups: Groups,
}

impl Node {
    pub(crate) fn new(shape: NodeShape, lab: &Path, network: Network, groups: &Groups) -> Self {
        let dir = lab.join("nodes").join(&shape.name);
        let groups = groups.node(&shape.name);
        Self { shape, dir, lab: lab.to_owned(), network, groups }
    }

    /// Its name, which is its host name too.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shape.name
    }

    /// Its address: reachable from the host, from other nodes and from the S3 server.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.network.address(self.shape.host_part)
    }

    /// What it is for.
    #[must_use]
    pub fn role(&self) -> Role {
        self.shape.role
    }

    /// What it sees of control groups.
    #[must_use]
    pub fn cgroup_view(&self) -> CgroupView {
        self.shape.cgroup
    }

    /// Whether its containers can be given processor time, memory and numbers of processes: not where a cgroup2 view has
    /// no controllers, as on a machine that runs them in the first version.
    #[must_use]
    pub fn has_limits(&self) -> bool {
        let controllers = || self.read_file("/sys/fs/cgroup/cgroup.controllers");
        self.shape.cgroup == CgroupView::V1
            || controllers().is_ok_and(|all| all.split_whitespace().any(|one| one == "cpu"))
    }

    /// Whether it is powered on.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.init().is_ok()
    }

    /// Process id, on the host, of the node's process 1.
    ///
    /// # Errors
    /// [`LabError::Missing`] when the node is powered off.
    pub fn init_pid(&self) -> Result<u32> {
        self.init().map(|init| init.pid)
    }

    fn init(&self) -> Result<Recorded> {
        Recorded::load(&self.init_record()).ok_or_else(|| LabError::Missing {
            what: format!("node {}", self.name()),
            hint: format!("it is powered off; `lab reboot {}` starts it", self.name()),
        })
    }

    /// The node's root directory as the host sees it: files, `/proc` and Unix sockets of the node are below it.
    ///
    /// # Errors
    /// [`LabError::Missing`] when the node is powered off.
    pub fn root_path(&self) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/root", self.init_pid()?)))
    }

    /// Powers it on and starts its daemons: containerd, and what it is to its cluster. Does nothing when it is on.
    ///
    /// # Errors
    /// When a step fails; the node is then off.
    pub fn power_on(&self) -> Result<()> {
        if self.is_up() {
            return Ok(());
        }
        let steps = self.role().services();
        let started = self.boot().and_then(|()| self.start_steps(steps));
        if started.is_err() {
            let _ = self.power_loss();
        }
        started
    }

    /// Powers it on, unless it is on, and starts those of its daemons that do not run, up to this step of theirs.
    pub(crate) fn mend(&self, steps: usize) -> Result<()> {
        if !self.is_up() {
            self.boot()?;
        }
        let all = self.role().services();
        self.start_steps(all.get(..steps).unwrap_or(all))
    }

    fn start_steps(&self, steps: &[&[Service]]) -> Result<()> {
        steps.iter().try_for_each(|step| {
            let there: Vec<Service> = step.iter().copied().filter(|s| self.has(*s)).collect();
            self.start_all(&there)
        })
    }

    /// All processes of the node end at once, frozen ones too, its cable is cut before (peers see silence, no farewell),
    /// `/run` and `/tmp` are gone. Its disks stay.
    ///
    /// # Errors
    /// When the kernel does not end its processes in time.
    pub fn power_loss(&self) -> Result<()> {
        self.network.unplug(self.name());
        self.groups.destroy()?;
        process::end_recorded(&self.supervisor_record(), END)?;
        process::end_recorded(&self.init_record(), END)
    }

    /// Power loss, then on again with the same disks and a new boot id; its daemons are started, the agent is not.
    ///
    /// # Errors
    /// As [`Node::power_loss`] and [`Node::power_on`].
    pub fn reboot(&self) -> Result<()> {
        self.power_loss()?;
        self.power_on()
    }

    /// Takes the node off the network; everything in it goes on, no connection is told.
    ///
    /// # Errors
    /// When the node is powered off.
    pub fn disconnect(&self) -> Result<()> {
        self.network.connect(self.name(), false)
    }

    /// Puts the node back on the network.
    ///
    /// # Errors
    /// When the node is powered off.
    pub fn reconnect(&self) -> Result<()> {
        self.network.connect(self.name(), true)
    }

    fn boot(&self) -> Result<()> {
        // What a run that was killed while it booted this node has left.
        self.power_loss()?;
        self.make_dirs()?;
        self.groups.create()?;
        let supervisor = self.start_init()?;
        supervisor.store(&self.supervisor_record())?;
        let init = self.wait_for_root(supervisor)?;
        self.groups.move_to_leaf(&[supervisor.pid, init.pid])?;
        init.store(&self.init_record())?;
        self.network.plug(init.pid, self.name(), self.shape.host_part)?;
        self.write_identity()?;
        self.join_cluster(init.pid)
    }

    fn make_dirs(&self) -> Result<()> {
        for dir in ["upper", "work", "root", "containerd", "godwit", "kubelet"] {
            places::make_dir(&self.dir.join(dir))?;
        }
        places::make_dir(&self.shared())?;
        places::make_dir(&places::cache().join("images"))?;
        places::write(&self.dir.join("init.sh"), INIT)
    }

    fn start_init(&self) -> Result<Recorded> {
        let log = self.console();
        let log = std::fs::File::create(&log).map_err(LabError::io("creating", &log))?;
        let errors = log.try_clone().map_err(LabError::io("opening", &self.console()))?;
        let child = self
            .init_command()?
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|source| LabError::Start { program: "sh".to_owned(), source })?;
        process::record(child.id(), &format!("node {}", self.name()))
    }

    fn init_command(&self) -> Result<Command> {
        let mut command = self.groups.command(true, "setsid");
        command
            .args(["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"])
            .args(["--fork", "--kill-child", "/bin/bash"])
            .arg(self.dir.join("init.sh"))
            .env("NODE", self.name())
            .env("DIR", &self.dir)
            .env("ROOTFS", rootfs::ensure()?)
            .env("SHARED", self.shared())
            .env("IMAGES", places::cache().join("images"))
            .env("CGROUP", if self.shape.cgroup == CgroupView::V2 { "v2" } else { "v1" })
            .env("CGROUPS", self.groups.mounts().join(" "));
        if self.role().cluster().is_some() {
            command.env("KUBERNETES", programs::ensure_built()?);
        }
        Ok(command)
    }

    /// The node's process 1, once it has entered its root.
    fn wait_for_root(&self, supervisor: Recorded) -> Result<Recorded> {
        let found = wait::until(&format!("node {} to start", self.name()), BOOT, || {
            if !supervisor.is_alive() {
                return Ok(None);
            }
            let init = supervisor.first_child().ok_or("no process 1 yet")?;
            let ready = PathBuf::from(format!("/proc/{}/root/run/lab-ready", init.pid));
            if ready.exists() { Ok(Some(init)) } else { Err("its root file system is being made") }
        })?;
        found.ok_or_else(|| LabError::Service {
            service: format!("process 1 of node {}", self.name()),
            why: "it ended".to_owned(),
            log: tail(places::read(&self.console()).unwrap_or_default().trim(), 2000).to_owned(),
        })
    }

    fn shared(&self) -> PathBuf {
        self.lab.join("shared")
    }

    fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// The names of the archives that it has imported since it was made.
    pub(crate) fn images_record(&self) -> PathBuf {
        self.dir.join("images")
    }

    fn supervisor_record(&self) -> PathBuf {
        self.dir.join("supervisor.pid")
    }

    fn init_record(&self) -> PathBuf {
        self.dir.join("init.pid")
    }
}
