//! A cluster's node becomes one of Godwit's by a label, and none again: `install/kubernetes/daemonset.yaml`. The installer runs in a pod of
//! the containerd and the kubelet that it has restarted.

use anyhow::{Result, ensure};
use godwit_e2e::container::SOON;
use godwit_e2e::pods::{Handler, Pod, take_down};
use godwit_e2e::release::PROGRAMS;
use godwit_e2e::restarts;
use godwit_lab::{
    AgentOptions, Cluster, ClusterName, Image, Lab, LabOptions, NODE_IMAGE, Node, Service,
    default_bin_dir, wait, write_node_image,
};
use godwit_types::names;
use serde_json::{Value, json};

const CLUSTER: &str = include_str!("../../../../install/kubernetes/godwit.yaml");
const NODES: &str = include_str!("../../../../install/kubernetes/daemonset.yaml");
const SPACE: &str = "--namespace=godwit-system";
const KUBELET_CONFIG: &str = "/var/lib/kubelet/config.yaml";
const COUNTER: [&str; 5] = ["counter", "--every-ms", "20", "--file", "/count"];

/// The manifest for this lab.
fn manifest() -> String {
    let (containerd, kubelet) =
        (restarts::command(Service::Containerd), restarts::command(Service::Kubelet));
    let words = json!([
        "--volatile",
        "--restart-containerd",
        containerd,
        "--restart-kubelet",
        kubelet,
        "--kubelet-config",
        KUBELET_CONFIG,
    ]);
    let of_revert =
        json!(["--volatile", "--restart-containerd", containerd, "--restart-kubelet", kubelet]);
    let of_kubeadm = "[--kubelet-config, /var/lib/kubelet/config.yaml, --restart-kubelet, systemctl restart kubelet]";
    NODES
        .replace(of_kubeadm, &words.to_string())
        .replace("[--restart-kubelet, systemctl restart kubelet]", &of_revert.to_string())
        .replace("IMAGE", NODE_IMAGE)
        .replace("\"CLUSTER\"", "\"a\"")
        .replace("\"STORE\"", "\"file:///lab/shared/store\"")
}

fn label(cluster: &Cluster, value: &str) -> Result<()> {
    let label = format!("godwit.dev/install={value}");
    Ok(cluster.kubectl(&["label", "node", "a1", &label, "--overwrite"]).map(drop)?)
}

fn log(cluster: &Cluster, set: &str) -> Result<String, String> {
    let of = format!("daemonset/{set}");
    cluster.kubectl(&["logs", SPACE, &of]).map_err(|error| error.to_string())
}

/// Waits until the pod of this set has said that.
fn says(cluster: &Cluster, set: &str, words: &str) -> Result<()> {
    Ok(wait::until(&format!("{set} to say {words:?}"), SOON, || match log(cluster, set)? {
        said if said.contains(words) => Ok(()),
        said => Err(said),
    })?)
}

/// Waits until the set's only pod is done; its uid. It has never been restarted.
fn done(cluster: &Cluster, set: &str) -> Result<String> {
    done_after(cluster, set, 0)
}

/// The same of one that was restarted so many times.
fn done_after(cluster: &Cluster, set: &str, times: u32) -> Result<String> {
    let selector = format!("--selector=app={set}");
    Ok(wait::until(&format!("{set} to be done"), SOON, || {
        let found = cluster.get(&["pods", SPACE, &selector]).map_err(|error| error.to_string())?;
        let said = || log(cluster, set).unwrap_or_else(|why| why);
        match found["items"].as_array().map(Vec::as_slice) {
            Some([pod]) if pod["status"]["containerStatuses"][0]["ready"] == true => {
                // A kubelet that was started anew calls everything ready until it has probed it.
                let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                let looks = ["exec", SPACE, name, "--", "test", "-e", "/tmp/ready"];
                cluster.kubectl(&looks).map_err(|error| error.to_string())?;
                let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
                let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
                if *restarts == json!(times) {
                    Ok(uid)
                } else {
                    Err(format!("{restarts} restarts"))
                }
            }
            _ => Err(said()),
        }
    })?)
}

/// The set's pod is ended in the middle, as it waits for a restart; with all that it does on the node.
fn killed_half_way(cluster: &Cluster, node: &Node, (set, service): (&str, Service)) -> Result<()> {
    wait::until(&format!("{set} to be half-way"), SOON, || {
        let said = || log(cluster, set).unwrap_or_else(|why| why);
        match restarts::is_asked(node, service) {
            Ok(true) => Ok(()),
            Ok(false) => Err(said()),
            Err(why) => Err(why.to_string()),
        }
    })?;
    let installer = node.sh("pgrep --oldest godwit-install")?;
    let selector = format!("--selector=app={set}");
    cluster.kubectl(&["delete", "pod", SPACE, &selector, "--force", "--grace-period=0"])?;
    let is_gone = format!("! kill -0 {} 2>/dev/null", installer.trim());
    Ok(wait::until("its installer to end", SOON, || node.sh(&is_gone)).map(drop)?)
}

fn last_checkpoint(cluster: &Cluster, pod: &str) -> Result<Value> {
    let found = cluster.get(&["pod", pod])?;
    Ok(found["metadata"]["annotations"][names::LAST_CHECKPOINT].clone())
}

/// Has a checkpoint made.
fn checkpointed(cluster: &Cluster, pod: &str) -> Result<()> {
    let before = last_checkpoint(cluster, pod)?;
    cluster.kubectl(&["annotate", "--overwrite", "pod", pod, "godwit.dev/checkpoint=now"])?;
    wait::until(&format!("a checkpoint of {pod}"), SOON, || match last_checkpoint(cluster, pod) {
        Ok(now) if now.is_string() && now != before => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    Ok(())
}

/// A kubelet that was started before its proxy comes to it a moment later.
fn nothing_is_bad(node: &Node) -> Result<()> {
    wait::until("the doctor to find nothing", SOON, || {
        let told = node.run(&["godwit", "doctor", "-o", "json"]);
        let told = told.map_err(|error| error.to_string())?;
        let checks: Value = serde_json::from_str(&told).map_err(|error| error.to_string())?;
        let all = checks["checks"].as_array().cloned().unwrap_or_default();
        let is_good = |wanted: &&str| {
            all.iter().any(|check| check["check"] == **wanted && check["verdict"] == "good")
        };
        if ["runtime", "kubelet", "Kubernetes"].iter().all(is_good) { Ok(()) } else { Err(told) }
    })?;
    Ok(())
}

#[test]
fn a_label_puts_godwit_on_a_node_and_another_takes_it_off() -> Result<()> {
    take_down();
    let lab = Lab::up(&LabOptions::for_tests().clusters(&[(ClusterName::A, 1)]))?;
    let (a, node) = (lab.cluster(ClusterName::A)?, lab.node("a1")?);
    let programs = PROGRAMS.map(|name| default_bin_dir().join(name));
    write_node_image(&programs, &lab.shared().join("node.tar"))?;
    node.ctr(&["-n", "k8s.io", "images", "import", "/lab/shared/node.tar"])?;
    node.run(&["mkdir", "-p", "/lab/shared/store"])?;
    let kubelet_before = node.read_file(KUBELET_CONFIG)?;
    let containerd_before = node.read_file("/etc/containerd/config.toml")?;
    a.apply(CLUSTER)?;
    a.apply(&manifest())?;

    let pid = node.containerd_pid();
    label(&a, "true")?;
    killed_half_way(&a, &node, ("godwit-install", Service::Containerd))?;
    let first = restarts::served(&node, || {
        // It has restarted the containerd that it runs in; there is no systemd here to start these two.
        says(&a, "godwit-install", "left to you   start the agent")?;
        ensure!(node.containerd_pid() != pid, "containerd runs with its old configuration");
        node.start_agent(&AgentOptions::default())?;
        node.start(Service::CriProxy)?;
        done(&a, "godwit-install")
    })?;
    let ready = "--for=jsonpath={.metadata.labels.godwit\\.dev/ready}=true";
    a.kubectl(&["wait", "node/a1", ready, "--timeout=180s"])?;
    a.apply(&Pod::new("web", Handler::Godwit, Image::Mem, &COUNTER).manifest())?;
    a.wait_for(&["pod/web"], "condition=Ready")?;
    // The agent has come in with the token of the pod that has installed it.
    checkpointed(&a, "web")?;
    nothing_is_bad(&node)?;

    // Another pod in its place finds nothing to do.
    let pid = node.containerd_pid();
    a.kubectl(&["delete", "pod", SPACE, "--selector=app=godwit-install", "--timeout=180s"])?;
    ensure!(done(&a, "godwit-install")? != first);
    let said = log(&a, "godwit-install").map_err(anyhow::Error::msg)?;
    ensure!(!said.contains("write") && !said.contains("left to you"), "{said}");
    ensure!(node.containerd_pid() == pid, "containerd was restarted for nothing");

    // With the machine it comes back, and finds nothing to do.
    node.reboot()?;
    node.start_agent(&AgentOptions::default())?;
    done_after(&a, "godwit-install", 1)?;
    let said = log(&a, "godwit-install").map_err(anyhow::Error::msg)?;
    ensure!(!said.contains("write") && !said.contains("left to you"), "{said}");
    a.wait_until("web to run again", &["pod", "web"], |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        let runs = status["restartCount"] == 1 && status["ready"] == true;
        if runs { Ok(()) } else { Err(status.to_string()) }
    })?;
    checkpointed(&a, "web")?;
    nothing_is_bad(&node)?;

    label(&a, "revert")?;
    says(&a, "godwit-revert", "in use by pod default/web")?;
    a.kubectl(&["delete", "pod", "web", "--timeout=180s"])?;
    killed_half_way(&a, &node, ("godwit-revert", Service::Kubelet))?;
    restarts::served(&node, || {
        says(&a, "godwit-revert", "left to you   stop godwit-agent")?;
        // The agent's token was that of the pod that had installed it, which is gone, or about to.
        wait::until("the label to be off, or left to a person", SOON, || {
            let found = a.get(&["node", "a1"]).map_err(|error| error.to_string())?;
            let is_off = found["metadata"]["labels"][names::READY].is_null();
            let said = log(&a, "godwit-revert")?;
            let is_told = said.contains("`kubectl label node NAME godwit.dev/ready-`");
            if is_off || is_told { Ok(()) } else { Err(said) }
        })?;
        node.kill_agent()?;
        node.stop(Service::CriProxy)?;
        done(&a, "godwit-revert")
    })?;
    let left = "ls /usr/local/bin/godwit* /opt/godwit /etc/godwit/kubeconfig /etc/godwit/token /etc/containerd/conf.d/godwit.toml \
                2>/dev/null || true";
    ensure!(node.sh(left)?.is_empty(), "left: {}", node.sh(left)?);
    ensure!(node.read_file(KUBELET_CONFIG)? == kubelet_before);
    ensure!(node.read_file("/etc/containerd/config.toml")? == containerd_before);
    a.apply(&Pod::new("plain", Handler::Runc, Image::Mem, &COUNTER).manifest())?;
    a.wait_for(&["pod/plain"], "condition=Ready")?;
    Ok(())
}
