//! What a pod of a set goes through on the only worker that takes it, and what must be true afterwards.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::clean;
use godwit_e2e::container::SOON;
use godwit_e2e::pods::events;
use godwit_e2e::shop::{self, Running};
use godwit_lab::{AgentOptions, Cluster, Node, Service, wait};
use godwit_types::names;
use godwit_wire::failpoint::VARIABLE;
use serde_json::Value;

const SHOP: &str = "kiosk";
const POD: &str = "kiosk-0";
/// For a kubelet whose containerd was killed as it stopped a pod, to do so again, and to make the next one.
const PATIENCE: Duration = Duration::from_secs(180);

/// What begins.
#[derive(Debug, Clone, Copy)]
pub(super) enum Acts {
    /// A checkpoint that its user asks for.
    Ask,
    /// Its deletion, at a checkpoint, and the restore of the next one.
    Delete,
}

/// The pod as it was well last: its uid, and the number that was durable then.
#[derive(Debug, Clone)]
pub(super) struct Last {
    uid: String,
    durable: u64,
}

/// A pod of a set on the only worker that takes it.
pub(super) struct Stage<'c> {
    cluster: &'c Cluster,
    pub(super) node: Node,
}

impl<'c> Stage<'c> {
    /// With the pod that is well.
    pub(super) fn set(cluster: &'c Cluster, node: Node) -> Result<(Self, Last)> {
        for other in cluster.workers().iter().filter(|other| other.name() != node.name()) {
            cluster.kubectl(&["cordon", other.name()])?;
        }
        let set = shop::pod(SHOP)
            .annotated(names::CHECKPOINT_ON_STOP, "true")
            .annotated(names::RESTORE_FROM, names::LATEST);
        cluster.apply(&set.owned_by("StatefulSet", 1))?;
        let stage = Self { cluster, node };
        let last = stage.is_well(&Running::wait(cluster, SHOP)?)?;
        Ok((stage, last))
    }

    /// Takes all of it away.
    pub(super) fn strike(&self) -> Result<()> {
        for worker in self.cluster.workers() {
            self.cluster.kubectl(&["uncordon", worker.name()])?;
        }
        self.cluster.kubectl(&["delete", "statefulset", SHOP, "--timeout=180s"])?;
        let gone = ["wait", "--for=delete", &format!("pod/{POD}"), "--timeout=180s"];
        self.cluster.kubectl(&gone)?;
        Ok(())
    }

    /// The agent ends where it passes a place, after `act`.
    pub(super) fn agent_ends_at(&self, site: &str, act: Acts) -> Result<()> {
        restart_agent(&self.node, site)?;
        self.act(act)?;
        Ok(wait::until(&format!("the agent to end at {site}"), SOON, || {
            match self.node.agent_pid() {
                None => Ok(()),
                Some(_) => Err(events(self.cluster)),
            }
        })?)
    }

    /// The agent stops where it passes a place, after `act`, until it is continued.
    pub(super) fn agent_stops_at(&self, site: &str, act: Acts) -> Result<Stopped<'_>> {
        agent_stops_at((self.cluster, &self.node), site, || self.act(act))
    }

    /// Power fails, and is on again.
    pub(super) fn power_fails(&self) -> Result<()> {
        self.node.power_loss()?;
        self.node.power_on()?;
        self.node.start(Service::Agent)?;
        Ok(self.cluster.wait_node_ready(&self.node)?)
    }

    /// The pod's sandbox ends; the kubelet makes another one for the same pod.
    pub(super) fn sandbox_ends(&self) -> Result<()> {
        let words = ["crictl", "pods", "--quiet", "--state", "ready", "--name", POD];
        let sandbox = || -> Result<String> { Ok(self.node.run(&words)?.trim().to_owned()) };
        let before = sandbox()?;
        let tasks = self.node.ctr(&["--namespace", names::CRI_NAMESPACE, "task", "ls"])?;
        let line = tasks.lines().find(|line| line.starts_with(&before)).context("its task")?;
        let pid = line.split_whitespace().nth(1).context("its pid")?;
        self.node.run(&["kill", "-KILL", pid])?;
        Ok(wait::until("another sandbox", SOON, || match sandbox() {
            Ok(now) if !now.is_empty() && now != before => Ok(()),
            _ => Err(events(self.cluster)),
        })?)
    }

    /// The pod goes on from what was durable: another one after a deletion, or the same.
    pub(super) fn went_on(&self, before: &Last, act: Acts) -> Result<Last> {
        let is_another = matches!(act, Acts::Delete);
        let shop = wait::until("the pod to be ready", PATIENCE, || {
            let shop = Running::wait(self.cluster, SHOP).map_err(|error| format!("{error:#}"))?;
            let is_it = (shop.uid != before.uid) == is_another;
            if is_it { Ok(shop) } else { Err(events(self.cluster)) }
        })?;
        // Until the kubelet has looked at them, containers that are dead are told as ready; nothing can be read in them.
        let now = shop.beats()?;
        ensure!(now > before.durable, "{now} after {}: {}", before.durable, events(self.cluster));
        shop.wait_no_request()?;
        self.is_well(&shop)
    }

    /// It gets on, once, can be checkpointed, and the log says that it is where it is.
    fn is_well(&self, shop: &Running<'_>) -> Result<Last> {
        let beats = shop.beats()?;
        wait::until_true("the sidecar to get on", SOON, || {
            shop.beats().is_ok_and(|now| now > beats + 20)
        })?;
        for worker in self.cluster.workers() {
            let wanted = usize::from(worker.name() == shop.node);
            clean::only([worker].into_iter(), "redis-server", wanted)
                .with_context(|| format!("on {}: {}", worker.name(), events(self.cluster)))?;
        }
        let durable = shop.beats()?;
        let made = shop.checkpoint()?;
        let shown = self.node.run(&["godwit", "show", &made, "--output", "json"])?;
        let shown: Value = serde_json::from_str(&shown)?;
        ensure!(shown["owner"] == shop.node.as_str(), "{shown:#}");
        Ok(Last { uid: shop.uid.clone(), durable })
    }

    fn act(&self, act: Acts) -> Result<()> {
        let annotate = format!("{}={}", names::CHECKPOINT, names::NOW);
        match act {
            Acts::Ask => {
                self.cluster.kubectl(&["annotate", "--overwrite", "pod", POD, &annotate])?
            }
            Acts::Delete => self.cluster.kubectl(&["delete", "pod", POD, "--wait=false"])?,
        };
        Ok(())
    }
}

/// The agent of a node stops where it passes a place, after `act`, until it is continued.
pub(super) fn agent_stops_at<'n>(
    (cluster, node): (&Cluster, &'n Node),
    site: &str,
    act: impl FnOnce() -> Result<()>,
) -> Result<Stopped<'n>> {
    let (place, count) = site.split_once(':').unwrap_or((site, "1"));
    restart_agent(node, &format!("{place}:{count}:stop"))?;
    let pid = node.agent_pid().context("an agent")?;
    act()?;
    wait::until(&format!("the agent to stop at {site}"), SOON, || {
        match node.read_file(&format!("/proc/{pid}/stat")) {
            Ok(stat) if stat.contains(") T ") => Ok(()),
            _ => Err(events(cluster)),
        }
    })?;
    Ok(Stopped { node, pid })
}

fn restart_agent(node: &Node, failpoint: &str) -> Result<()> {
    node.kill(Service::Agent)?;
    let env = vec![(VARIABLE.to_owned(), failpoint.to_owned())];
    Ok(node.start_agent(&AgentOptions { env })?)
}

/// A process of a node that stands still.
pub(super) struct Stopped<'s> {
    node: &'s Node,
    pid: u32,
}

impl Stopped<'_> {
    pub(super) fn goes_on(self) -> Result<()> {
        self.node.run(&["kill", "-CONT", &self.pid.to_string()])?;
        Ok(())
    }
}
