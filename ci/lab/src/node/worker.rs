//! A worker of a cluster: its files, where kubeadm and the packages of distributions have them, and its services.

use serde_json::{Value, json};

use super::Service;
use crate::addresses::ClusterName;
use crate::network::Network;

/// The kubelet's configuration. Written once: an installer may have changed it since.
pub(crate) const KUBELET_CONFIG: &str = "/var/lib/kubelet/config.yaml";
const KUBELET_KUBECONFIG: &str = "/etc/kubernetes/kubelet.conf";
const PROXY_CONFIG: &str = "/var/lib/kube-proxy/config.conf";
const PROXY_KUBECONFIG: &str = "/etc/kubernetes/kube-proxy.conf";
const AUTHORITY: &str = "/etc/kubernetes/pki/ca.crt";
const SERVING: &str = "/var/lib/kubelet/pki/kubelet";
/// containerd's socket, for the kubelet and for `crictl`.
const CRI: &str = "unix:///run/containerd/containerd.sock";

/// One worker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Worker<'a> {
    pub(super) name: &'a str,
    pub(super) cluster: ClusterName,
    pub(super) number: u8,
    pub(super) network: Network,
}

impl Worker<'_> {
    /// The command line of one of its services; `None` for what is none of them.
    pub(super) fn line(self, service: Service) -> Option<String> {
        let (name, address) = (self.name, self.address());
        match service {
            Service::Kubelet => Some(format!(
                "/opt/kubernetes/kubelet --config={KUBELET_CONFIG} --kubeconfig={KUBELET_KUBECONFIG} \
                 --hostname-override={name} --node-ip={address} --v=2"
            )),
            Service::KubeProxy => {
                Some(format!("/opt/kubernetes/kube-proxy --config={PROXY_CONFIG}"))
            }
            _ => None,
        }
    }

    /// Its files of the cluster's certificates: where they are, and which they are.
    pub(super) fn certificates(self) -> Vec<(String, String)> {
        let name = self.name;
        let all = [
            (AUTHORITY.to_owned(), "ca.crt".to_owned()),
            (KUBELET_KUBECONFIG.to_owned(), format!("{name}.conf")),
            (format!("{SERVING}.crt"), format!("{name}.crt")),
            (format!("{SERVING}.key"), format!("{name}.key")),
            (PROXY_KUBECONFIG.to_owned(), "kube-proxy.conf".to_owned()),
        ];
        all.into()
    }

    /// Its configuration: where the files are, and what is in them.
    pub(super) fn configuration(self) -> Vec<(&'static str, String)> {
        let crictl = format!("runtime-endpoint: {CRI}\nimage-endpoint: {CRI}\n");
        vec![
            ("/etc/crictl.yaml", crictl),
            ("/etc/cni/net.d/10-lab.conflist", pretty(&self.pod_network())),
            (PROXY_CONFIG, pretty(&self.proxy())),
            (KUBELET_CONFIG, pretty(&self.kubelet())),
        ]
    }

    fn address(self) -> String {
        self.network.address(self.cluster.host_part(self.number)).to_string()
    }

    /// A bridge; the ways to other nodes' pods are routes.
    fn pod_network(self) -> Value {
        let pods = self.cluster.pods(self.network, self.number).to_string();
        json!({"cniVersion": "1.0.0", "name": "lab", "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": pods}]], "routes": [{"dst": "0.0.0.0/0"}]},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ]})
    }

    fn kubelet(self) -> Value {
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": CRI,
            "address": self.address(),
            "healthzBindAddress": "127.0.0.1",
            "tlsCertFile": format!("{SERVING}.crt"),
            "tlsPrivateKeyFile": format!("{SERVING}.key"),
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true},
                "x509": {"clientCAFile": AUTHORITY},
            },
            "authorization": {"mode": "Webhook"},
            "podCIDR": self.cluster.pods(self.network, self.number).to_string(),
            "resolvConf": "/etc/resolv.conf",
            "maxPods": 60,
            // Where a test gives the node a logind.
            "shutdownGracePeriod": "60s",
            "shutdownGracePeriodCriticalPods": "10s",
            // The machine may have nothing but the first version.
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": false,
            "failSwapOn": false,
            // It is not this node's disk that fills up.
            "evictionHard": {
                "memory.available": "0%", "nodefs.available": "0%",
                "nodefs.inodesFree": "0%", "imagefs.available": "0%",
            },
            "imageGCHighThresholdPercent": 100,
            "imageMaximumGCAge": "0s",
            // Where CAP_SYS_RESOURCE is missing nobody may lower it.
            "oomScoreAdj": 0,
            "maxOpenFiles": 20000,
            "fileCheckFrequency": "0s",
            "httpCheckFrequency": "0s",
            "volumeStatsAggPeriod": "0s",
            "syncFrequency": "10s",
            "nodeStatusUpdateFrequency": "2s",
            "nodeLeaseDurationSeconds": 10,
        })
    }

    fn proxy(self) -> Value {
        json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": PROXY_KUBECONFIG},
            "hostnameOverride": self.name,
            "mode": "iptables",
            "bindAddress": self.address(),
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            "clusterCIDR": self.cluster.everything(self.network).to_string(),
            "oomScoreAdj": 0,
            // Limits of the whole machine.
            "conntrack": {
                "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
            },
            "iptables": {"minSyncPeriod": "0s"},
        })
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelets_configuration_is_the_last_file_so_that_it_tells_that_all_are_there() {
        let network = Network::of_number(0);
        let worker = Worker { name: "b1", cluster: ClusterName::B, number: 1, network };
        let files = worker.configuration();
        assert_eq!(files.last().unwrap().0, KUBELET_CONFIG);
        let kubelet: Value = serde_json::from_str(&files.last().unwrap().1).unwrap();
        assert_eq!(kubelet["podCIDR"], "10.112.5.0/24");
        assert_eq!(kubelet["address"], "10.88.0.31");
    }
}
