//! A worker whose power fails, and that comes back.

use anyhow::{Context as _, Result};
use godwit_e2e::container::SOON;
use godwit_e2e::pods::{Clusters, Handler, Pod, instance, progress};
use godwit_lab::{Image, Service, wait};

use super::stage::{Acts, Stage};

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
            let again = status["containerID"] != container
                && status["restartCount"].as_u64() > Some(restarts);
            let well = status["ready"] == true && again == lost;
            if well { Ok(()) } else { Err(pod["status"].to_string()) }
        })?;
        let worker = clusters.lab.node(place)?;
        let (container, _) = instance(cluster, name)?;
        wait::until_true(&format!("{name} to count"), SOON, || {
            progress(&worker, &container).is_ok_and(|now| now > 0)
        })?;
        cluster.kubectl(&["delete", "pod", name, "--timeout=180s"])?;
    }
    clusters.leave()
}

/// Where power fails in a checkpoint that its user asks for: before anything is stored, and when all but the last word is.
const ASKED: [&str; 2] = ["frozen", "phase-commit"];
/// In the one that a deletion makes: before the seal, and when it is in the log but not yet on its node.
const DELETED: [&str; 2] = ["dumped", "put-stop.answered"];
/// In a restore: of its second container; when the log says that it runs here; when it runs and its memory comes.
const RESTORED: [&str; 3] = ["phase-stage:2", "put-take-over.answered", "phase-hydrate"];

#[test]
fn a_pod_whose_workers_power_fails_in_the_middle_goes_on_from_its_last_point() -> Result<()> {
    let clusters = Clusters::up()?;
    let (a, node) = (&clusters.a, clusters.lab.node("a1")?);
    let (stage, mut pod) = Stage::set(a, node)?;
    for site in ASKED {
        stage.agent_ends_at(site, Acts::Ask).context(site)?;
        stage.power_fails()?;
        pod = stage.went_on(&pod, Acts::Ask).context(site)?;
    }
    for site in DELETED.into_iter().chain(RESTORED) {
        stage.agent_ends_at(site, Acts::Delete).context(site)?;
        stage.power_fails()?;
        pod = stage.went_on(&pod, Acts::Delete).context(site)?;
    }
    stage.strike()?;
    clusters.leave()
}
