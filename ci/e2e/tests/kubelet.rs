//! Kubelets that go through the CRI proxy: what they see when it is killed, again and again, and how a worker gets rid of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use godwit_e2e::container::SOON;
use godwit_e2e::pods::{Clusters, Handler, Pod, instance};
use godwit_lab::{Cluster, Image, Node, Service, default_bin_dir, wait};
use godwit_types::names;
use serde_json::{Value, json};

const CONFIG: &str = "/var/lib/kubelet/config.yaml";
const OURS: &str = "unix:///run/godwit/cri.sock";
/// That none of our shims is left; the line itself does not begin so.
const GONE: &str = "! pgrep --full '^[^ ]*containerd-shim-godwit-v2'";
/// Pods that come and go while something is killed.
const PODS: usize = 8;
/// From one kill to the next: a proxy is back in a moment, a containerd needs seconds for what it was asked.
const OFTEN: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(15);
/// Rounds more in which a kubelet may notice that its containerd was killed.
const MORE: usize = 9;
/// How a kubelet logs a call that failed: the method in a sentence, the status in the error.
const FAILED: &str = " from runtime service failed\" err=\"rpc error: code = ";
/// What gRPC says when the other side has ended in the middle of a call, or is not there yet.
const AWAY: &str = "Unavailable";
/// What containerd says of a container that it has removed already, as after a removal that is asked for again because its answer was
/// lost. Kubelets ask for such containers in calm times, too.
const REMOVED: &str = "NotFound";
/// What containerd says to a kubelet that asks anew for what it is still making, as after a call whose answer was lost. A killed containerd
/// has forgotten it.
const AT_WORK: [&str; 4] = [
    "failed to reserve",
    "already in removing state",
    "already in starting state",
    "in starting state, can't be removed",
];

/// The calls to the container runtime that a kubelet says have failed while something was done so many times.
#[derive(Debug, Default)]
struct Failures {
    times: usize,
    calls: usize,
    /// A line of each method and status, but for what is told to who asks anew.
    kinds: BTreeMap<(String, String), String>,
}

impl Failures {
    /// Since the kubelet's log had this many bytes.
    fn since(node: &Node, since: usize, times: usize) -> Result<Self> {
        let log = node.log("kubelet")?;
        let new = log.get(since..).context("the kubelet's log became shorter")?;
        let mut all = Self { times, ..Self::default() };
        for line in new.lines() {
            let Some((before, after)) = line.split_once(FAILED) else { continue };
            let method = before.rsplit('"').next().unwrap_or_default().to_owned();
            let code = after.split_whitespace().next().unwrap_or_default().to_owned();
            all.calls += 1;
            if !AT_WORK.iter().any(|said| line.contains(said)) {
                all.kinds.insert((method, code), line.to_owned());
            }
        }
        Ok(all)
    }

    fn of(&self, code: &str) -> bool {
        self.kinds.keys().any(|(_, found)| found == code)
    }

    /// What failed in both.
    fn and(mut self, other: Self) -> Self {
        self.times += other.times;
        self.calls += other.calls;
        self.kinds.extend(other.kinds);
        self
    }

    /// For each time.
    fn rate(&self) -> f64 {
        self.calls as f64 / self.times as f64
    }
}

/// Pods that end by themselves, one after another, each well and gone afterwards. A start in whose middle somebody was killed has
/// failed, and is made again.
fn come_and_go(cluster: &Cluster, round: &str) -> Result<()> {
    for number in 0..PODS {
        let name = format!("{round}{number}");
        let script = format!("echo {name}");
        let pod = Pod::new(&name, Handler::Runc, Image::Shell, &["sh", "-c", &script]);
        cluster.apply(&pod.on("a1").with("restartPolicy", json!("OnFailure")).manifest())?;
        cluster.wait_until(&format!("{name} to end"), &["pod", &name], |pod| {
            match &pod["status"]["phase"] {
                phase if phase == "Succeeded" => Ok(()),
                _ => Err(pod["status"].to_string()),
            }
        })?;
        // The kubelet asks containerd for them, who may be away right now.
        wait::until(&format!("the log of {name}"), SOON, || {
            match cluster.kubectl(&["logs", &name]) {
                Ok(said) if said.trim() == name => Ok(()),
                Ok(said) => Err(said),
                Err(why) => Err(why.to_string()),
            }
        })?;
        cluster.kubectl(&["delete", "pod", &name, "--timeout=180s"])?;
    }
    Ok(())
}

/// The same while something is done again and again. The statuses of failed calls.
fn while_doing(
    cluster: &Cluster,
    node: &Node,
    (round, every): (&str, Duration),
    act: impl Fn() -> Result<()> + Sync,
) -> Result<Failures> {
    let since = node.log("kubelet")?.len();
    let over = AtomicBool::new(false);
    let times = std::thread::scope(|scope| {
        let acting = scope.spawn(|| -> Result<usize> {
            let mut times = 0;
            while !over.load(Ordering::Relaxed) {
                act()?;
                times += 1;
                // Its end wakes it.
                std::thread::park_timeout(every);
            }
            Ok(times)
        });
        let went = come_and_go(cluster, round);
        over.store(true, Ordering::Relaxed);
        acting.thread().unpark();
        let times = acting.join();
        went?;
        times.map_err(|_| anyhow::anyhow!("a thread has panicked"))?
    })?;
    ensure!(times > 1, "{round}: only {times} times");
    Failures::since(node, since, times)
}

#[test]
fn who_kills_proxy_and_agent_costs_a_kubelet_no_other_call_than_who_kills_containerd() -> Result<()>
{
    let clusters = Clusters::up()?;
    let (cluster, node) = (&clusters.a, clusters.lab.node("a1")?);
    for worker in clusters.workers() {
        ensure!(worker.read_file(CONFIG)?.contains(OURS), "{} is not pointed", worker.name());
    }
    let probe = json!({"exec": {"command": ["true"]}, "periodSeconds": 1, "failureThreshold": 1,
        "timeoutSeconds": 10});
    let mut before = vec![];
    for (name, handler) in [("runc", Handler::Runc), ("godwit", Handler::Godwit)] {
        let pod = Pod::new(name, handler, Image::Shell, &["sleep", "infinity"]).on("a1");
        cluster.apply(&pod.container_with("livenessProbe", probe.clone()).manifest())?;
        cluster.wait_for(&[&format!("pod/{name}")], "condition=Ready")?;
        before.push((name, instance(cluster, name)?));
    }
    let calm = while_doing(cluster, &node, ("calm", OFTEN), || Ok(()))?;
    let kills_containerd = || {
        while_doing(cluster, &node, ("containerd", SELDOM), || {
            node.kill(Service::Containerd)?;
            Ok(node.start(Service::Containerd)?)
        })
    };
    let mut containerd = kills_containerd()?;
    // One is back so soon that no call may meet the few that are killed.
    for _ in 0..MORE {
        if containerd.of(AWAY) {
            break;
        }
        containerd = containerd.and(kills_containerd()?);
    }
    let proxy = while_doing(cluster, &node, ("proxy", OFTEN), || {
        node.kill(Service::CriProxy)?;
        node.kill(Service::Agent)?;
        Ok(node.start(Service::Agent)?)
    })?;
    // Whatever call was on its way.
    let is_known =
        |code: &str| [AWAY, REMOVED].contains(&code) || calm.of(code) || containerd.of(code);
    let others: Vec<_> = proxy.kinds.iter().filter(|((_, code), _)| !is_known(code)).collect();
    ensure!(others.is_empty(), "calls fail otherwise than with containerd: {others:?}");
    ensure!(containerd.of(AWAY), "nobody saw that containerd was killed: {containerd:?}");
    // A kill breaks what is on its way: seldom more than one call, of several that a kubelet makes each second.
    let most = 2.0 * containerd.rate().max(1.0);
    ensure!(proxy.rate() <= most, "more calls fail: {proxy:?}; {containerd:?}");
    // What still fails because of the last kill.
    while_doing(cluster, &node, ("rest", OFTEN), || Ok(()))?;
    // An agent that hangs is no reason for others' calls to fail.
    let hung = while_doing(cluster, &node, ("hung", OFTEN), || {
        let agent = node.agent_pid().context("an agent")?.to_string();
        Ok(node.run(&["kill", "-STOP", &agent]).map(drop)?)
    })?;
    let agent = node.agent_pid().context("an agent")?.to_string();
    node.run(&["kill", "-CONT", &agent])?;
    let new = |all: &Failures| -> Vec<_> {
        let is_new = |(_, code): &&(String, String)| code != REMOVED && !calm.of(code);
        all.kinds.keys().filter(is_new).cloned().collect()
    };
    ensure!(new(&hung).is_empty(), "calls fail while an agent hangs: {:?}", new(&hung));
    // A proxy that is replaced, and an agent that is away, cost none at all.
    let replaced = while_doing(cluster, &node, ("reload", OFTEN), || {
        node.kill(Service::Agent)?;
        node.reload_cri_proxy()?;
        Ok(node.start(Service::Agent)?)
    })?;
    ensure!(new(&replaced).is_empty(), "calls fail: {:?}", new(&replaced));
    for (name, instance_before) in before {
        ensure!(instance(cluster, name)? == instance_before, "{name} was started anew");
        cluster.kubectl(&["delete", "pod", name, "--timeout=180s"])?;
    }
    // A containerd that is killed in the middle of a start may leave a shim of runc's behind; ours has gone with its pod.
    wait::until("our shims to end", SOON, || node.sh(GONE))?;
    Ok(())
}

#[test]
fn a_revert_gives_the_kubelet_its_endpoint_before_it_takes_the_proxy() -> Result<()> {
    let clusters = Clusters::up()?;
    let (cluster, node) = (&clusters.a, clusters.lab.node("a2")?);
    let revert = || node.installer(&default_bin_dir(), &["--volatile", "--revert"]);
    let pod = Pod::new("stays", Handler::Runc, Image::Shell, &["sleep", "infinity"]).on("a2");
    cluster.apply(&pod.manifest())?;
    cluster.wait_for(&["pod/stays"], "condition=Ready")?;
    let before = instance(cluster, "stays")?;

    // First no pod comes any more.
    wait::until("the node to leave", SOON, || {
        revert().map_err(|error| error.to_string())?;
        let found = cluster.get(&["node", "a2"]).map_err(|error| error.to_string())?;
        let conditions = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let leaves = |one: &Value| one["type"] == names::CONDITION && one["reason"] == "Leaves";
        let is_closed = found["metadata"]["labels"][names::READY].is_null();
        if is_closed && conditions.iter().any(leaves) { Ok(()) } else { Err(found.to_string()) }
    })?;

    node.kill(Service::Agent)?;
    let said = String::from_utf8_lossy(&revert()?.stdout).into_owned();
    ensure!(said.contains("left to you   restart the kubelet"), "{said}");
    ensure!(!node.read_file(CONFIG)?.contains(OURS), "its endpoint is ours");
    // The kubelet that runs is where it was, and has a runtime.
    let words = ["exec", "stays", "--", "true"];
    cluster.kubectl(&words)?;
    node.kill(Service::Kubelet)?;
    node.kill(Service::Containerd)?;
    node.start(Service::Containerd)?;
    node.start(Service::Kubelet)?;
    let stopped = wait::until("the kubelet to leave the proxy", SOON, || {
        let said = String::from_utf8_lossy(&revert()?.stdout).into_owned();
        if said.contains("restart the kubelet") { Err(told(said)) } else { Ok(said) }
    })?;
    ensure!(stopped.contains("CRI proxy use the programs"), "{stopped}");
    node.stop(Service::CriProxy)?;
    let ended = revert()?;
    if ended.status.code() != Some(0) {
        bail!("{}", String::from_utf8_lossy(&ended.stdout));
    }
    cluster.wait_node_ready(&node)?;
    wait::until("a command to run in it", SOON, || cluster.kubectl(&words))?;
    ensure!(instance(cluster, "stays")? == before, "the pod was started anew");
    Ok(())
}

fn told(said: String) -> godwit_lab::LabError {
    godwit_lab::LabError::Refused(said)
}
