//! A worker whose power fails, and that comes back.

use anyhow::{Result, ensure};
use godwit_e2e::pods::{Clusters, Handler, Pod, instance, progress, wait_clean};
use godwit_lab::{Image, Service};

#[test]
fn a_worker_that_comes_back_starts_its_pods_anew() -> Result<()> {
    let clusters = Clusters::up()?;
    let (cluster, node) = (&clusters.a, clusters.lab.node("a2")?);
    let pods = [
        ("runc", Handler::Runc, "a2"),
        ("godwit", Handler::Godwit, "a2"),
        ("other", Handler::Godwit, "a1"),
    ];
    let words = ["counter", "--every-ms", "50", "--file", "/progress"];
    for (name, handler, place) in pods {
        cluster.apply(&Pod::new(name, handler, Image::Mem, &words).on(place).manifest())?;
    }
    let mut before = vec![];
    for (name, ..) in pods {
        cluster.wait_for(&[&format!("pod/{name}")], "condition=Ready")?;
        before.push(instance(cluster, name)?);
    }
    node.power_loss()?;
    cluster.wait_for(&["node/a2"], "condition=Ready=Unknown")?;
    node.power_on()?;
    node.start(Service::Agent)?;
    cluster.wait_node_ready(&node)?;
    for ((name, _, place), (container, restarts)) in pods.into_iter().zip(before) {
        let lost = place == "a2";
        cluster.wait_until(&format!("{name} to run"), &["pod", name], |pod| {
            let status = &pod["status"]["containerStatuses"][0];
            let again =
                status["containerID"] != container && status["restartCount"] == restarts + 1;
            let well = status["ready"] == true && again == lost;
            if well { Ok(()) } else { Err(pod["status"].to_string()) }
        })?;
        let worker = clusters.lab.node(place)?;
        ensure!(progress(&worker, &instance(cluster, name)?.0)? > 0, "{name} counts");
        cluster.kubectl(&["delete", "pod", name, "--timeout=90s"])?;
    }
    clusters.workers().try_for_each(wait_clean)
}
