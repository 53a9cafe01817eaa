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

/// What the machine writes into Redis over the pod's network, one after the other; acknowledged numbers are in a file. It ends with its
/// connection.
const WRITER: &str = r#"exec 3<>/dev/tcp/$1/6379
    while printf 'INCR writes\r\n' >&3 && read -r -t 60 said <&3; do echo "${said//[^0-9]/}" >>/root/acked; done"#;

/// Redis, and a sidecar that counts in a volume of both, as somebody without any right.
fn spec() -> Value {
    let mount = json!([{"name": "shared", "mountPath": "/shared"}]);
    let redis = json!({
        "name": "redis", "image": Image::Redis.reference(), "imagePullPolicy": "Never",
        "resources": {"limits": {"memory": "256Mi", "cpu": "500m"}}, "volumeMounts": mount,
    });
    let sidecar = json!({
        "name": "sidecar", "image": Image::Programs.reference(), "imagePullPolicy": "Never",
        "command": ["counter", "--file", "/shared/progress"], "volumeMounts": mount,
        "securityContext": {
            "runAsUser": 1000, "runAsNonRoot": true, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
        },
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

/// How often Redis was written to.
fn writes(bed: &Bed, pod: &str) -> Result<u64> {
    let line = crictl(&format!("exec {} redis-cli get writes", container(bed, pod, "redis")?));
    let said = bed.vm.sh(&line)?;
    said.trim().parse().with_context(|| format!("Redis said {said:?}"))
}

/// Begins to write, and waits until something was acknowledged.
fn write(bed: &Bed) -> Result<()> {
    let address = "nsenter --net --target $(pgrep -x redis-server) hostname -I";
    bed.vm.sh(&format!(
        "cat >/root/writer <<'END'\n{WRITER}\nEND\nsystemd-run --quiet bash /root/writer $({address})"
    ))?;
    bed.wait_for("writes", "test $(wc --lines </root/acked) -gt 20")
}

/// Its user, rights, and whether a filter holds its calls.
fn rights(bed: &Bed) -> Result<String> {
    let line = "grep --extended-regexp '^(Uid|CapBnd|NoNewPrivs|Seccomp):' /proc/$(pgrep -x counter)/status";
    Ok(bed.vm.sh(line)?)
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
    write(&bed)?;
    let had = rights(&bed)?;
    ensure!(had.contains("Uid:\t1000\t") && had.contains("CapBnd:\t0000000000000000"), "{had}");
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
    let acknowledged = bed.vm.sh("tail --lines 1 /root/acked")?;
    let (last, have) = (acknowledged.trim().parse::<u64>()?, writes(&bed, "second")?);
    // One may have been on its way to whoever was frozen.
    ensure!((last..=last + 1).contains(&have), "{last} writes were acknowledged, {have} are there");
    ensure!(rights(&bed)? == had, "it had {had}, and has {}", rights(&bed)?);
    let now = count(&bed, "second")?;
    ensure!(now > at, "the sidecar was at {at} and is at {now}");
    let is = group(&bed)?;
    ensure!(is.1 == was.1 && is.0 != was.0, "{was:?}, then {is:?}");
    kubelet.take("second")?;
    bed.wait_for("nothing to run", "! pgrep redis-server")
}
