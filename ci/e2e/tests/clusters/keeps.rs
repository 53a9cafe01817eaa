//! What keeps a pod's memory when it ends, and when it starts from its image all the same.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::container::SOON;
use godwit_e2e::pods::{Clusters, Handler, Pod, delete, event, events};
use godwit_lab::{Cluster, Image, wait};
use godwit_types::names;
use serde_json::{Value, json};

const NODE: &str = "a1";
const OTHER: &str = "a2";

/// One that is to keep its memory, with containers of these names and commands.
fn keeper(name: &str, containers: &[(&str, &[&str])]) -> Pod {
    let container = |(name, command): &(&str, &[&str])| {
        json!({
            "name": name, "image": Image::Mem.reference(), "imagePullPolicy": "Never",
            "command": command,
        })
    };
    Pod::new(name, Handler::Godwit, Image::Mem, &[])
        .on(NODE)
        .annotated(names::CHECKPOINT_ON_STOP, "true")
        .with("terminationGracePeriodSeconds", json!(60))
        .with("containers", containers.iter().map(container).collect())
}

const COUNTER: &[&str] = &["counter", "--every-ms", "20", "--file", "/count"];

fn read(cluster: &Cluster, pod: &str, container: &str, file: &str) -> Result<u64> {
    let words = ["exec", pod, "--container", container, "--", "cat", file];
    Ok(cluster.kubectl(&words)?.trim().parse()?)
}

fn read_beyond(
    cluster: &Cluster,
    (pod, container, file): (&str, &str, &str),
    last: u64,
) -> Result<u64> {
    Ok(wait::until(&format!("{container} to get on"), SOON, || {
        match read(cluster, pod, container, file) {
            Ok(now) if now > last => Ok(now),
            other => Err(format!("{other:?} after {last}: {}", events(cluster))),
        }
    })?)
}

/// Waits for the pod to be another one than that of this uid, and to run; its uid.
fn runs_anew(cluster: &Cluster, pod: &str, before: &str) -> Result<String> {
    Ok(wait::until(&format!("{pod} to run"), SOON, || {
        let found = cluster.get(&["pod", pod]).map_err(|error| error.to_string())?;
        let uid = found["metadata"]["uid"].as_str().unwrap_or_default();
        let all = found["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        let runs = all.iter().any(|one| !one["state"]["running"].is_null());
        if runs && uid != before { Ok(uid.to_owned()) } else { Err(events(cluster)) }
    })?)
}

fn restored_from(cluster: &Cluster, pod: &str) -> Result<Value> {
    let found = cluster.get(&["pod", pod])?;
    Ok(found["metadata"]["annotations"][names::RESTORED_FROM].clone())
}

/// How often an event was told of a pod.
fn told(cluster: &Cluster, uid: &str, reason: &str) -> Result<u64> {
    let field = format!("--field-selector=involvedObject.uid={uid},reason={reason}");
    let found = cluster.get(&["events", &field])?;
    let all = found["items"].as_array().context("a list")?;
    Ok(all.iter().map(|one| one["series"]["count"].as_u64().unwrap_or(1)).sum())
}

#[test]
fn a_pods_end_keeps_all_of_it_or_nothing() -> Result<()> {
    let clusters = Clusters::up()?;
    no_half_of_a_pod(&clusters).context("a stop that cannot be made in time")?;
    who_cannot_be_continued_begins_anew(&clusters).context("a container that is in no point")?;
    kubelets_sidecars_are_kept(&clusters).context("a sidecar among the init containers")?;
    volumes_are_known_by_what_they_are(&clusters).context("a local persistent volume")?;
    clusters.leave()
}

/// Somebody executes something for longer than the grace period: the kubelet ends one container after the other, and nothing is told as kept.
fn no_half_of_a_pod(clusters: &Clusters) -> Result<()> {
    const POD: &str = "busy";
    let (a, node) = (&clusters.a, clusters.lab.node(NODE)?);
    let pod = keeper(POD, &[("first", COUNTER), ("second", COUNTER)])
        .with("terminationGracePeriodSeconds", json!(20))
        .manifest();
    a.apply(&pod)?;
    let uid = runs_anew(a, POD, "")?;
    read_beyond(a, (POD, "first", "/count"), 100)?;
    let words = ["exec", POD, "--container", "first", "--", "sleep", "300"];
    // It is killed with its container, and says so.
    let mut session = a.kubectl_command(&words)?.stderr(Stdio::null()).spawn()?;
    // The node's own first process sleeps, too.
    wait::until("the session to be open", SOON, || node.sh("pgrep --full --exact 'sleep 300'"))?;
    delete(a, "pod/busy")?;
    session.wait()?;
    ensure!(event(a, &uid, "CheckpointFailed")?.contains("exec session"), "{}", events(a));
    ensure!(told(a, &uid, "CheckpointCompleted")? == 0, "{}", events(a));
    a.apply(&pod)?;
    runs_anew(a, POD, &uid)?;
    for container in ["first", "second"] {
        read_beyond(a, (POD, container, "/count"), 0)?;
    }
    ensure!(restored_from(a, POD)?.is_null(), "{}", events(a));
    delete(a, "pod/busy")
}

fn who_cannot_be_continued_begins_anew(clusters: &Clusters) -> Result<()> {
    const POD: &str = "partly";
    let a = &clusters.a;
    let pod =
        keeper(POD, &[("good", COUNTER), ("bad", &["sh", "-c", "exit 3"]), ("other", COUNTER)])
            .manifest();
    a.apply(&pod)?;
    let uid = runs_anew(a, POD, "")?;
    read_beyond(a, (POD, "good", "/count"), 100)?;
    a.wait_until("the other one to be waited with", &["pod", POD], |pod| {
        let all = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        let waits = |one: &Value| one["state"]["waiting"]["reason"] == "CrashLoopBackOff";
        if all.iter().any(waits) { Ok(()) } else { Err(pod["status"].to_string()) }
    })?;
    delete(a, "pod/partly")?;
    event(a, &uid, "CheckpointCompleted")?;
    a.apply(&pod)?;
    let uid = runs_anew(a, POD, &uid)?;
    let why = event(a, &uid, "StartedFromImage")?;
    ensure!(why.contains("bad"), "{why}");
    read_beyond(a, (POD, "good", "/count"), 0)?;
    ensure!(restored_from(a, POD)?.is_null(), "{}", events(a));
    delete(a, "pod/partly")
}

fn kubelets_sidecars_are_kept(clusters: &Clusters) -> Result<()> {
    const POD: &str = "guarded";
    const MEMBERS: [(&str, &str, &str); 2] =
        [(POD, "answers", "/progress"), (POD, "asks", "/progress")];
    let a = &clusters.a;
    let asks: &[&str] = &["talk", "--connect", "127.0.0.1:7", "--file", "/progress"];
    // Before both have come back the kubelet starts no other container, and the sidecar runs only when the others are there, too.
    let command = json!({"command": ["test", "-d", "/"]});
    let starts = json!({"exec": &command, "periodSeconds": 1, "timeoutSeconds": 5});
    let pod = keeper(POD, &[("asks", asks)]).with(
        "initContainers",
        json!([{
            "name": "answers", "image": Image::Mem.reference(), "imagePullPolicy": "Never",
            "command": ["talk", "--listen", "127.0.0.1:7", "--file", "/progress"],
            "restartPolicy": "Always", "startupProbe": starts,
            "lifecycle": {"postStart": {"exec": command}},
        }]),
    );
    a.apply(&pod.clone().manifest())?;
    let uid = runs_anew(a, POD, "")?;
    let mut last = [0; 2];
    for (last, member) in last.iter_mut().zip(MEMBERS) {
        *last = read_beyond(a, member, 20)?;
    }
    delete(a, "pod/guarded")?;
    event(a, &uid, "CheckpointCompleted")?;
    let counts = ["CheckpointStarted", "CheckpointCompleted", "CheckpointFailed"];
    let counts = counts.map(|reason| told(a, &uid, reason).unwrap_or(u64::MAX));
    ensure!(counts == [1, 1, 0], "{counts:?}: {}", events(a));
    a.apply(&pod.on(OTHER).manifest())?;
    runs_anew(a, POD, &uid)?;
    for (last, member) in last.into_iter().zip(MEMBERS) {
        read_beyond(a, member, last)?;
    }
    delete(a, "pod/guarded")
}

/// The kubelet mounts a persistent volume under a path of each pod's own.
fn volumes_are_known_by_what_they_are(clusters: &Clusters) -> Result<()> {
    const SET: &str = "stored";
    const POD: &str = "stored-0";
    const DISK: &str = "/var/lib/disk-1";
    let (a, node) = (&clusters.a, clusters.lab.node(NODE)?);
    node.run(&["mkdir", "--parents", DISK])?;
    a.apply(
        &json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "disk-1"},
            "spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
                "storageClassName": "disks", "local": {"path": DISK},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]},
                ]}]}},
            },
        })
        .to_string(),
    )?;
    let command = ["counter", "--every-ms", "20", "--file", "/data/count"];
    let pod = keeper(SET, &[("main", &command)]).with(
        "containers",
        json!([{
            "name": "main", "image": Image::Mem.reference(), "imagePullPolicy": "Never",
            "command": command, "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        }]),
    );
    let mut set: Value = serde_json::from_str(&pod.owned_by("StatefulSet", 1))?;
    set["spec"]["volumeClaimTemplates"] = json!([{
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "disks",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }]);
    a.apply(&set.to_string())?;
    let uid = runs_anew(a, POD, "")?;
    let last = read_beyond(a, (POD, "main", "/data/count"), 100)?;
    delete(a, "pod/stored-0")?;
    let uid = runs_anew(a, POD, &uid)?;
    event(a, &uid, "RestoreSucceeded")?;
    read_beyond(a, (POD, "main", "/data/count"), last)?;
    for object in ["statefulset/stored", "pvc/data-stored-0", "pv/disk-1"] {
        delete(a, object)?;
    }
    Ok(())
}
