//! A pod of a real kubelet where users run them: cgroup v2, and groups that systemd makes.

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::release::Release;
use godwit_lab::vm::SHARE;
use godwit_lab::{Image, default_bin_dir};
use godwit_types::CheckpointReport;
use serde_json::{Value, json};

use crate::kit::Bed;
use crate::kubelet::{INSTALL, Kubelet, OURS};

const MAIN: &str = "/etc/containerd/config.toml";
/// Containerd's plugin for Kubernetes, as Debian's configuration names it.
const CRI: &str = "plugins.\"io.containerd.grpc.v1.cri\".containerd";

/// Adds to containerd's configuration, and starts it with that.
fn configure(bed: &Bed, lines: &str) -> Result<()> {
    bed.vm.sh(&format!("printf '{lines}' >>{MAIN}; systemctl restart containerd"))?;
    Ok(())
}

/// Redis, and a sidecar that counts in a volume of both.
fn spec() -> Value {
    let mount = json!([{"name": "shared", "mountPath": "/shared"}]);
    let redis = json!({
        "name": "redis", "image": Image::Redis.reference(), "imagePullPolicy": "Never",
        "resources": {"limits": {"memory": "256Mi", "cpu": "500m"}}, "volumeMounts": mount,
    });
    let sidecar = json!({
        "name": "sidecar", "image": Image::Programs.reference(), "imagePullPolicy": "Never",
        "command": ["counter", "--file", "/shared/progress"], "volumeMounts": mount,
    });
    json!({"containers": [redis, sidecar], "volumes": [{"name": "shared", "emptyDir": {}}]})
}

/// A line of bash that asks crictl, through the CRI proxy.
fn crictl(words: &str) -> String {
    format!("{SHARE}/crictl --runtime-endpoint unix://{OURS} {words}")
}

/// The one container of this name that runs in the pod of this name: the kubelet adds the node's to a pod's.
fn container(bed: &Bed, pod: &str, name: &str) -> Result<String> {
    let pod = crictl(&format!("pods --quiet --name ^{pod}-"));
    let of_pod = format!("ps --quiet --state Running --name ^{name}$ --pod \"$({pod})\"");
    Ok(bed.vm.sh(&crictl(&of_pod))?.trim().to_owned())
}

fn redis(bed: &Bed, pod: &str, words: &str) -> Result<String> {
    let line = crictl(&format!("exec {} redis-cli {words}", container(bed, pod, "redis")?));
    Ok(bed.vm.sh(&line)?.trim().to_owned())
}

/// How far the sidecar is.
fn count(bed: &Bed, pod: &str) -> Result<u64> {
    let sidecar = container(bed, pod, "sidecar")?;
    let said = bed.vm.sh(&format!(
        "pid=$(ctr -n k8s.io task ls | awk '$1 == \"{sidecar}\" {{print $2}}'); cat /proc/$pid/root/shared/progress"
    ))?;
    let number = said.split_whitespace().find_map(|word| word.parse().ok());
    number.with_context(|| format!("no number in {said:?}"))
}

/// Where Redis runs, and its limits.
fn group(bed: &Bed) -> Result<(String, String)> {
    let group = bed.vm.sh("sed 's/^0:://' /proc/$(pgrep -x redis-server)/cgroup")?;
    let files =
        ["memory.max", "cpu.max"].map(|file| format!("/sys/fs/cgroup{}/{file}", group.trim()));
    Ok((group.trim().to_owned(), bed.vm.sh(&format!("cat {}", files.join(" ")))?))
}

#[test]
#[ignore = "minutes: `make vm-test`"]
fn a_pod_with_redis_goes_on_as_another_pod_in_a_group_of_systemds() -> Result<()> {
    let bed = Bed::with_kubelet(&Release::whole(&default_bin_dir()), &[Image::Redis])?;
    let runc = format!("[{CRI}.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n");
    configure(&bed, &format!("{runc}[{CRI}.runtimes.runc.options]\nSystemdCgroup = true\n"))?;
    let kubelet = Kubelet::start(&bed)?;
    bed.install(&INSTALL)?;
    // A kubelet without an API server knows no RuntimeClass.
    configure(&bed, &format!("[{CRI}]\ndefault_runtime_name = \"godwit\"\n"))?;

    kubelet.put("first", json!({}), spec())?;
    let is_there = |pod: &str| {
        let running = crictl("ps --state Running");
        bed.wait_for(pod, &format!("test $({running} | grep --count ' {pod}-') = 2"))
    };
    is_there("first")?;
    ensure!(redis(&bed, "first", "set key value")? == "OK", "not written");
    let (at, was) = (count(&bed, "first")?, group(&bed)?);
    ensure!(was.0.contains(".slice/") && was.0.ends_with(".scope"), "{was:?}");
    ensure!(was.1 == "268435456\n50000 100000\n", "{was:?}");
    let one = container(&bed, "first", "redis")?;
    let said =
        bed.vm.sh(&format!("godwit checkpoint --stop --namespace k8s.io --output json {one}"))?;
    let report: CheckpointReport = serde_json::from_str(&said).context(said)?;
    kubelet.take("first")?;

    let point = json!({"godwit.dev/restore-from": report.checkpoint.to_string()});
    kubelet.put("second", point, spec())?;
    is_there("second")?;
    ensure!(redis(&bed, "second", "get key")? == "value", "it began anew");
    let now = count(&bed, "second")?;
    ensure!(now > at, "the sidecar was at {at} and is at {now}");
    let is = group(&bed)?;
    ensure!(is.1 == was.1 && is.0 != was.0, "{was:?}, then {is:?}");
    kubelet.take("second")?;
    bed.wait_for("nothing to run", "! pgrep redis-server")
}
