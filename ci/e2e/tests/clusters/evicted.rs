//! Pods whose kubelet ends them before their objects say so: they keep their memory as deleted ones do.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::logind::Logind;
use godwit_e2e::pods::{Clusters, Handler, Life, Pod, count_events, events};
use godwit_lab::{Image, Service, wait};
use serde_json::json;

const COUNT: &str = "/count";
/// From an eviction until all that comes of it was told.
const TOLD: Duration = Duration::from_secs(30);
const COUNTER: [&str; 5] = ["counter", "--every-ms", "20", "--file", COUNT];

fn counter(name: &str) -> Pod {
    Pod::new(name, Handler::Godwit, Image::Mem, &COUNTER).that_keeps()
}

#[test]
fn a_pod_that_its_kubelet_evicts_keeps_its_memory() -> Result<()> {
    const NAME: &str = "greedy";
    const OBJECT: &str = "pod/greedy";
    let clusters = Clusters::up()?;
    let a = &clusters.a;
    let greedy = |limit: &str| {
        counter(NAME)
            .on("a1")
            .container_with("resources", json!({"limits": {"ephemeral-storage": limit}}))
            .manifest()
    };
    // A kubelet gives whom it evicts two seconds, and its event has to arrive within them: a busy machine may need several tries.
    let mut before = None;
    for _ in 0..5 {
        let first = Life::begin(a, &greedy("8Mi"), NAME)?;
        let last = first.goes_beyond(COUNT, 100)?;
        first.exec(&["dd", "if=/dev/zero", "of=/too-much", "bs=1M", "count=12"])?;
        a.wait_until("its eviction", &["pod", NAME], |pod| match &pod["status"]["reason"] {
            reason if reason == "Evicted" => Ok(()),
            _ => Err(pod["status"].to_string()),
        })?;
        let completed = || count_events(a, &first.uid, "CheckpointCompleted");
        let is_kept = wait::until_true("it to be kept", TOLD, || completed().is_ok_and(|n| n > 0));
        first.delete(OBJECT)?;
        if is_kept.is_ok() {
            before = Some(last);
            break;
        }
    }
    let before = before.with_context(|| events(a))?;
    // Its files are kept, too.
    let again = Life::begin(a, &greedy("64Mi"), NAME)?;
    again.went_on(COUNT, before)?;
    again.delete(OBJECT)?;
    clusters.leave()
}

#[test]
fn a_pod_of_a_set_goes_on_elsewhere_when_its_node_shuts_down() -> Result<()> {
    const NAME: &str = "server";
    const POD: &str = "server-0";
    let clusters = Clusters::up()?;
    let (a, node) = (&clusters.a, clusters.lab.node("a1")?);
    a.kubectl(&["cordon", "a2"])?;
    let first = Life::begin(a, &counter(NAME).owned_by("StatefulSet", 1), POD)?;
    let logind = Logind::of(&node)?;
    node.kill(Service::Kubelet)?;
    node.start(Service::Kubelet)?;
    logind.wait_for("kubelet")?;
    a.kubectl(&["uncordon", "a2"])?;
    let before = first.goes_beyond(COUNT, 100)?;

    logind.shut_down()?;
    first.event("CheckpointCompleted")?;
    let again = Life::wait(a, POD, Some(&first))?;
    again.went_on(COUNT, before)?;
    ensure!(again.node == "a2", "it runs on {}", again.node);

    logind.cancel()?;
    again.delete(&format!("statefulset/{NAME}"))?;
    drop(logind);
    node.kill(Service::Kubelet)?;
    node.start(Service::Kubelet)?;
    clusters.leave()
}
