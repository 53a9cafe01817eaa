//! The installer dies after every step on a worker whose kubelet is to go through the CRI proxy, on the way there and on the way back.
//! Each time a pod runs: by the kubelet and the containerd that run, and by those that are started with what is on disk.

use std::cell::Cell;

use anyhow::{Result, ensure};
use godwit_e2e::pods::{Handler, Pod};
use godwit_e2e::restarts;
use godwit_lab::{AgentOptions, Cluster, ClusterName, Image, Lab, LabOptions, Node, Service};
use serde_json::json;

use crate::killed::dies;
use crate::kit::Bed;

const CONFIG: &str = "/var/lib/kubelet/config.yaml";
const OURS: &str = "unix:///run/godwit/cri.sock";

/// What lives on between two runs of the installer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Daemons {
    /// As they run.
    RunOn,
    /// As after a reboot: with what is on disk.
    StartAnew,
}

/// A worker, its cluster, and how its pods are tried.
struct Worker<'a> {
    bed: &'a Bed,
    cluster: &'a Cluster,
    pods: Cell<usize>,
}

impl Worker<'_> {
    fn node(&self) -> &Node {
        &self.bed.node
    }

    /// A pod runs to its end.
    fn runs_pods(&self, daemons: Daemons) -> Result<()> {
        if daemons == Daemons::StartAnew {
            self.node().kill(Service::Kubelet)?;
            self.bed.restart_containerd()?;
            self.node().start(Service::Kubelet)?;
        }
        self.pods.set(self.pods.get() + 1);
        let name = format!("probe{}", self.pods.get());
        let pod = Pod::new(&name, Handler::Runc, Image::Shell, &["true"]);
        self.cluster.apply(&pod.with("restartPolicy", json!("Never")).manifest())?;
        self.cluster.wait_until(&format!("{name} to end"), &["pod", &name], |pod| {
            match &pod["status"]["phase"] {
                phase if phase == "Succeeded" => Ok(()),
                _ => Err(pod["status"].to_string()),
            }
        })?;
        self.cluster.kubectl(&["delete", "pod", &name, "--wait=false"])?;
        Ok(())
    }

    /// What the installer is told there.
    fn words(what: &[&str]) -> Vec<String> {
        let [containerd, kubelet] = [Service::Containerd, Service::Kubelet].map(restarts::command);
        let hooks = ["--restart-containerd", &containerd, "--restart-kubelet", &kubelet];
        what.iter().chain(&hooks).map(|&word| word.to_owned()).collect()
    }

    /// The installer dies after each step until it is done. How often it died.
    fn dies(&self, what: &[&str], daemons: Daemons) -> Result<usize> {
        let words = Self::words(what);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        dies(self.bed, "install.step", &words, || self.runs_pods(daemons))
    }

    fn installs_and_reverts(&self, daemons: Daemons) -> Result<()> {
        let endpoint = || self.node().read_file(CONFIG);
        let (files, kubelet) = (self.bed.snapshot()?, endpoint()?);
        let asked = ["--kubelet-config", CONFIG];
        let deaths = self.dies(&asked, daemons)?;
        ensure!(deaths > 10, "only {deaths} steps before the proxy was there");
        // Without systemd these two are left to us.
        self.node().start_agent(&AgentOptions::default())?;
        self.node().start(Service::CriProxy)?;
        let deaths = self.dies(&asked, daemons)?;
        ensure!(deaths > 0, "the kubelet's stage has no step");
        ensure!(endpoint()?.contains(OURS), "{}", endpoint()?);
        let words = Self::words(&asked);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.bed
            .install(&words)?
            .done()?
            .says("goes through the CRI proxy")?
            .never_says("write")?;

        self.node().kill_agent()?;
        let deaths = self.dies(&["--revert"], daemons)?;
        ensure!(endpoint()? == kubelet, "{}", endpoint()?);
        self.node().stop(Service::CriProxy)?;
        let deaths = deaths + self.dies(&["--revert"], daemons)?;
        ensure!(deaths > 10, "only {deaths} steps back");
        self.bed.install(&["--revert"])?.done()?.never_says("remove")?;
        self.bed.is_as(&files)?;
        self.runs_pods(Daemons::StartAnew)
    }
}

#[test]
#[ignore = "minutes: a pod after each of a hundred deaths, `make test-full`"]
fn an_installer_that_dies_after_any_step_leaves_a_kubelet_that_runs_pods() -> Result<()> {
    let lab = Lab::up(&LabOptions::for_tests().clusters(&[(ClusterName::A, 1)]))?;
    let (cluster, node) = (lab.cluster(ClusterName::A)?, lab.node("a1")?);
    let bed = Bed::of(lab, node.clone());
    let worker = Worker { bed: &bed, cluster: &cluster, pods: Cell::new(0) };
    restarts::served(&node, || {
        worker.installs_and_reverts(Daemons::RunOn)?;
        worker.installs_and_reverts(Daemons::StartAnew)
    })?;
    bed.done();
    Ok(())
}

#[test]
fn a_kubelet_whose_restart_fails_gets_its_endpoint_back_whenever_the_installer_dies() -> Result<()>
{
    let lab = Lab::up(&LabOptions::for_tests().clusters(&[(ClusterName::A, 1)]))?;
    let (cluster, node) = (lab.cluster(ClusterName::A)?, lab.node("a1")?);
    let bed = Bed::of(lab, node.clone());
    let worker = Worker { bed: &bed, cluster: &cluster, pods: Cell::new(0) };
    let before = node.read_file(CONFIG)?;
    bed.install(&[])?.left("restart containerd")?;
    bed.restart_containerd()?;
    node.start_agent(&AgentOptions::default())?;
    node.start(Service::CriProxy)?;
    // As of a kubelet that does not start with what it reads.
    let hook = format!("! grep {OURS} {CONFIG}");
    let words = ["--kubelet-config", CONFIG, "--restart-kubelet", &hook];
    for step in 1.. {
        let ended = bed.ended_at(&format!("install.step:{step}"), &words)?;
        worker.runs_pods(Daemons::RunOn)?;
        if !ended.died() {
            ensure!(step > 3, "only {} steps", step - 1);
            ended.says("its old configuration was put back")?;
            break;
        }
        // The next command begins with what somebody else may have written meanwhile.
        node.write_file(CONFIG, &before)?;
    }
    ensure!(node.read_file(CONFIG)? == before, "{}", node.read_file(CONFIG)?);
    worker.runs_pods(Daemons::StartAnew)?;
    bed.done();
    Ok(())
}
