//! Probes of the kubelet: by a command, by HTTP, by TCP; each second.

use anyhow::{Result, ensure};
use godwit_e2e::container::SOON;
use godwit_e2e::pods::{Clusters, Handler, Life, Pod, WEB_PORT, instance};
use godwit_lab::{Cluster, Image, wait};
use godwit_types::names;
use serde_json::{Value, json};

use super::stage::agent_stops_at;

#[test]
fn who_fails_its_probes_is_started_anew_or_gets_no_clients() -> Result<()> {
    let clusters = Clusters::up()?;
    for handler in Handler::ALL {
        a_container_that_is_not_alive_is_started_anew(&clusters.a, handler)?;
        a_pod_that_is_not_ready_gets_no_clients(&clusters.a, handler)?;
    }
    clusters.leave()
}

fn each_second(how: &str, what: Value) -> Value {
    json!({how: what, "periodSeconds": 1, "failureThreshold": 3, "timeoutSeconds": 10})
}

fn a_container_that_is_not_alive_is_started_anew(
    cluster: &Cluster,
    handler: Handler,
) -> Result<()> {
    let page = json!({"path": "/index.html", "port": WEB_PORT});
    let pod = Pod::new("alive", handler, Image::Web, &[])
        .container_with("startupProbe", each_second("exec", json!({"command": ["hostname"]})))
        .container_with("readinessProbe", each_second("tcpSocket", json!({"port": WEB_PORT})))
        .container_with("livenessProbe", each_second("httpGet", page));
    cluster.apply(&pod.manifest())?;
    cluster.wait_for(&["pod/alive"], "condition=Ready")?;
    let (first, restarts) = instance(cluster, "alive")?;
    ensure!(restarts == 0, "it was started anew {restarts} times for nothing");
    cluster.kubectl(&["exec", "alive", "--", "rm", "/www/index.html"])?;
    cluster.wait_until("it to be started anew", &["pod", "alive"], |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        let anew = status["restartCount"] == 1 && status["ready"] == true;
        if anew { Ok(()) } else { Err(status.to_string()) }
    })?;
    ensure!(instance(cluster, "alive")?.0 != first, "another container");
    cluster.kubectl(&["delete", "pod", "alive", "--timeout=180s"])?;
    Ok(())
}

fn a_pod_that_is_not_ready_gets_no_clients(cluster: &Cluster, handler: Handler) -> Result<()> {
    let command = each_second("exec", json!({"command": ["test", "-e", "/ready"]}));
    let pod = Pod::new("ready", handler, Image::Web, &[]).container_with("readinessProbe", command);
    cluster.apply(&pod.manifest())?;
    cluster.apply(&pod.service())?;
    cluster.wait_for(&["pod/ready"], "jsonpath={.status.phase}=Running")?;
    let clients = |wanted: bool| {
        let words = ["endpointslices", "--selector", "kubernetes.io/service-name=ready"];
        cluster.wait_until(&format!("clients: {wanted}"), &words, |slices| {
            let ready = &slices["items"][0]["endpoints"][0]["conditions"]["ready"];
            if *ready == wanted { Ok(()) } else { Err(slices["items"].to_string()) }
        })
    };
    clients(false)?;
    cluster.kubectl(&["exec", "ready", "--", "touch", "/ready"])?;
    clients(true)?;
    cluster.kubectl(&["exec", "ready", "--", "rm", "/ready"])?;
    clients(false)?;
    ensure!(instance(cluster, "ready")?.1 == 0, "who is not ready goes on");
    cluster.kubectl(&["delete", "pod/ready", "service/ready", "--timeout=180s"])?;
    Ok(())
}

/// Its agent stands still in the freeze. `freeze_deadline` is two minutes in the lab; the kubelet would start it anew after eight seconds.
#[test]
fn a_pod_that_runs_on_is_thawed_before_its_liveness_probes_fail() -> Result<()> {
    let clusters = Clusters::up()?;
    let (a, node) = (&clusters.a, clusters.lab.node("a1")?);
    let page = json!({"path": "/index.html", "port": WEB_PORT});
    let probe =
        json!({"httpGet": page, "periodSeconds": 2, "failureThreshold": 4, "timeoutSeconds": 2});
    let pod = Pod::new("probed", Handler::Godwit, Image::Web, &[]).on("a1");
    let pod = Life::begin(a, &pod.container_with("livenessProbe", probe).manifest(), "probed")?;
    let ask = format!("{}={}", names::CHECKPOINT, names::NOW);
    let agent = agent_stops_at((a, &node), "frozen", || {
        Ok(a.kubectl(&["annotate", "pod", "probed", &ask]).map(drop)?)
    })?;
    wait::until("its freeze to be given up", SOON, || {
        let log = node.log("containerd").map_err(|why| why.to_string())?;
        let is_it = |line: &str| line.contains("freeze deadline") && line.contains(&pod.uid);
        if log.lines().any(is_it) { Ok(()) } else { Err("not yet".to_owned()) }
    })?;
    agent.goes_on()?;
    let why = pod.event("CheckpointFailed")?;
    ensure!(why.contains("was frozen for 6s"), "{why}");
    pod.wait_no_request()?;
    pod.was_started_once()?;
    pod.delete("pod/probed")?;
    clusters.leave()
}
