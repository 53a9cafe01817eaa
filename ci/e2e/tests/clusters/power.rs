//! A worker whose power fails, and that comes back.

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::clean;
use godwit_e2e::container::SOON;
use godwit_e2e::pods::{Clusters, Handler, Pod, events, instance, progress};
use godwit_e2e::shop::{self, Running};
use godwit_lab::{AgentOptions, Cluster, Image, Node, Service, wait};
use godwit_types::names;
use godwit_wire::failpoint::VARIABLE;

#[test]
fn a_worker_that_comes_back_starts_its_pods_anew() -> Result<()> {
    let clusters = Clusters::up()?;
    let (cluster, node) = (&clusters.a, clusters.lab.node("a2")?);
    let pods = [
        ("runc", Handler::Runc, "a2"),
        ("godwit", Handler::Godwit, "a2"),
        ("other", Handler::Godwit, "a1"),
    ];
    let words = ["counter", "--every-ms", "50", "--file", "/progress"];
    for (name, handler, place) in pods {
        cluster.apply(&Pod::new(name, handler, Image::Mem, &words).on(place).manifest())?;
    }
    let mut before = vec![];
    for (name, ..) in pods {
        cluster.wait_for(&[&format!("pod/{name}")], "condition=Ready")?;
        before.push(instance(cluster, name)?);
    }
    node.power_loss()?;
    cluster.wait_for(&["node/a2"], "condition=Ready=Unknown")?;
    node.power_on()?;
    node.start(Service::Agent)?;
    cluster.wait_node_ready(&node)?;
    for ((name, _, place), (container, restarts)) in pods.into_iter().zip(before) {
        let lost = place == "a2";
        cluster.wait_until(&format!("{name} to run"), &["pod", name], |pod| {
            let status = &pod["status"]["containerStatuses"][0];
            let again =
                status["containerID"] != container && status["restartCount"] == restarts + 1;
            let well = status["ready"] == true && again == lost;
            if well { Ok(()) } else { Err(pod["status"].to_string()) }
        })?;
        let worker = clusters.lab.node(place)?;
        ensure!(progress(&worker, &instance(cluster, name)?.0)? > 0, "{name} counts");
        cluster.kubectl(&["delete", "pod", name, "--timeout=90s"])?;
    }
    clusters.leave()
}

const SHOP: &str = "kiosk";
const POD: &str = "kiosk-0";
/// Where power fails in a checkpoint that its user asks for: before anything is stored, and when all but the last word is.
const ASKED: [&str; 2] = ["frozen", "phase-commit"];
/// In the one that a deletion makes: before the seal, and when it is in the log but not yet on its node.
const DELETED: [&str; 2] = ["dumped", "put-stop.answered"];
/// In a restore: of its second container; when the log says that it runs here; when it runs and its memory comes.
const RESTORED: [&str; 3] = ["phase-stage:2", "put-take-over.answered", "phase-hydrate"];

/// A pod of a set on the only worker that takes it.
struct Stage<'c> {
    cluster: &'c Cluster,
    node: Node,
}

impl Stage<'_> {
    fn restart_agent(&self, failpoint: Option<&str>) -> Result<()> {
        self.node.kill(Service::Agent)?;
        let env =
            failpoint.map(|site| (VARIABLE.to_owned(), site.to_owned())).into_iter().collect();
        Ok(self.node.start_agent(&AgentOptions { env })?)
    }

    /// Power fails when the agent has passed a place, after `begin`; then it is on again.
    fn fails_at(&self, site: &str, begin: impl FnOnce() -> Result<()>) -> Result<()> {
        self.restart_agent(Some(site))?;
        begin()?;
        wait::until("the agent to be there", SOON, || match self.node.agent_pid() {
            None => Ok(()),
            Some(_) => Err(events(self.cluster)),
        })?;
        self.node.power_loss()?;
        self.node.power_on()?;
        self.node.start(Service::Agent)?;
        Ok(self.cluster.wait_node_ready(&self.node)?)
    }

    /// The pod goes on from what was durable: another one than that of this uid, or after its loss the same.
    fn went_on(&self, before: &str, is_another: bool, durable: u64) -> Result<(String, u64)> {
        let shop = wait::until("the pod to be ready", SOON, || {
            let shop = Running::wait(self.cluster, SHOP).map_err(|error| format!("{error:#}"))?;
            let is_it = (shop.uid != before) == is_another;
            if is_it { Ok(shop) } else { Err(events(self.cluster)) }
        })?;
        // Until the kubelet has looked at them, containers that are dead are told as ready; nothing can be read in them.
        let now = shop.beats()?;
        ensure!(now > durable, "{now} after {durable}: {}", events(self.cluster));
        self.is_well(&shop)
    }

    /// It gets on, once, and can be checkpointed; its uid, and what was durable then.
    fn is_well(&self, shop: &Running<'_>) -> Result<(String, u64)> {
        let beats = shop.beats()?;
        wait::until_true("the sidecar to get on", SOON, || {
            shop.beats().is_ok_and(|now| now > beats + 20)
        })?;
        let running = clean::processes(&self.node, "redis-server")?;
        ensure!(running == 1, "{running} copies run: {}", events(self.cluster));
        let before = shop.beats()?;
        shop.checkpoint()?;
        Ok((shop.uid.clone(), before))
    }
}

#[test]
fn a_pod_whose_workers_power_fails_in_the_middle_goes_on_from_its_last_point() -> Result<()> {
    let clusters = Clusters::up()?;
    let (a, node) = (&clusters.a, clusters.lab.node("a1")?);
    a.kubectl(&["cordon", "a2"])?;
    let set = shop::pod(SHOP)
        .annotated(names::CHECKPOINT_ON_STOP, "true")
        .annotated(names::RESTORE_FROM, names::LATEST);
    a.apply(&set.owned_by("StatefulSet", 1))?;
    let stage = Stage { cluster: a, node };
    let (mut uid, mut durable) = stage.is_well(&Running::wait(a, SHOP)?)?;
    let ask = || {
        let annotate = format!("{}={}", names::CHECKPOINT, names::NOW);
        a.kubectl(&["annotate", "--overwrite", "pod", POD, &annotate])?;
        Ok(())
    };
    let delete = || {
        a.kubectl(&["delete", "pod", POD, "--wait=false"])?;
        Ok(())
    };
    for site in ASKED {
        stage.fails_at(site, ask).context(site)?;
        (uid, durable) = stage.went_on(&uid, false, durable).context(site)?;
    }
    for site in DELETED.into_iter().chain(RESTORED) {
        stage.fails_at(site, delete).context(site)?;
        (uid, durable) = stage.went_on(&uid, true, durable).context(site)?;
    }
    a.kubectl(&["uncordon", "a2"])?;
    a.kubectl(&["delete", "statefulset", SHOP, "--timeout=90s"])?;
    a.kubectl(&["wait", "--for=delete", &format!("pod/{POD}"), "--timeout=90s"])?;
    clusters.leave()
}
