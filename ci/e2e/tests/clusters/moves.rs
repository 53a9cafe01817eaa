//! Pods of several containers that move: to another node, and to another cluster.

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::container::SOON;
use godwit_e2e::pods::Clusters;
use godwit_lab::{Cluster, Image, Node, wait};
use godwit_types::CheckpointReport;
use serde_json::{Value, json};

const POD: &str = "talkers";
/// Its containers, and where each keeps its last number: in an emptyDir on disk, and in one in memory.
const MEMBERS: [(&str, &str); 2] = [("answers", "/cache/answers"), ("asks", "/mem/asks")];
/// Files that nobody writes again: whoever finds them got them from the checkpoint.
const KEPT: [&str; 3] = ["/cache/kept", "/mem/kept", "/dev/shm/kept"];

/// A file of each container's own root: it is there as long as the container goes on.
const MARK: &str = "/mark";

/// Two containers that talk to each other over loopback, after an init container that must not run twice.
fn pod(node: &str, restore_from: Option<&str>) -> String {
    let mounts =
        json!([{"name": "cache", "mountPath": "/cache"}, {"name": "mem", "mountPath": "/mem"}]);
    let container = |name: &str, command: &[&str]| {
        json!({
            "name": name, "image": Image::Mem.reference(), "imagePullPolicy": "Never",
            "command": command, "volumeMounts": mounts,
        })
    };
    let annotations = restore_from.map(|id| json!({"godwit.dev/restore-from": id}));
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": POD, "annotations": annotations},
        "spec": {
            "runtimeClassName": "godwit", "terminationGracePeriodSeconds": 0,
            "dnsPolicy": "Default", "nodeSelector": {"kubernetes.io/hostname": node},
            "volumes": [
                {"name": "cache", "emptyDir": {}},
                {"name": "mem", "emptyDir": {"medium": "Memory"}},
            ],
            "initContainers": [
                container("first", &["sh", "-c", "echo once >> /cache/first"]),
            ],
            "containers": [
                container("answers", &["talk", "--listen", "127.0.0.1:7", "--file", MEMBERS[0].1]),
                container("asks", &["talk", "--connect", "127.0.0.1:7", "--file", MEMBERS[1].1]),
            ],
        },
    })
    .to_string()
}

/// The pod in one cluster.
struct Talkers<'c> {
    cluster: &'c Cluster,
    node: Node,
}

impl<'c> Talkers<'c> {
    fn run(cluster: &'c Cluster, node: Node, restore_from: Option<&str>) -> Result<Self> {
        cluster.apply(&pod(node.name(), restore_from))?;
        cluster.wait_for(&[&format!("pod/{POD}")], "condition=Ready")?;
        Ok(Self { cluster, node })
    }

    fn exec(&self, container: &str, words: &[&str]) -> Result<String> {
        let all = [&["exec", POD, "--container", container, "--"], words].concat();
        Ok(self.cluster.kubectl(&all)?.trim().to_owned())
    }

    fn progress(&self) -> Result<[u64; 2]> {
        let of = |(name, file)| Ok::<_, anyhow::Error>(self.exec(name, &["cat", file])?.parse()?);
        Ok([of(MEMBERS[0])?, of(MEMBERS[1])?])
    }

    /// Both get on.
    fn talk(&self) -> Result<[u64; 2]> {
        let mut before = wait::until("both to talk", SOON, || {
            self.progress().map_err(|error| format!("{error:#}"))
        })?;
        let on = |now: [u64; 2], before: [u64; 2]| {
            now.iter().zip(before).all(|(now, before)| *now > before + 20)
        };
        Ok(wait::until("both to get on", SOON, || match self.progress() {
            Ok(now) if on(now, before) => Ok(now),
            Ok(now) => {
                // A volume may have had a former life's number for a moment.
                before = [now[0].min(before[0]), now[1].min(before[1])];
                Err(format!("{now:?} after {before:?}"))
            }
            Err(error) => Err(format!("{error:#}")),
        })?)
    }

    fn statuses(&self) -> Result<Vec<Value>> {
        let found = self.cluster.get(&["pod", POD])?;
        let all = found["status"]["containerStatuses"].as_array().cloned();
        all.context("it has no containers yet")
    }

    fn restarts(&self) -> Result<Vec<u64>> {
        Ok(self.statuses()?.iter().map(|one| one["restartCount"].as_u64().unwrap_or(0)).collect())
    }

    /// The id that containerd knows a container by.
    fn id(&self, container: &str) -> Result<String> {
        let all = self.statuses()?;
        let one = all.iter().find(|one| one["name"] == container).context("such a container")?;
        let id = one["containerID"].as_str().context("it runs")?;
        Ok(id.trim_start_matches("containerd://").to_owned())
    }

    /// Stops it at a point and deletes it.
    fn stop(self) -> Result<(CheckpointReport, [u64; 2])> {
        let last = self.progress()?;
        let id = self.id("asks")?;
        let words =
            ["godwit", "checkpoint", "--output", "json", "--stop", "--namespace", "k8s.io", &id];
        let report: CheckpointReport = serde_json::from_str(&self.node.run(&words)?)?;
        ensure!(report.containers == ["answers", "asks"], "{:?}", report.containers);
        self.cluster.kubectl(&["delete", "pod", POD, "--timeout=180s"])?;
        Ok((report, last))
    }

    /// It goes on from there, and kubelet and users see an ordinary pod.
    fn went_on(&self, last: [u64; 2]) -> Result<()> {
        let now = self.talk()?;
        ensure!(now.iter().zip(last).all(|(now, last)| *now >= last), "{now:?} after {last:?}");
        ensure!(self.restarts()? == [0, 0], "{:?}", self.statuses()?);
        for kept in KEPT {
            ensure!(self.exec("asks", &["cat", kept])? == "kept", "{kept}");
        }
        for (container, _) in MEMBERS {
            self.exec(container, &["test", "-e", MARK])?;
        }
        ensure!(self.exec("answers", &["cat", "/cache/first"])? == "once", "it ran again");
        ensure!(
            self.exec("answers", &["cat", "/proc/sys/kernel/hostname"])? == POD,
            "its host name is the new pod's"
        );
        let logs = self.cluster.kubectl(&["logs", POD, "--container", "asks", "--tail=1"])?;
        ensure!(logs.trim().parse::<u64>()? >= last[1], "{logs}");
        Ok(())
    }
}

#[test]
fn a_pod_goes_on_on_another_node_and_in_another_cluster_and_starts_anew_when_it_crashes()
-> Result<()> {
    let clusters = Clusters::up()?;
    let node = |name| clusters.lab.node(name);
    let talkers = Talkers::run(&clusters.a, node("a1")?, None)?;
    for kept in KEPT {
        talkers.exec("answers", &["sh", "-c", &format!("echo kept > {kept}")])?;
    }
    for (container, _) in MEMBERS {
        talkers.exec(container, &["touch", MARK])?;
    }
    talkers.talk()?;
    let (report, last) = talkers.stop()?;
    let id = report.checkpoint.to_string();
    let talkers = Talkers::run(&clusters.a, node("a2")?, Some(&id))?;
    talkers.went_on(last)?;
    let (report, last) = talkers.stop()?;
    let id = report.checkpoint.to_string();
    let talkers = Talkers::run(&clusters.b, node("b1")?, Some(&id))?;
    talkers.went_on(last)?;

    // A crash takes the other end of the connection along: both start from their images, as any pod's containers do.
    let pid = talkers.node.run(&[
        "crictl",
        "inspect",
        "--output",
        "go-template",
        "--template",
        "{{.info.pid}}",
        &talkers.id("asks")?,
    ])?;
    talkers.node.run(&["kill", "-KILL", pid.trim()])?;
    wait::until_true("both to be started again", SOON, || {
        talkers.restarts().is_ok_and(|restarts| restarts.iter().all(|count| *count > 0))
    })?;
    talkers.cluster.wait_for(&[&format!("pod/{POD}")], "condition=Ready")?;
    talkers.talk()?;
    for (container, _) in MEMBERS {
        talkers.exec(container, &["test", "!", "-e", MARK]).context("it went on")?;
    }

    // So does a pod whose sandbox is lost: its request was for its first life.
    let sandbox = talkers.node.run(&["crictl", "pods", "--quiet", "--name", POD])?;
    let pid = talkers.node.run(&[
        "crictl",
        "inspectp",
        "--output",
        "go-template",
        "--template",
        "{{.info.pid}}",
        sandbox.trim(),
    ])?;
    let ids = [talkers.id("answers")?, talkers.id("asks")?];
    talkers.node.run(&["kill", "-KILL", pid.trim()])?;
    wait::until_true("both to be other containers", SOON, || {
        talkers.id("answers").is_ok_and(|id| id != ids[0])
            && talkers.id("asks").is_ok_and(|id| id != ids[1])
    })?;
    talkers.cluster.wait_for(&[&format!("pod/{POD}")], "condition=Ready")?;
    talkers.talk()?;
    talkers.cluster.kubectl(&["delete", "pod", POD, "--timeout=180s"])?;
    clusters.leave()
}
