//! The control plane of a cluster: a node of its own, where nothing is run but etcd and what serves and watches it.

use super::Service;
use crate::addresses::ClusterName;
use crate::network::Network;
use crate::pki::API_PORT;

/// Certificates and kubeconfigs, as kubeadm places them.
pub(super) const DIR: &str = "/etc/kubernetes";
/// What the control plane has of the cluster's certificates.
pub(super) const CERTIFICATES: [&str; 9] = [
    "ca.crt",
    "apiserver.crt",
    "apiserver.key",
    "apiserver-kubelet-client.crt",
    "apiserver-kubelet-client.key",
    "front-proxy-client.crt",
    "front-proxy-client.key",
    "sa.key",
    "sa.pub",
];
/// What it has of the kubeconfigs.
pub(super) const KUBECONFIGS: [&str; 3] =
    ["admin.conf", "controller-manager.conf", "scheduler.conf"];
/// Quick, and enough for tests that make a hundred objects at once.
const RATES: &str = "--kube-api-qps=500 --kube-api-burst=1000";

/// The command line of one of its services; `None` for what is none of them.
pub(super) fn line(service: Service, cluster: ClusterName, network: Network) -> Option<String> {
    let own = network.address(cluster.host_part(0));
    Some(match service {
        // Power is lost only to the processes: what they wrote is in the host's memory.
        Service::Etcd => format!(
            "etcd --name={cluster} --data-dir=/var/lib/etcd --unsafe-no-fsync --log-level=warn \
             --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 \
             --listen-peer-urls=http://127.0.0.1:2380 --initial-advertise-peer-urls=http://127.0.0.1:2380 \
             --initial-cluster={cluster}=http://127.0.0.1:2380 --snapshot-count=5000 \
             --auto-compaction-mode=periodic --auto-compaction-retention=10m"
        ),
        Service::ApiServer => {
            let pki = format!("{DIR}/pki");
            let services = cluster.services(network);
            format!(
                "/opt/kubernetes/kube-apiserver --etcd-servers=http://127.0.0.1:2379 \
                 --advertise-address={own} --secure-port={API_PORT} --allow-privileged \
                 --tls-cert-file={pki}/apiserver.crt --tls-private-key-file={pki}/apiserver.key \
                 --client-ca-file={pki}/ca.crt --kubelet-certificate-authority={pki}/ca.crt \
                 --kubelet-client-certificate={pki}/apiserver-kubelet-client.crt \
                 --kubelet-client-key={pki}/apiserver-kubelet-client.key \
                 --kubelet-preferred-address-types=InternalIP --service-cluster-ip-range={services} \
                 --service-account-issuer=https://kubernetes.default.svc \
                 --service-account-key-file={pki}/sa.pub --service-account-signing-key-file={pki}/sa.key \
                 --requestheader-client-ca-file={pki}/ca.crt --requestheader-allowed-names=front-proxy-client \
                 --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
                 --requestheader-extra-headers-prefix=X-Remote-Extra- \
                 --proxy-client-cert-file={pki}/front-proxy-client.crt \
                 --proxy-client-key-file={pki}/front-proxy-client.key \
                 --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
                 --profiling=false --shutdown-delay-duration=0s"
            )
        }
        // A node counts as lost after half a minute.
        Service::ControllerManager => format!(
            "/opt/kubernetes/kube-controller-manager {} {RATES} --use-service-account-credentials \
             --service-account-private-key-file={DIR}/pki/sa.key --root-ca-file={DIR}/pki/ca.crt \
             --allocate-node-cidrs=false --node-monitor-period=1s --node-monitor-grace-period=30s \
             --controllers='*,-bootstrap-signer-controller,-cloud-node-lifecycle-controller,\
             -node-route-controller,-service-lb-controller,-token-cleaner-controller'",
            client("controller-manager")
        ),
        Service::Scheduler => {
            format!("/opt/kubernetes/kube-scheduler {} {RATES}", client("scheduler"))
        }
        Service::Containerd
        | Service::Agent
        | Service::CriProxy
        | Service::Kubelet
        | Service::KubeProxy => {
            return None;
        }
    })
}

fn client(name: &str) -> String {
    let config = format!("{DIR}/{name}.conf");
    format!(
        "--kubeconfig={config} --authentication-kubeconfig={config} --authorization-kubeconfig={config} \
         --bind-address=127.0.0.1 --leader-elect=false --profiling=false"
    )
}
