//! Networks of pods: what a CNI plugin makes in a cluster.

use std::net::Ipv4Addr;

use super::Node;
use crate::error::Result;

/// A network namespace of a node for one pod.
#[derive(Debug, Clone)]
pub struct PodNetwork {
    /// Its path on the node: `ctr run --with-ns network:PATH`.
    pub path: String,
    /// Its address: reachable from the host and from all nodes, not from its own node.
    pub address: Ipv4Addr,
}

impl Node {
    /// Makes a pod's network: a namespace of this name with `eth0` (macvlan on the node's) and the lab's address
    /// `host_part`, which no node and no other pod may have (100 and above are free). Does nothing if it is there.
    ///
    /// # Errors
    /// When a command fails on the node.
    pub fn pod_network(&self, name: &str, host_part: u8) -> Result<PodNetwork> {
        let path = format!("/run/netns/{name}");
        let address = self.network.address(host_part);
        self.sh(&format!(
            "test -e {path} && exit 0
             ip netns add {name}
             ip link add link eth0 name pod{host_part} type macvlan mode bridge
             ip link set pod{host_part} netns {name}
             ip -n {name} link set pod{host_part} name eth0
             ip -n {name} addr add {address}/24 dev eth0
             ip -n {name} link set lo up
             ip -n {name} link set eth0 up"
        ))?;
        Ok(PodNetwork { path, address })
    }
}
