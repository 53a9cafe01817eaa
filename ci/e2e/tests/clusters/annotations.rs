//! What users of pods ask for by annotations, and what events and annotations tell them.

use anyhow::{Context as _, Result, bail, ensure};
use godwit_e2e::container::SOON;
use godwit_e2e::pods::{Clusters, Handler, Pod, event, event_says, events, number};
use godwit_lab::{Cluster, Image, LabError, Node, Service, wait};
use godwit_types::{CheckpointReport, names};
use serde_json::{Value, json};

const COUNTER: [&str; 5] = ["counter", "--every-ms", "20", "--file", "/count"];
/// A file of a pod that goes on only with it.
const MARK: &str = "/mark";

fn counter(name: &str) -> Pod {
    Pod::new(name, Handler::Godwit, Image::Mem, &COUNTER)
}

fn count(cluster: &Cluster, pod: &str) -> Result<u64> {
    number(cluster, pod, None, "/count")
}

/// Waits until it has counted beyond this.
fn counts_beyond(cluster: &Cluster, pod: &str, last: u64) -> Result<u64> {
    Ok(wait::until("the counter to go on", SOON, || match count(cluster, pod) {
        Ok(now) if now > last => Ok(now),
        other => Err(format!("{other:?} after {last}")),
    })?)
}

fn annotation(cluster: &Cluster, pod: &str, name: &str) -> Result<Option<String>> {
    let found = cluster.get(&["pod", pod])?;
    Ok(found["metadata"]["annotations"][name].as_str().map(str::to_owned))
}

/// Waits until a pod has this annotation.
fn told(cluster: &Cluster, pod: &str, name: &str) -> Result<String> {
    Ok(wait::until(&format!("{name} of {pod}"), SOON, || {
        annotation(cluster, pod, name)
            .map_err(|error| error.to_string())?
            .ok_or_else(|| "it is not there".to_owned())
    })?)
}

/// The last event of this reason about the pod that has this name now.
fn event_of(cluster: &Cluster, pod: &str, reason: &str) -> Result<String> {
    let found = cluster.get(&["pod", pod])?;
    event(cluster, found["metadata"]["uid"].as_str().context("a uid")?, reason)
}

/// Asks for a checkpoint and waits until the request is taken away; the last checkpoint's id.
fn ask(cluster: &Cluster, pod: &str) -> Result<String> {
    let before = annotation(cluster, pod, names::LAST_CHECKPOINT)?;
    cluster.kubectl(&["annotate", "pod", pod, "godwit.dev/checkpoint=now"])?;
    wait::until("the request to be done", SOON, || {
        match annotation(cluster, pod, names::CHECKPOINT) {
            Ok(None) => Ok(()),
            _ => Err(events(cluster)),
        }
    })?;
    // What was told of the one before may come late.
    Ok(wait::until("one to be made", SOON, || match told(cluster, pod, names::LAST_CHECKPOINT) {
        Ok(made) if before.as_ref() != Some(&made) => Ok(made),
        _ => Err(events(cluster)),
    })?)
}

fn container_of(cluster: &Cluster, pod: &str) -> Result<String> {
    let found = cluster.get(&["pod", pod])?;
    let id = found["status"]["containerStatuses"][0]["containerID"].as_str();
    Ok(id.context("it runs")?.trim_start_matches("containerd://").to_owned())
}

/// What `godwit pods` of a node tells of a pod, as JSON. `None`: it is not listed.
fn listed(node: &Node, pod: &str) -> Result<Option<Value>> {
    let list: Value = serde_json::from_str(&node.run(&["godwit", "pods", "--output", "json"])?)?;
    let pods = list["pods"].as_array().with_context(|| format!("a list: {list}"))?;
    Ok(pods.iter().find(|one| one["name"] == pod).cloned())
}

/// What `godwit doctor` of a node, on which nothing is bad, says of a check: verdict and sentence.
fn diagnosed(node: &Node, check: &str) -> Result<(String, String)> {
    let all: Value = serde_json::from_str(&node.run(&["godwit", "doctor", "--output", "json"])?)?;
    let found = all["checks"].as_array().and_then(|all| all.iter().find(|c| c["check"] == check));
    let found = found.with_context(|| format!("{check} in {all}"))?;
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    Ok((text("verdict"), text("told")))
}

/// Stops it at a checkpoint, as its node's administrator does.
fn stop(cluster: &Cluster, node: &Node, pod: &str) -> Result<CheckpointReport> {
    let id = container_of(cluster, pod)?;
    let words = ["godwit", "checkpoint", "--output", "json", "--stop", "--namespace", "k8s.io"];
    Ok(serde_json::from_str(&node.run(&[&words[..], &[&id]].concat())?)?)
}

#[test]
fn a_pod_is_checkpointed_when_its_user_asks_and_goes_on_in_another_cluster() -> Result<()> {
    let clusters = Clusters::up()?;
    let (a, b) = (&clusters.a, &clusters.b);
    a.apply(&counter("web").on("a1").manifest())?;
    a.wait_for(&["pod/web"], "condition=Ready")?;
    counts_beyond(a, "web", 5)?;
    ensure!(told(a, "web", names::ELIGIBLE)? == "true");
    let first = ask(a, "web")?;
    let second = ask(a, "web")?;
    ensure!(first < second, "{first} {second}");
    event_of(a, "web", "CheckpointStarted")?;
    let completed = event_of(a, "web", "CheckpointCompleted")?;
    ensure!(completed.contains("frozen for") && completed.contains("of memory"), "{completed}");
    ensure!(told(a, "web", names::LINEAGE)?.starts_with("uid/"));
    ensure!(told(a, "web", names::LAST_CHECKPOINT_TIME)?.ends_with('Z'));
    let now = listed(&clusters.lab.node("a1")?, "web")?.context("it is listed")?;
    ensure!(now["last_checkpoint"] == second && now["eligibility"]["answer"] == "yes", "{now}");
    ensure!(now["lineage"] == told(a, "web", names::LINEAGE)?, "{now}");

    // What only a person on the node does tells as much.
    let last = count(a, "web")?;
    let report = stop(a, &clusters.lab.node("a1")?, "web")?;
    let id = report.checkpoint.to_string();
    wait::until_true("the last checkpoint to be told", SOON, || {
        annotation(a, "web", names::LAST_CHECKPOINT).is_ok_and(|told| told.as_ref() == Some(&id))
    })?;
    a.kubectl(&["delete", "pod", "web", "--timeout=180s"])?;
    b.apply(&counter("web").annotated(names::RESTORE_FROM, &id).manifest())?;
    b.wait_for(&["pod/web"], "condition=Ready")?;
    counts_beyond(b, "web", last)?;
    ensure!(told(b, "web", names::RESTORED_FROM)? == id);
    event_of(b, "web", "RestoreStarted")?;
    ensure!(event_of(b, "web", "RestoreSucceeded")?.contains(&id));
    // It goes on under the name that it had.
    let after = ask(b, "web")?;
    ensure!(after > id, "{after} {id}");
    b.kubectl(&["delete", "pod", "web", "--timeout=180s"])?;
    clusters.leave()
}

#[test]
fn who_asks_for_what_cannot_be_is_told_why() -> Result<()> {
    let clusters = Clusters::up()?;
    let a = &clusters.a;
    let other = Pod::new("other", Handler::Runc, Image::Mem, &COUNTER).on("a1");
    a.apply(&other.annotated(names::CHECKPOINT, names::NOW).manifest())?;
    let refused = event_of(a, "other", "CheckpointFailed")?;
    ensure!(refused.contains("runtimeClassName: godwit"), "{refused}");
    wait::until_true("the request to be taken away", SOON, || {
        annotation(a, "other", names::CHECKPOINT).is_ok_and(|asks| asks.is_none())
    })?;

    // A terminal's other end cannot follow.
    let tty = counter("tty").on("a1").container_with("tty", true.into());
    a.apply(&tty.container_with("stdin", true.into()).manifest())?;
    a.wait_for(&["pod/tty"], "condition=Ready")?;
    let why = told(a, "tty", names::ELIGIBLE)?;
    ensure!(why.contains("terminal"), "{why}");

    // The node's administrator is told the same, of ours alone.
    a.apply(&counter("web").on("a1").manifest())?;
    a.wait_for(&["pod/web"], "condition=Ready")?;
    let node = clusters.lab.node("a1")?;
    let refused = listed(&node, "tty")?.context("it is listed")?;
    ensure!(refused["eligibility"] == json!({"answer": "no", "reason": why}), "{refused}");
    let web = listed(&node, "web")?.context("it is listed")?;
    ensure!(web["eligibility"] == json!({"answer": "yes"}), "{web}");
    let uid = a.get(&["pod", "web"])?["metadata"]["uid"].clone();
    ensure!(web["namespace"] == "default" && web["uid"] == uid, "{web}");
    ensure!(web["containers"] == json!(["main"]) && web["lineage"] == Value::Null, "{web}");
    ensure!(listed(&node, "other")?.is_none(), "it runs in containerd's own shim");
    ensure!(listed(&clusters.lab.node("a2")?, "web")?.is_none(), "it runs elsewhere");
    let shown = node.run(&["godwit", "pods"])?;
    ensure!(shown.contains("ELIGIBLE") && shown.contains(&format!("no: {why}")), "{shown}");

    // Nobody comes after a replica: it has no memory of its own to go on with.
    let replica = counter("replica").annotated(names::RESTORE_FROM, names::LATEST);
    a.apply(&replica.owned_by("Deployment", 1))?;
    let told = wait::until("the replica to be refused", SOON, || {
        let all = a.kubectl(&["get", "events"]).map_err(|error| error.to_string())?;
        let line = all.lines().find(|line| line.contains("AmbiguousIdentity"));
        line.map(str::to_owned).ok_or(all)
    })?;
    ensure!(told.contains("StatefulSet"), "{told}");
    for object in ["deployment/replica", "pod/tty", "pod/other", "pod/web"] {
        a.kubectl(&["delete", object, "--timeout=180s"])?;
    }
    clusters.leave()
}

#[test]
fn a_pod_of_a_set_goes_on_from_where_it_was_unless_its_template_has_changed() -> Result<()> {
    let clusters = Clusters::up()?;
    let a = &clusters.a;
    let set = counter("web").annotated(names::RESTORE_FROM, names::LATEST);
    a.apply(&set.owned_by("StatefulSet", 1))?;
    let ready = |uid: &str| -> Result<String> {
        Ok(wait::until("another web-0 to be ready", SOON, || {
            let found = a.get(&["pod", "web-0"]).map_err(|error| error.to_string())?;
            let now = found["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            let is_ready = found["status"]["containerStatuses"][0]["ready"] == Value::Bool(true);
            if is_ready && now != uid { Ok(now) } else { Err(events(a)) }
        })?)
    };
    // There is nothing yet.
    let first = ready("")?;
    counts_beyond(a, "web-0", 100)?;
    let node_of = || -> Result<Node> {
        let found = a.get(&["pod", "web-0"])?;
        Ok(clusters.lab.node(found["spec"]["nodeName"].as_str().context("a node")?)?)
    };
    let last = count(a, "web-0")?;
    let report = stop(a, &node_of()?, "web-0")?;
    ensure!(report.lineage.as_str() == "sts/web.0", "{}", report.lineage);
    ensure!(report.tenant.as_str() == "default", "{}", report.tenant);
    a.kubectl(&["delete", "pod", "web-0", "--timeout=180s"])?;
    let second = ready(&first)?;
    counts_beyond(a, "web-0", last)?;
    ensure!(told(a, "web-0", names::RESTORED_FROM)? == report.checkpoint.to_string());

    // Deleted without a word, it goes on from its last point.
    let point = ask(a, "web-0")?;
    let at_point = count(a, "web-0")?;
    a.kubectl(&["delete", "pod", "web-0", "--timeout=180s"])?;
    let third = ready(&second)?;
    ensure!(told(a, "web-0", names::RESTORED_FROM)? == point);
    counts_beyond(a, "web-0", last.max(at_point))?;
    a.kubectl(&["exec", "web-0", "--", "touch", MARK])?;
    ask(a, "web-0")?;

    let words = [&COUNTER[..], &["--every-ms", "10"]].concat();
    let changed = Pod::new("web", Handler::Godwit, Image::Mem, &words[..3]);
    let changed = changed.container_with("command", words[..5].into());
    let changed = changed.with("terminationGracePeriodSeconds", 1.into());
    a.apply(&changed.annotated(names::RESTORE_FROM, names::LATEST).owned_by("StatefulSet", 1))?;
    ready(&third)?;
    a.kubectl(&["exec", "web-0", "--", "test", "!", "-e", MARK])?;
    let told = event_of(a, "web-0", "TemplateChanged")?;
    ensure!(told.contains("not continued"), "{told}");
    // The lineage is the new pod's now.
    ask(a, "web-0")?;
    a.kubectl(&["delete", "statefulset/web", "--timeout=180s"])?;
    clusters.leave()
}

/// More room than the node has.
const ROOM: [&str; 4] = [
    "--subresource=status",
    "--type=merge",
    "--patch",
    r#"{"status":{"allocatable":{"example.com/room":"9"}}}"#,
];

/// What an agent of this node tells of somebody.
fn event_by(node: &str) -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"generateName": "told-", "namespace": "default"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal", "action": "Checkpoint",
        "reason": "CheckpointCompleted", "note": "so it is said",
        "reportingController": "godwit-agent", "reportingInstance": node,
        "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": "a1"},
    })
}

/// Keeps the node from being deleted.
const STAYS: [&str; 3] =
    ["--type=merge", "--patch", r#"{"metadata":{"finalizers":["example.com/stays"]}}"#];

#[test]
fn an_agent_writes_into_its_own_nodes_pods_and_nothing_else() -> Result<()> {
    let clusters = Clusters::up()?;
    let a = &clusters.a;
    let mut classes = None::<String>;
    for node in ["a1", "a2"] {
        a.apply(&Pod::new(node, Handler::Runc, Image::Mem, &COUNTER).on(node).manifest())?;
        a.wait_for(&[&format!("pod/{node}")], "condition=Ready")?;
        let found = a.get(&["node", node])?;
        let labels = &found["metadata"]["labels"];
        ensure!(labels[names::READY] == "true", "{found:#}");
        // Both are this machine.
        let class = labels[names::CPU_CLASS].as_str().context("a class")?;
        ensure!(class.starts_with(&std::env::consts::ARCH.replace('_', "-")), "{class}");
        ensure!(classes.get_or_insert(class.to_owned()) == class, "{classes:?}, {class}");
        let conditions = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
        ensure!(conditions.iter().any(|one| one["type"] == "GodwitReady"), "{conditions:?}");
    }
    let config = tempfile::NamedTempFile::new()?;
    std::fs::write(config.path(), a.with_token(&a.agent_token("a1")?)?)?;
    let config = format!("--kubeconfig={}", config.path().display());
    let as_agent = |words: &[&str]| -> Result<String> {
        match a.kubectl(&[&[config.as_str()], words].concat()) {
            Ok(_) => Ok(String::new()),
            Err(LabError::Failed { output, .. }) => Ok(output),
            Err(other) => bail!(other),
        }
    };
    let annotate = |object: &str, word: &str| as_agent(&["annotate", "--overwrite", object, word]);
    let tell = |node: &str| -> Result<String> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), event_by(node).to_string())?;
        as_agent(&["create", "--filename", &file.path().display().to_string()])
    };
    for own in [annotate("pod/a1", "godwit.dev/eligible=true")?, tell("a1")?] {
        ensure!(own.is_empty(), "{own}");
    }
    let denied = [
        (tell("a2")?, "events of its own only"),
        (annotate("pod/a2", "godwit.dev/eligible=true")?, "its own node only"),
        (annotate("pod/a1", "example.com/x=y")?, "begin with godwit.dev/ only"),
        (as_agent(&["label", "pod/a1", "x=y"])?, "annotations of a pod only"),
        (
            as_agent(&["label", "node/a2", "godwit.dev/cpu-class=x", "--overwrite"])?,
            "own node only",
        ),
        (as_agent(&["label", "node/a1", "x=y"])?, "begin with godwit.dev/ only"),
        (as_agent(&["taint", "node", "a1", "x=y:NoSchedule"])?, "GodwitReady only"),
        (as_agent(&[&["patch", "node", "a1"][..], &ROOM].concat())?, "GodwitReady only"),
        (as_agent(&[&["patch", "node", "a1"][..], &STAYS].concat())?, "GodwitReady only"),
    ];
    for (told, why) in denied {
        ensure!(told.contains(why), "{why}: {told:?}");
    }
    let forbidden = as_agent(&["delete", "pod/a1"])?;
    ensure!(forbidden.contains("Forbidden"), "{forbidden}");
    a.kubectl(&["delete", "pod/a1", "pod/a2", "--timeout=180s"])?;
    clusters.leave()
}

#[test]
fn what_is_done_while_the_api_server_is_away_is_told_when_it_is_back() -> Result<()> {
    let clusters = Clusters::up()?;
    let (a, node) = (&clusters.a, clusters.lab.node("a1")?);
    a.apply(&counter("web").on("a1").manifest())?;
    a.wait_for(&["pod/web"], "condition=Ready")?;
    ask(a, "web")?;
    for check in ["runtime", "CRI proxy", "kubelet", "pod network", "agent", "shims", "Kubernetes"]
    {
        let (verdict, said) = diagnosed(&node, check)?;
        ensure!(verdict == "good", "{check}: {said}");
    }
    a.control_plane().kill(Service::ApiServer)?;
    let (verdict, said) = diagnosed(&node, "Kubernetes")?;
    ensure!(verdict == "limited" && said.contains("does not answer"), "{said}");
    // An agent that starts meanwhile serves all the same.
    node.kill(Service::Agent)?;
    node.start(Service::Agent)?;
    let container = node.run(&["crictl", "ps", "--quiet", "--name", "main"])?;
    let words = ["godwit", "checkpoint", "--output", "json", "--namespace", "k8s.io"];
    let made = node.run(&[&words[..], &[container.trim()]].concat())?;
    let made: CheckpointReport = serde_json::from_str(&made)?;
    let now = listed(&node, "web")?.context("it is listed")?;
    ensure!(now["last_checkpoint"] == made.checkpoint.to_string(), "{now}");
    ensure!(now["eligibility"]["answer"] == "yes", "{now}");
    a.start_api_server()?;
    let id = made.checkpoint.to_string();
    a.wait_until("what was made to be told", &["pod", "web"], |pod| {
        let told = &pod["metadata"]["annotations"][names::LAST_CHECKPOINT];
        if told == &id { Ok(()) } else { Err(pod["metadata"].to_string()) }
    })?;
    let uid = a.get(&["pod", "web"])?["metadata"]["uid"].to_string();
    event_says(a, uid.trim_matches('"'), "CheckpointCompleted", &[&id])?;
    ensure!(ask(a, "web")? > id);
    a.kubectl(&["delete", "pod", "web", "--timeout=180s"])?;
    clusters.leave()
}
