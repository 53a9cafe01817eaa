//! People debug pods that move: ephemeral containers.

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::container::SOON;
use godwit_e2e::pods::{Clusters, Handler, Life, Pod, count_events, events};
use godwit_lab::{Cluster, Image, wait};
use godwit_types::names;
use serde_json::{Value, json};

const COUNT: &str = "/count";
const NAME: &str = "debugged";
const POD: &str = "debugged-0";
/// Runs until it is told to end.
const LOOKS: &str = "until test -e /tmp/end; do sleep 0.1; done";

/// Tells it, when nobody is in it any more who would be killed with it.
const ENDS: [&str; 3] = ["sh", "-c", "(sleep 0.5; touch /tmp/end) >/dev/null 2>&1 &"];

/// A debugging container of this name in the pod.
fn debug(cluster: &Cluster, by: &str) -> Result<()> {
    let (image, name) = (Image::Shell.reference(), format!("--container={by}"));
    let image = format!("--image={image}");
    let words = ["debug", POD, &image, "--image-pull-policy=Never", &name, "--profile=general"];
    cluster.kubectl(&[&words[..], &["--", "sh", "-c", LOOKS]].concat())?;
    state(cluster, by, "running")
}

/// Waits for a debugging container to be so.
fn state(cluster: &Cluster, by: &str, wanted: &str) -> Result<()> {
    Ok(wait::until(&format!("{by} to be {wanted}"), SOON, || {
        let found = cluster.get(&["pod", POD]).map_err(|error| error.to_string())?;
        let all = found["status"]["ephemeralContainerStatuses"].as_array().cloned();
        let all = all.unwrap_or_default();
        let one = all.iter().find(|one| one["name"] == by);
        match one {
            Some(one) if !one["state"][wanted].is_null() => Ok(()),
            _ => Err(format!("{all:?} {}", events(cluster))),
        }
    })?)
}

#[test]
fn a_pod_that_is_debugged_is_checkpointed_when_nobody_looks_into_it_any_more() -> Result<()> {
    let clusters = Clusters::up()?;
    let a = &clusters.a;
    let words = ["counter", "--every-ms", "20", "--file", COUNT];
    let set = Pod::new(NAME, Handler::Godwit, Image::Mem, &words).that_keeps();
    let first = Life::begin(a, &set.owned_by("StatefulSet", 1), POD)?;
    debug(a, "looks")?;
    a.kubectl(&["annotate", "pod", POD, &format!("{}=now", names::CHECKPOINT)])?;
    let failed = first.event("CheckpointFailed")?;
    ensure!(failed.contains("EphemeralContainer: looks of `kubectl debug` runs in it"), "{failed}");
    ensure!(first.annotation(names::LAST_CHECKPOINT)?.is_none(), "{}", events(a));
    // It is tried again and again, and told once.
    let uid = first.uid.as_str();
    wait::until("it to be refused again", SOON, || {
        let all = a.get(&[
            "events",
            &format!("--field-selector=involvedObject.uid={uid},reason=CheckpointFailed"),
        ]);
        let all = all.map_err(|error| error.to_string())?;
        let counts = |one: &Value| one["series"]["count"].as_u64() >= Some(2);
        if all["items"].as_array().into_iter().flatten().any(counts) {
            Ok(())
        } else {
            Err(all.to_string())
        }
    })?;
    ensure!(count_events(a, uid, "CheckpointFailed")? == 1, "{}", events(a));
    // The request stands until that may have passed.
    first.exec_in("looks", &ENDS)?;
    state(a, "looks", "terminated")?;
    wait::until("the checkpoint to be made", SOON, || {
        let asks = first.annotation(names::CHECKPOINT).map_err(|error| format!("{error:#}"))?;
        if asks.is_none() { Ok(()) } else { Err(events(a)) }
    })?;
    first.event("CheckpointCompleted")?;
    ensure!(first.annotation(names::LAST_CHECKPOINT)?.is_some(), "{}", events(a));

    // Its end keeps its memory, whoever looks into it: a shell that is process 1 heeds no SIGTERM.
    debug(a, "looks-again")?;
    let asked_for = first.annotation(names::LAST_CHECKPOINT)?;
    let last = first.number(COUNT)?;
    a.kubectl(&["delete", "pod", POD, "--timeout=180s"])?;
    let second = Life::wait(a, POD, Some(&first))?;
    second.went_on(COUNT, last).context("the pod that was being debugged")?;
    let from = second.annotation(names::RESTORED_FROM)?;
    ensure!(from != asked_for, "not from its end: {}", events(a));

    // One that goes on can be looked into as well.
    debug(a, "looks")?;
    let last = second.number(COUNT)?;
    second.goes_beyond(COUNT, last)?;
    second.exec_in("looks", &ENDS)?;
    state(a, "looks", "terminated")?;
    let last = second.number(COUNT)?;
    a.kubectl(&["delete", "pod", POD, "--timeout=180s"])?;
    let third = Life::wait(a, POD, Some(&second))?;
    third.went_on(COUNT, last).context("the pod after one that was debugged")?;
    third.delete(&format!("statefulset/{NAME}"))?;
    clusters.leave()
}

/// The image of its second container, which the node has by another name only, at first.
const LATE: &str = "godwit.test/late:latest";

#[test]
fn who_debugs_a_pod_before_it_goes_on_does_not_cost_it_its_memory() -> Result<()> {
    let clusters = Clusters::up()?;
    let (a, node) = (&clusters.a, clusters.lab.node("a1")?);
    let words = ["counter", "--every-ms", "20", "--file", COUNT];
    let pod = |image: &str| {
        let beside = json!({
            "name": "beside", "image": image, "imagePullPolicy": "Never", "command": words,
        });
        let pod = Pod::new(NAME, Handler::Godwit, Image::Mem, &words).beside(beside);
        pod.that_keeps().on("a1")
    };
    let first = Life::begin(a, &pod(Image::Mem.reference()).manifest(), NAME)?;
    let last = first.goes_beyond(COUNT, 300)?;
    let point = first.stop()?;

    a.apply(&pod(LATE).annotated(names::RESTORE_FROM, &point).manifest())?;
    wait::until("one container to wait for the other", SOON, || {
        let found = a.get(&["pod", NAME]).map_err(|error| error.to_string())?;
        let all = found["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        let is = |name: &str, state: &str| {
            all.iter().any(|one| one["name"] == name && !one["state"][state].is_null())
        };
        if is("main", "running") && is("beside", "waiting") { Ok(()) } else { Err(events(a)) }
    })?;
    let image = format!("--image={}", Image::Shell.reference());
    let words = ["debug", NAME, &image, "--image-pull-policy=Never", "--container=looks"];
    a.kubectl(&[&words[..], &["--profile=general", "--", "sh", "-c", LOOKS]].concat())?;
    wait::until("it to be refused", SOON, || {
        let said = events(a);
        if said.contains("before its pod has continued its checkpoint") {
            Ok(())
        } else {
            Err(said)
        }
    })?;
    node.ctr(&["-n", "k8s.io", "images", "tag", Image::Mem.reference(), LATE])?;
    let second = Life::wait(a, NAME, Some(&first))?;
    second.went_on(COUNT, last).context("a pod that was debugged too early")?;
    // Its start was refused at once: one that is asked for again and again keeps the kubelet from starting the others.
    let told = node.exec(&["godwit", "doctor", "--output", "json"])?;
    let told = String::from_utf8_lossy(&told.stdout);
    ensure!(told.matches("before its pod has continued").count() == 1, "{told}");
    second.delete(&format!("pod/{NAME}"))?;
    node.ctr(&["-n", "k8s.io", "images", "rm", LATE])?;
    clusters.leave()
}
