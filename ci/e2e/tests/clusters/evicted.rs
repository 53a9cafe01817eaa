//! Pods whose kubelet ends them before their objects say so: they keep their memory as deleted ones do.

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::container::SOON;
use godwit_e2e::logind::Logind;
use godwit_e2e::pods::{Clusters, Handler, Pod, delete, event, events};
use godwit_lab::{Cluster, Image, Service, wait};
use godwit_types::names;
use serde_json::{Value, json};

const COUNTER: [&str; 5] = ["counter", "--every-ms", "20", "--file", "/count"];

fn counter(name: &str) -> Pod {
    Pod::new(name, Handler::Godwit, Image::Mem, &COUNTER)
        .annotated(names::CHECKPOINT_ON_STOP, "true")
        .with("terminationGracePeriodSeconds", json!(20))
}

fn count(cluster: &Cluster, pod: &str) -> Result<u64> {
    Ok(cluster.kubectl(&["exec", pod, "--", "cat", "/count"])?.trim().parse()?)
}

/// The pod of this name is ready, and another one than before.
fn ready_anew(cluster: &Cluster, pod: &str, before: &str) -> Result<Value> {
    Ok(wait::until(&format!("another {pod} to be ready"), SOON, || {
        let found = cluster.get(&["pod", pod]).map_err(|error| error.to_string())?;
        let is_ready = found["status"]["containerStatuses"][0]["ready"] == true;
        if found["metadata"]["uid"] == before || !is_ready {
            return Err(events(cluster));
        }
        Ok(found)
    })?)
}

fn uid(pod: &Value) -> Result<&str> {
    pod["metadata"]["uid"].as_str().context("a uid")
}

#[test]
fn a_pod_that_its_kubelet_evicts_keeps_its_memory() -> Result<()> {
    const NAME: &str = "greedy";
    let clusters = Clusters::up()?;
    let a = &clusters.a;
    let greedy = |limit: &str| {
        counter(NAME)
            .on("a1")
            .container_with("resources", json!({"limits": {"ephemeral-storage": limit}}))
            .manifest()
    };
    a.apply(&greedy("8Mi"))?;
    let first = ready_anew(a, NAME, "")?;
    wait::until_true("it to count", SOON, || count(a, NAME).is_ok_and(|count| count > 100))?;
    let before = count(a, NAME)?;
    let write = ["dd", "if=/dev/zero", "of=/too-much", "bs=1M", "count=12"];
    a.kubectl(&[&["exec", NAME, "--"][..], &write].concat())?;
    a.wait_until("its eviction", &["pod", NAME], |pod| match &pod["status"]["reason"] {
        reason if reason == "Evicted" => Ok(()),
        _ => Err(pod["status"].to_string()),
    })?;
    event(a, uid(&first)?, "CheckpointCompleted")?;
    delete(a, &format!("pod/{NAME}"))?;
    // Its files are kept, too.
    a.apply(&greedy("64Mi"))?;
    let again = ready_anew(a, NAME, uid(&first)?)?;
    ensure!(count(a, NAME)? >= before, "{}", events(a));
    ensure!(!again["metadata"]["annotations"][names::RESTORED_FROM].is_null(), "{again}");
    delete(a, &format!("pod/{NAME}"))?;
    clusters.leave()
}

#[test]
fn a_pod_of_a_set_goes_on_elsewhere_when_its_node_shuts_down() -> Result<()> {
    const NAME: &str = "server";
    const POD: &str = "server-0";
    let clusters = Clusters::up()?;
    let (a, node) = (&clusters.a, clusters.lab.node("a1")?);
    a.kubectl(&["cordon", "a2"])?;
    a.apply(&counter(NAME).owned_by("StatefulSet", 1))?;
    let first = ready_anew(a, POD, "")?;
    let logind = Logind::of(&node)?;
    node.kill(Service::Kubelet)?;
    node.start(Service::Kubelet)?;
    logind.wait_for("kubelet")?;
    a.kubectl(&["uncordon", "a2"])?;
    wait::until_true("it to count", SOON, || count(a, POD).is_ok_and(|count| count > 100))?;
    let before = count(a, POD)?;

    logind.shut_down()?;
    event(a, uid(&first)?, "CheckpointCompleted")?;
    let again = ready_anew(a, POD, uid(&first)?)?;
    ensure!(count(a, POD)? >= before && again["spec"]["nodeName"] == "a2", "{}", events(a));

    logind.cancel()?;
    delete(a, &format!("statefulset/{NAME}"))?;
    a.kubectl(&["wait", "--for=delete", &format!("pod/{POD}"), "--timeout=120s"])?;
    drop(logind);
    node.kill(Service::Kubelet)?;
    node.start(Service::Kubelet)?;
    clusters.leave()
}
