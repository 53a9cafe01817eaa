//! What the engine asks about a pod of this node: its ephemeral containers, and how long its probes bear a freeze.

use std::time::Duration;

use godwit_engine::cluster::Knows;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};

use super::api::Api;

/// Of what a probe bears; the rest is for the answer of who was just thawed.
const PART: (u32, u32) = (3, 4);
/// What `kubectl explain pod.spec.containers.livenessProbe` says of a probe that does not.
const PERIOD: i32 = 10;
const TIMEOUT: i32 = 1;
const THRESHOLD: i32 = 3;

impl Knows for Api {
    fn is_ephemeral(&self, uid: &str, container: &str) -> bool {
        let pod = self.pod(uid);
        let spec = pod.as_ref().and_then(|pod| pod.spec.as_ref());
        let all = spec.and_then(|spec| spec.ephemeral_containers.as_ref());
        all.into_iter().flatten().any(|one| one.name == container)
    }

    fn bears(&self, uid: &str) -> Option<Duration> {
        bears(&*self.pod(uid)?)
    }
}

fn bears(pod: &Pod) -> Option<Duration> {
    let spec = pod.spec.as_ref()?;
    let all = spec.init_containers.iter().flatten().chain(&spec.containers);
    let least = all.filter_map(|one| answered_by(one).map(longest)).min()?;
    let (part, of) = PART;
    Some(least * part / of)
}

/// The probe at whose failure a container is started anew, if the container itself answers it: a command waits at the CRI proxy.
fn answered_by(container: &Container) -> Option<&Probe> {
    let probe = container.liveness_probe.as_ref()?;
    let is_of_network =
        probe.http_get.is_some() || probe.tcp_socket.is_some() || probe.grpc.is_some();
    is_of_network.then_some(probe)
}

/// From the first probe that nobody answers until the last one that may be: the kubelet sends one in each period.
fn longest(probe: &Probe) -> Duration {
    let seconds = |said: Option<i32>, default: i32| {
        let said = said.filter(|said| *said > 0).unwrap_or(default);
        Duration::from_secs(u64::from(said.unsigned_abs()))
    };
    let threshold = probe.failure_threshold.filter(|said| *said > 0).unwrap_or(THRESHOLD);
    seconds(probe.period_seconds, PERIOD) * (threshold.unsigned_abs() - 1)
        + seconds(probe.timeout_seconds, TIMEOUT)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(containers: serde_json::Value) -> Option<u128> {
        let pod: Pod = serde_json::from_value(json!({"spec": containers})).unwrap();
        bears(&pod).map(|longest| longest.as_millis())
    }

    #[test]
    fn the_probe_that_bears_least_counts_if_the_frozen_are_to_answer_it() {
        let http = json!({"httpGet": {"port": 80}, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 4});
        let tcp = json!({"tcpSocket": {"port": 80}, "periodSeconds": 1, "failureThreshold": 1});
        let exec =
            json!({"exec": {"command": ["true"]}, "periodSeconds": 1, "failureThreshold": 1});
        let plain = json!({"grpc": {"port": 80}});
        let live = |probe| json!({"name": "c", "livenessProbe": probe});
        assert_eq!(of(json!({"containers": [live(http.clone())]})), Some(6000));
        assert_eq!(of(json!({"containers": [live(plain)]})), Some(15_750));
        let ready = json!({"name": "r", "readinessProbe": tcp, "livenessProbe": exec});
        assert_eq!(of(json!({"containers": [ready.clone()]})), None);
        let both = json!({"containers": [live(http)], "initContainers": [live(tcp), ready]});
        assert_eq!(of(both), Some(750));
        assert_eq!(of(json!({"containers": []})), None);
    }
}
