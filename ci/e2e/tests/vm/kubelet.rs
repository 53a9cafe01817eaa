//! A real kubelet as a service of systemd, without a cluster: it runs the pods that are in a directory.

use std::cell::{Cell, RefCell};

use anyhow::{Context as _, Result};
use godwit_lab::Image;
use godwit_lab::vm::SHARE;
use serde_json::{Value, json};

use crate::kit::Bed;

pub(crate) const CONFIG: &str = "/root/kubelet.yaml";
pub(crate) const OURS: &str = "/run/godwit/cri.sock";
const UNIT: &str = "/etc/systemd/system/kubelet.service";
const PODS: &str = "/root/pods";
/// Where pods tell that they have run.
const OUT: &str = "/root/out";
/// Of pods that do not use the node's.
const NETWORK: &str = "/etc/cni/net.d/10-test.conflist";
/// How the installer goes, and goes back, where this kubelet is.
const RESTART: &str = "systemctl restart kubelet";
pub(crate) const INSTALL: [&str; 4] = ["--kubelet-config", CONFIG, "--restart-kubelet", RESTART];
pub(crate) const REVERT: [&str; 3] = ["--revert", "--restart-kubelet", RESTART];

/// The one of a machine.
pub(crate) struct Kubelet<'a> {
    bed: &'a Bed,
    pods: Cell<usize>,
    /// Whom it was told to ask when it was started last.
    endpoint: RefCell<String>,
}

/// The socket of whom its configuration says that it is to ask.
pub(crate) fn endpoint(bed: &Bed) -> Result<String> {
    let line = bed.vm.sh(&format!("grep containerRuntimeEndpoint {CONFIG}"))?;
    let socket = line.split_once("unix://").context("no socket")?.1;
    Ok(socket.trim_end_matches(['"', ',', '\n']).to_owned())
}

impl<'a> Kubelet<'a> {
    /// Starts it; a pod has run when this ends.
    pub(crate) fn start(bed: &'a Bed) -> Result<Self> {
        let config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "staticPodPath": PODS,
            // There is no API server to ask.
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
            "authorization": {"mode": "AlwaysAllow"},
            "enableServer": false,
            "cgroupDriver": "systemd",
            "failSwapOn": false,
            "resolvConf": "/dev/null",
        });
        let network = json!({"cniVersion": "1.0.0", "name": "test", "plugins": [{
            "type": "bridge", "bridge": "cni0", "isGateway": true,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/24"}]]},
        }]});
        // JSON is YAML.
        let unit = format!(
            "[Unit]\nAfter=containerd.service\n[Service]\nExecStart={SHARE}/kubelet --config={CONFIG}\nRestart=always\n"
        );
        bed.vm.sh(&format!(
            "mkdir -p {PODS} {OUT} $(dirname {NETWORK}); printf '%s' '{network}' >{NETWORK}
            printf '%s\\n' '{config:#}' >{CONFIG}; printf '{unit}' >{UNIT}
            pause=$(containerd config dump | sed -n \"s/^ *sandbox *= *'\\(.*\\)'/\\1/p; s/^ *sandbox_image *= *'\\(.*\\)'/\\1/p\" | head -n1)
            ctr -n k8s.io images tag {} \"$pause\"
            systemctl daemon-reload; sync",
            Image::Pause.reference()
        ))?;
        let kubelet = Self { bed, pods: Cell::new(0), endpoint: RefCell::new(endpoint(bed)?) };
        kubelet.starts()?;
        Ok(kubelet)
    }

    /// After a boot, which does not start it: its program is on a disk that comes later.
    pub(crate) fn starts(&self) -> Result<()> {
        self.bed.vm.sh("systemctl start kubelet")?;
        self.runs_a_pod()
    }

    /// What is on disk is what daemons start with: containerd runs a container for who asks as the kubelet is told to. Where the kubelet
    /// is told something else than before, it runs a pod, too: its start takes ten seconds in there.
    pub(crate) fn starts_anew(&self) -> Result<()> {
        let endpoint = endpoint(self.bed)?;
        self.bed.vm.sh("systemctl restart containerd")?;
        if self.endpoint.replace(endpoint.clone()) != endpoint {
            self.bed.vm.sh("systemctl restart kubelet")?;
            self.runs_a_pod()?;
        }
        self.bed.runs_containers_by(&endpoint)
    }

    /// A pod runs to its end.
    pub(crate) fn runs_a_pod(&self) -> Result<()> {
        self.pods.set(self.pods.get() + 1);
        let (name, bed) = (format!("probe{}", self.pods.get()), self.bed);
        let told = format!("{OUT}/{name}");
        let container = json!({
            "name": "main", "image": Image::Programs.reference(), "imagePullPolicy": "Never",
            "command": ["counter", "--until", "2", "--every-ms", "1", "--file", told],
            "volumeMounts": [{"name": "out", "mountPath": OUT}],
        });
        let spec = json!({
            "hostNetwork": true, "restartPolicy": "Never", "containers": [container],
            "volumes": [{"name": "out", "hostPath": {"path": OUT}}],
        });
        self.put(&name, json!({}), spec)?;
        bed.wait_for(&format!("{name} to run"), &format!("test -s {told}"))?;
        self.take(&name)
    }

    /// Gives it a pod.
    pub(crate) fn put(&self, name: &str, annotations: Value, mut spec: Value) -> Result<()> {
        spec["terminationGracePeriodSeconds"] = json!(0);
        let metadata = json!({"name": name, "namespace": "default", "annotations": annotations});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        // Not seen before it is whole: the kubelet skips names that begin so.
        let (new, file) = (format!("{PODS}/.{name}"), format!("{PODS}/{name}.json"));
        self.bed.vm.sh(&format!("printf '%s' '{pod}' >{new}; mv {new} {file}"))?;
        Ok(())
    }

    /// Takes it away.
    pub(crate) fn take(&self, name: &str) -> Result<()> {
        self.bed.vm.sh(&format!("rm {PODS}/{name}.json")).map(drop).map_err(Into::into)
    }
}
