//! Pods that keep their memory when they are deleted, and the kubelet's calls that Godwit answers.

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::container::SOON;
use godwit_e2e::pods::{Clusters, Handler, Life, Pod, count_events, delete, event, events, number};
use godwit_lab::{Cluster, Image, Node, Service, wait};
use godwit_types::names;
use serde_json::{Value, json};

const NAME: &str = "keeper";
const POD: &str = "keeper-0";
/// Where each container keeps its last number.
const FILES: [(&str, &str); 2] = [("answers", "/cache/answers"), ("asks", "/mem/asks")];

/// A probe that may fail at no time.
fn every_second(kind: &str, how: Value) -> Value {
    json!({kind: how, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 1})
}

/// Two containers that talk over loopback and share directories, as the pod of a set that keeps its memory.
fn talkers() -> Pod {
    let mounts =
        json!([{"name": "cache", "mountPath": "/cache"}, {"name": "mem", "mountPath": "/mem"}]);
    let container = |name: &str, command: &[&str], probe: Value| {
        json!({
            "name": name, "image": Image::Mem.reference(), "imagePullPolicy": "Never",
            "command": command, "volumeMounts": mounts, "livenessProbe": probe,
        })
    };
    let mut exec = every_second("exec", json!({"command": ["test", "!", "-e", "/cache/ill"]}));
    // How long it takes is no matter here.
    exec["timeoutSeconds"] = json!(5);
    exec["terminationGracePeriodSeconds"] = json!(5);
    let answers = ["talk", "--listen", "127.0.0.1:7", "--file", FILES[0].1];
    let asks = ["talk", "--connect", "127.0.0.1:7", "--file", FILES[1].1];
    Pod::new(NAME, Handler::Godwit, Image::Mem, &[])
        .annotated(names::CHECKPOINT_ON_STOP, "true")
        .with("terminationGracePeriodSeconds", json!(60))
        .with(
            "volumes",
            json!([
                {"name": "cache", "emptyDir": {}},
                {"name": "mem", "emptyDir": {"medium": "Memory"}},
            ]),
        )
        .with(
            "containers",
            json!([container("answers", &answers, exec), container("asks", &asks, Value::Null)]),
        )
}

fn node_of(cluster: &Cluster, pod: &str) -> Result<String> {
    let found = cluster.get(&["pod", pod])?;
    Ok(found["spec"]["nodeName"].as_str().context("a node")?.to_owned())
}

fn numbers(cluster: &Cluster) -> Result<[u64; 2]> {
    let [a, b] = FILES.map(|(name, file)| number(cluster, POD, Some(name), file));
    Ok([a?, b?])
}

fn uid_of(cluster: &Cluster, pod: &str) -> Result<String> {
    Ok(cluster.get(&["pod", pod])?["metadata"]["uid"].as_str().context("a uid")?.to_owned())
}

/// Both get on, beyond these.
fn get_on(cluster: &Cluster, beyond: [u64; 2]) -> Result<[u64; 2]> {
    let is_on = |now: &[u64; 2]| now.iter().zip(beyond).all(|(now, last)| *now > last);
    Ok(wait::until("both to get on", SOON, || match numbers(cluster) {
        Ok(now) if is_on(&now) => Ok(now),
        other => Err(format!("{other:?} after {beyond:?}; {}", events(cluster))),
    })?)
}

/// Another pod of this name than the one before is ready.
fn ready_anew(cluster: &Cluster, pod: &str, before: &str) -> Result<String> {
    Ok(wait::until("another pod to be ready", SOON, || {
        let found = cluster.get(&["pod", pod]).map_err(|error| error.to_string())?;
        let uid = found["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let all = found["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        let is_ready = !all.is_empty() && all.iter().all(|one| one["ready"] == true);
        if uid == before || !is_ready {
            return Err(events(cluster));
        }
        Ok(uid)
    })?)
}

fn restarts(cluster: &Cluster, pod: &str) -> Result<Vec<u64>> {
    let found = cluster.get(&["pod", pod])?;
    let all = found["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
    Ok(all.iter().map(|one| one["restartCount"].as_u64().unwrap_or(0)).collect())
}

/// The kubelet knows of its deletion; the agent, which is started anew meanwhile, hears of nothing: the API server has gone away.
fn deleted_while_nobody_can_say_so(clusters: &Clusters, before: &str) -> Result<()> {
    let a = &clusters.a;
    let node = clusters.lab.node(&node_of(a, POD)?)?;
    let newest = || -> Result<String> {
        let said = node.run(&["godwit", "list", "--output", "json"])?;
        let said: Value = serde_json::from_str(&said)?;
        Ok(said["checkpoints"][0]["id"].as_str().context("a checkpoint")?.to_owned())
    };
    let (last, point) = (numbers(a)?, newest()?);
    node.kill(Service::Agent)?;
    a.kubectl(&["delete", "pod", POD, "--wait=false"])?;
    wait::until_true("the kubelet to stop it", SOON, || {
        count_events(a, before, "Killing").is_ok_and(|count| count > 0)
    })?;
    a.control_plane().kill(Service::ApiServer)?;
    node.start(Service::Agent)?;
    let made = wait::until("a checkpoint", SOON, || match newest() {
        Ok(now) if now != point => Ok(now),
        other => Err(format!("{other:?}")),
    })?;
    let log = node.log("godwit-agent")?;
    ensure!(log.contains("does not say whether it ends"), "the agent has heard of it: {log}");
    a.start_api_server()?;
    let uid = ready_anew(a, POD, before)?;
    get_on(a, last)?;
    a.wait_until("it to be told as continued", &["pod", POD], |pod| {
        let from = &pod["metadata"]["annotations"][names::RESTORED_FROM];
        let goes_on = pod["metadata"]["uid"] == uid && from.as_str() == Some(&made);
        if goes_on { Ok(()) } else { Err(pod.to_string()) }
    })?;
    Ok(())
}

#[test]
fn a_pod_of_a_set_that_is_deleted_keeps_its_memory_on_the_same_and_on_another_node() -> Result<()> {
    let clusters = Clusters::up()?;
    let a = &clusters.a;
    a.apply(&talkers().owned_by("StatefulSet", 1))?;
    let mut before = ready_anew(a, POD, "")?;
    get_on(a, [20, 20])?;
    let first = node_of(a, POD)?;
    let other = if first == "a1" { "a2" } else { "a1" };
    // The second time its node takes no new pods.
    for (round, closed) in [None, Some(&first)].into_iter().enumerate() {
        if let Some(node) = closed {
            a.kubectl(&["cordon", node])?;
        }
        let last = numbers(a)?;
        a.kubectl(&["delete", "pod", POD, "--timeout=180s"])?;
        before = ready_anew(a, POD, &before)?;
        get_on(a, last).with_context(|| format!("round {round}"))?;
        ensure!(restarts(a, POD)? == [0, 0], "{}", events(a));
    }
    ensure!(node_of(a, POD)? == other, "{}", events(a));
    a.kubectl(&["uncordon", &first])?;

    deleted_while_nobody_can_say_so(&clusters, &before)?;

    // A kill by its probe is no end: it starts from its image, as any pod does, and at once.
    let uid = uid_of(a, POD)?;
    let before = count_events(a, &uid, "CheckpointCompleted")?;
    a.kubectl(&["exec", POD, "--container", "answers", "--", "touch", "/cache/ill"])?;
    wait::until("its probe to have it started anew", SOON, || {
        let restarts = restarts(a, POD).map_err(|error| error.to_string())?;
        if restarts.iter().any(|count| *count > 0) { Ok(()) } else { Err(events(a)) }
    })?;
    ensure!(count_events(a, &uid, "CheckpointCompleted")? == before, "{}", events(a));
    with_another_template(a)?;
    a.kubectl(&["delete", "statefulset", NAME, "--timeout=180s"])?;
    a.kubectl(&["wait", "--for=delete", &format!("pod/{POD}"), "--timeout=180s"])?;
    clusters.leave()
}

/// The set's template changes: its pod is replaced by one that starts from its image, and says so.
fn with_another_template(cluster: &Cluster) -> Result<()> {
    let before = cluster.get(&["pod", POD])?["metadata"]["uid"].to_string();
    let changed = talkers().with("terminationGracePeriodSeconds", json!(61));
    cluster.apply(&changed.owned_by("StatefulSet", 1))?;
    let uid = ready_anew(cluster, POD, before.trim_matches('"'))?;
    let told = event(cluster, &uid, "TemplateChanged")?;
    ensure!(told.contains("not continued"), "{told}");
    let found = cluster.get(&["pod", POD])?;
    ensure!(found["metadata"]["annotations"][names::RESTORED_FROM].is_null(), "{found}");
    Ok(())
}

#[test]
fn probes_of_every_second_do_not_notice_checkpoints() -> Result<()> {
    const ROUNDS: usize = 12;
    let clusters = Clusters::up()?;
    let a = &clusters.a;
    let kinds = [
        ("exec", "exec", json!({"command": ["true"]})),
        ("http", "httpGet", json!({"path": "/", "port": 8080})),
        ("tcp", "tcpSocket", json!({"port": 8080})),
    ];
    // It may not listen yet when it is probed first.
    let starts = json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 30});
    // With memory enough for a freeze that is no moment.
    let ballast = json!({
        "name": "ballast", "image": Image::Mem.reference(), "imagePullPolicy": "Never",
        "command": ["memwriter", "--mib", "64"],
    });
    for (pod, kind, how) in &kinds {
        let probe = every_second(kind, how.clone());
        let pod = Pod::new(pod, Handler::Godwit, Image::Web, &[])
            .on("a1")
            .container_with("startupProbe", starts.clone())
            .container_with("livenessProbe", probe.clone())
            .container_with("readinessProbe", probe)
            .beside(ballast.clone());
        a.apply(&pod.manifest())?;
    }
    let since = |pod: &str| -> Result<String> {
        let found = a.get(&["pod", pod])?;
        let all = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = all.iter().find(|one| one["type"] == "Ready").context("a condition")?;
        ensure!(ready["status"] == "True", "{ready}");
        Ok(ready["lastTransitionTime"].as_str().unwrap_or_default().to_owned())
    };
    let pods = kinds.map(|(pod, ..)| pod);
    let mut ready_since = vec![];
    for pod in pods {
        a.wait_for(&[&format!("pod/{pod}")], "condition=Ready")?;
        ready_since.push(since(pod)?);
    }
    let asked = format!("{}=now", names::CHECKPOINT);
    for _ in 0..ROUNDS {
        a.kubectl(&[&["annotate", "pod"][..], &pods, &[&asked]].concat())?;
        wait::until("the checkpoints to be made", SOON, || {
            let found = a.get(&["pods"]).map_err(|error| error.to_string())?;
            let all = found["items"].as_array().cloned().unwrap_or_default();
            let asks = |pod: &Value| !pod["metadata"]["annotations"][names::CHECKPOINT].is_null();
            if all.iter().any(asks) { Err(events(a)) } else { Ok(()) }
        })?;
    }
    let all = events(a);
    for (pod, before) in pods.into_iter().zip(ready_since) {
        ensure!(restarts(a, pod)? == [0, 0] && since(pod)? == before, "{pod}: {all}");
        let uid = uid_of(a, pod)?;
        wait::until(&format!("all checkpoints of {pod} to be told"), SOON, || match count_events(
            a,
            &uid,
            "CheckpointCompleted",
        ) {
            Ok(ROUNDS) => Ok(()),
            other => Err(format!("{other:?} of {ROUNDS}: {all}")),
        })?;
        ensure!(count_events(a, &uid, "Unhealthy")? == 0, "{pod}: {all}");
        delete(a, &format!("pod/{pod}"))?;
    }
    clusters.leave()
}

#[test]
fn the_kubelets_own_checkpoint_is_durable_and_its_archive_is_there() -> Result<()> {
    let clusters = Clusters::up()?;
    let (a, node): (_, Node) = (&clusters.a, clusters.lab.node("a1")?);
    let words = ["counter", "--every-ms", "20", "--file", "/count"];
    a.apply(&Pod::new("web", Handler::Godwit, Image::Mem, &words).on("a1").manifest())?;
    a.wait_for(&["pod/web"], "condition=Ready")?;
    let path = "/api/v1/nodes/a1/proxy/checkpoint/default/web/main";
    let told = a.send(&["create", "--raw", path, "--filename", "-"], "")?;
    let told: Value = serde_json::from_str(&told).with_context(|| told.clone())?;
    let archive = told["items"][0].as_str().context("an archive")?;
    let listed = node.run(&["tar", "--list", "--file", archive])?;
    ensure!(listed.lines().any(|line| line.contains("pages-1.img")), "{listed}");
    let id = wait::until("the checkpoint to be told", SOON, || {
        let found = a.get(&["pod", "web"]).map_err(|error| error.to_string())?;
        let id = found["metadata"]["annotations"][names::LAST_CHECKPOINT].as_str();
        id.map(str::to_owned).ok_or_else(|| events(a))
    })?;
    let shown = node.run(&["godwit", "verify", &id])?;
    ensure!(!shown.is_empty());
    let before = number(a, "web", None, "/count")?;
    wait::until_true("it to go on", SOON, || {
        number(a, "web", None, "/count").is_ok_and(|now| now > before)
    })?;
    // What it made can be copied, whatever becomes of the pod.
    let copy = Pod::new("copy", Handler::Godwit, Image::Mem, &words).on("a1");
    let copy = Life::begin(a, &copy.annotated(names::FORK_FROM, &id).manifest(), "copy")?;
    let told = copy.event("RestoreSucceeded")?;
    ensure!(told.contains(&id), "{told}");
    copy.delete("pod/copy")?;
    a.kubectl(&["delete", "pod", "web", "--timeout=180s"])?;
    clusters.leave()
}
