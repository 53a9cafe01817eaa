//! A kubelet, containerd, CRI proxy or agent that is killed in the middle of a pod's checkpoint or restore, or its sandbox: the pod goes
//! on, once.

use anyhow::{Context as _, Result};
use godwit_e2e::pods::Clusters;
use godwit_lab::Service;

use super::stage::{Acts, Stage};

/// Who is killed, and where: what the agent has just done, as it makes or restores a checkpoint. It stands still meanwhile.
const KILLED: [(Service, &str, Acts); 9] = [
    (Service::Kubelet, "frozen", Acts::Ask),
    (Service::Containerd, "dumped", Acts::Ask),
    (Service::CriProxy, "frozen", Acts::Ask),
    (Service::Kubelet, "put-stop.answered", Acts::Delete),
    (Service::Containerd, "frozen", Acts::Delete),
    (Service::CriProxy, "put-stop.answered", Acts::Delete),
    (Service::Kubelet, "phase-stage:2", Acts::Delete),
    (Service::CriProxy, "phase-stage:2", Acts::Delete),
    (Service::Containerd, "put-take-over.answered", Acts::Delete),
];
/// Where the agent itself ends.
const ENDS: [(&str, Acts); 3] = [
    ("frozen", Acts::Ask),
    ("put-stop.answered", Acts::Delete),
    ("put-take-over.answered", Acts::Delete),
];

#[test]
fn a_pod_goes_on_whoever_is_killed_in_the_middle() -> Result<()> {
    let clusters = Clusters::up()?;
    let (a, node) = (&clusters.a, clusters.lab.node("a1")?);
    let (stage, mut pod) = Stage::set(a, node)?;
    for (service, site, act) in KILLED {
        let round = || format!("{} killed at {site}", service.name());
        let agent = stage.agent_stops_at(site, act).with_context(round)?;
        stage.node.kill(service)?;
        // The proxy's unit starts it again.
        if service != Service::CriProxy {
            stage.node.start(service)?;
        }
        agent.goes_on()?;
        a.wait_node_ready(&stage.node)?;
        pod = stage.went_on(&pod, act).with_context(round)?;
    }
    for (site, act) in ENDS {
        stage.agent_ends_at(site, act).context(site)?;
        stage.node.start(Service::Agent)?;
        pod = stage.went_on(&pod, act).context(site)?;
    }
    stage.sandbox_ends()?;
    pod = stage.went_on(&pod, Acts::Ask).context("its sandbox killed")?;
    drop(pod);
    stage.strike()?;
    clusters.leave()
}
