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
        self.pod(uid).as_deref().is_some_and(|pod| is_ephemeral(pod, container))
    }

    fn bears(&self, uid: &str) -> Option<Duration> {
        bears(&*self.pod(uid)?)
    }
}

/// A pod's other containers never change: who is not among them came later, whether that was heard already or not.
fn is_ephemeral(pod: &Pod, container: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let mut own = spec.init_containers.iter().flatten().chain(&spec.containers);
    own.all(|one| one.name != container)
}

fn bears(pod: &Pod) -> Option<Duration> {
    let spec = pod.spec.as_ref()?;
    let all = spec.init_containers.iter().flatten().chain(&spec.containers);
    let least =
        all.filter_map(|one| answered_by(one, is_started(pod, &one.name)).map(longest)).min()?;
    let (part, of) = PART;
    Some(least * part / of)
}

/// Its startup probe has succeeded, if it has one: only then it is asked whether it lives.
fn is_started(pod: &Pod, container: &str) -> bool {
    let Some(status) = &pod.status else { return false };
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    all.filter(|one| one.name == container).any(|one| one.started == Some(true))
}

/// The probe at whose failure a container is started anew now, if its own processes answer it: a command waits at the CRI proxy, and a
/// connection by TCP is taken by the kernel.
fn answered_by(container: &Container, is_started: bool) -> Option<&Probe> {
    let startup = container.startup_probe.as_ref().filter(|_| !is_started);
    let probe = startup.or(container.liveness_probe.as_ref())?;
    (probe.http_get.is_some() || probe.grpc.is_some()).then_some(probe)
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

    fn of(spec: serde_json::Value) -> Option<u128> {
        with(spec, json!({}))
    }

    fn with(spec: serde_json::Value, status: serde_json::Value) -> Option<u128> {
        let pod: Pod = serde_json::from_value(json!({"spec": spec, "status": status})).unwrap();
        bears(&pod).map(|longest| longest.as_millis())
    }

    fn each_second(how: &str, what: serde_json::Value) -> serde_json::Value {
        json!({how: what, "periodSeconds": 1, "failureThreshold": 1})
    }

    #[test]
    fn the_probe_that_bears_least_counts_if_the_frozen_are_to_answer_it() {
        let http = json!({"httpGet": {"port": 80}, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 4});
        let quick = each_second("grpc", json!({"port": 80}));
        let live = |probe| json!({"name": "c", "livenessProbe": probe});
        assert_eq!(of(json!({"containers": [live(http.clone())]})), Some(6000));
        assert_eq!(of(json!({"containers": [live(json!({"grpc": {"port": 80}}))]})), Some(15_750));
        let exec = each_second("exec", json!({"command": ["true"]}));
        let tcp = live(each_second("tcpSocket", json!({"port": 80})));
        let ready = json!({"name": "r", "readinessProbe": quick, "livenessProbe": exec});
        assert_eq!(of(json!({"containers": [ready.clone(), tcp.clone()]})), None);
        let both = json!({"containers": [live(http), tcp], "initContainers": [live(quick), ready]});
        assert_eq!(of(both), Some(750));
        assert_eq!(of(json!({"containers": []})), None);
    }

    #[test]
    fn who_came_after_its_pod_is_ephemeral() {
        let spec = json!({"containers": [{"name": "main"}], "initContainers": [{"name": "first"}]});
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        let found = ["main", "first", "debugger"].map(|name| is_ephemeral(&pod, name));
        assert_eq!(found, [false, false, true]);
        assert!(!is_ephemeral(&Pod::default(), "debugger"), "nothing is known of it");
    }

    #[test]
    fn a_container_is_not_asked_whether_it_lives_before_it_has_started() {
        let (page, port) = (json!({"path": "/", "port": 80}), json!({"port": 80}));
        let probes = json!({"name": "c", "startupProbe": {"httpGet": page}, "livenessProbe": each_second("grpc", port)});
        let spec = json!({"containers": [probes]});
        let started = |is| json!({"containerStatuses": [{"name": "c", "started": is, "ready": false, "image": "", "imageID": "", "restartCount": 0}]});
        assert_eq!(with(spec.clone(), started(false)), Some(15_750));
        assert_eq!(with(spec, started(true)), Some(750));
    }
}
