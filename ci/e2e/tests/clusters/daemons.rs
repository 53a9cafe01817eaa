//! Daemons that end and come back: of the node, of the control plane. Pods go on.

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::container::SOON;
use godwit_e2e::pods::{Clusters, Handler, Pod, instance, progress};
use godwit_lab::{Cluster, Image, Node, Service, wait};

const COUNTER: [&str; 5] = ["counter", "--every-ms", "50", "--file", "/progress"];

type End = fn(&Node) -> Result<()>;

/// Waits until the pod's only container has counted beyond this, whether containerd runs or not.
fn wait_beyond(node: &Node, container: &str, last: u64) -> Result<u64> {
    Ok(wait::until("the counter to go on", SOON, || match progress(node, container) {
        Ok(now) if now > last => Ok(now),
        Ok(now) => Err(format!("it is at {now}")),
        Err(error) => Err(format!("{error:#}")),
    })?)
}

fn goes_on(cluster: &Cluster, node: &Node, pod: &str, before: &(String, u64)) -> Result<()> {
    let now = progress(node, &before.0)?;
    wait_beyond(node, &before.0, now)?;
    ensure!(instance(cluster, pod)? == *before, "{pod} was started anew");
    Ok(())
}

#[test]
fn pods_go_on_while_kubelet_and_containerd_are_away() -> Result<()> {
    let clusters = Clusters::up()?;
    let (cluster, node) = (&clusters.a, clusters.lab.node("a1")?);
    let pods = [("runc", Handler::Runc), ("godwit", Handler::Godwit)];
    for (name, handler) in pods {
        cluster.apply(&Pod::new(name, handler, Image::Mem, &COUNTER).on("a1").manifest())?;
    }
    let mut before = vec![];
    for (name, _) in pods {
        cluster.wait_for(&[&format!("pod/{name}")], "condition=Ready")?;
        before.push((name, instance(cluster, name)?));
    }
    let ends: [(&str, End); 5] = [
        ("the kubelet ends", |node| Ok(node.stop(Service::Kubelet)?)),
        ("the kubelet is killed", |node| Ok(node.kill(Service::Kubelet)?)),
        ("containerd ends", |node| Ok(node.stop(Service::Containerd)?)),
        ("containerd is killed", |node| Ok(node.kill(Service::Containerd)?)),
        ("both are killed, and the agent", |node| {
            node.kill(Service::Kubelet)?;
            node.kill(Service::Agent)?;
            Ok(node.kill(Service::Containerd)?)
        }),
    ];
    for (what, end) in ends {
        end(&node).context(what)?;
        for (_, (container, _)) in &before {
            let now = progress(&node, container)?;
            wait_beyond(&node, container, now).context(what)?;
        }
        for service in [Service::Containerd, Service::Agent, Service::Kubelet] {
            node.start(service)?;
        }
        cluster.wait_node_ready(&node)?;
        for (pod, instance) in &before {
            // Through the kubelet, which has looked at its pods by then.
            let words = ["exec", pod, "--", "cat", "/progress"];
            wait::until("a command to run in it", SOON, || cluster.kubectl(&words))?;
            goes_on(cluster, &node, pod, instance).with_context(|| format!("{what}: {pod}"))?;
        }
    }
    for (pod, _) in &before {
        cluster.kubectl(&["delete", "pod", pod, "--timeout=180s"])?;
    }
    clusters.leave()
}

#[test]
fn a_control_plane_that_comes_back_knows_its_pods() -> Result<()> {
    let clusters = Clusters::up()?;
    let (cluster, node) = (&clusters.a, clusters.lab.node("a1")?);
    let pod = Pod::new("web", Handler::Godwit, Image::Mem, &COUNTER).on("a1");
    cluster.apply(&pod.manifest())?;
    cluster.wait_for(&["pod/web"], "condition=Ready")?;
    let before = instance(cluster, "web")?;
    let control_plane = cluster.control_plane();
    control_plane.kill(Service::ApiServer)?;
    ensure!(cluster.ready_workers().is_err(), "nobody answers");
    let now = progress(&node, &before.0)?;
    wait_beyond(&node, &before.0, now)?;
    cluster.start_api_server()?;
    goes_on(cluster, &node, "web", &before)?;
    // The whole machine, with etcd.
    control_plane.reboot()?;
    goes_on(cluster, &node, "web", &before)?;
    cluster.kubectl(&["delete", "pod", "web", "--timeout=180s"])?;
    clusters.leave()
}
