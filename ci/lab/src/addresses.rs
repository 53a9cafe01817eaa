//! Who has which address in the clusters of a lab: machines on the lab's bridge, pods and services behind them.
//!
//! Everything follows from the number of the lab's network, so that any machine of a lab can have routes to the pods of all
//! others before they are there. Beside 10.88.N.0/24 a lab has 10.112.0.0/12's N-th /20: for each cluster four /24, the first
//! for its services, the others for the pods of its workers.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::LabError;
use crate::network::{Network, Route};

/// How many clusters a lab can have.
const CLUSTERS: u8 = 4;
/// How many workers a cluster can have.
pub(crate) const WORKERS: u8 = 3;
/// Host part of the first node of no cluster.
const FIRST_NODE: u8 = 11;
/// Host part of the first cluster's control plane; each cluster has ten host parts.
const FIRST_HOST: u8 = 20;
/// The first host part after those of clusters.
const AFTER_CLUSTERS: u8 = FIRST_HOST + 10 * CLUSTERS;
/// From here on they are free for pods' own networks.
const FIRST_POD: u8 = 100;
const FIRST_POD_NETWORK: u32 = u32::from_be_bytes([10, 112, 0, 0]);

/// The host parts of nodes of no cluster, in their order.
pub(crate) fn node_host_parts() -> impl Iterator<Item = u8> {
    (FIRST_NODE..FIRST_HOST).chain(AFTER_CLUSTERS..FIRST_POD)
}

/// A cluster of a lab: a letter, `a` to `d`. Its control plane is the node `a0`, its workers are `a1` to `a3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterName(u8);

impl ClusterName {
    /// The first cluster.
    pub const A: Self = Self(0);
    /// The second cluster.
    pub const B: Self = Self(1);

    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..CLUSTERS).map(Self)
    }

    /// The name of its control plane's node.
    pub(crate) fn control_plane(self) -> String {
        format!("{self}0")
    }

    /// The name of a worker, counted from 1.
    pub(crate) fn worker(self, number: u8) -> String {
        format!("{self}{number}")
    }

    /// The host part of its control plane's address (0) or of a worker's (from 1).
    pub(crate) fn host_part(self, number: u8) -> u8 {
        FIRST_HOST + 10 * self.0 + number
    }

    /// Its services: a /24.
    pub(crate) fn services(self, network: Network) -> Range {
        self.range(network, 0)
    }

    /// The pods of one of its workers: a /24.
    pub(crate) fn pods(self, network: Network, worker: u8) -> Range {
        self.range(network, worker)
    }

    /// All its services and pods: a /22.
    pub(crate) fn everything(self, network: Network) -> Range {
        Range { bits: 22, ..self.range(network, 0) }
    }

    fn range(self, network: Network, number: u8) -> Range {
        let of_lab = FIRST_POD_NETWORK + (u32::from(network.number()) << 12);
        let of_cluster = of_lab + (u32::from(self.0) << 10);
        Range { first: Ipv4Addr::from_bits(of_cluster + (u32::from(number) << 8)), bits: 24 }
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", char::from(b'a' + self.0))
    }
}

impl FromStr for ClusterName {
    type Err = LabError;

    fn from_str(text: &str) -> Result<Self, LabError> {
        let found = Self::all().find(|name| name.to_string() == text.to_ascii_lowercase());
        found.ok_or_else(|| {
            LabError::Refused(format!(
                "there is no cluster {text:?}: clusters are named by the letters a to d"
            ))
        })
    }
}

impl TryFrom<String> for ClusterName {
    type Error = LabError;

    fn try_from(text: String) -> Result<Self, LabError> {
        text.parse()
    }
}

impl From<ClusterName> for String {
    fn from(name: ClusterName) -> Self {
        name.to_string()
    }
}

/// Addresses with the same beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    first: Ipv4Addr,
    bits: u8,
}

impl Range {
    /// The first address that somebody can have.
    pub(crate) fn first_host(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first.to_bits() + 1)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

/// The way to the pods of every worker that this lab can have, but for those behind the host part `own`; and to the services
/// of each cluster, by its first worker: that one's kube-proxy passes on what comes from outside.
pub(crate) fn routes(network: Network, own: Option<u8>) -> Vec<Route> {
    ClusterName::all()
        .flat_map(|cluster| (0..=WORKERS).map(move |number| (cluster, number)))
        .map(|(cluster, number)| Route {
            to: cluster.range(network, number).to_string(),
            host_part: cluster.host_part(number.max(1)),
        })
        .filter(|route| Some(route.host_part) != own)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_cluster_is_a_letter_of_either_case() {
        assert_eq!("A".parse::<ClusterName>().unwrap(), ClusterName::A);
        assert_eq!("b".parse::<ClusterName>().unwrap(), ClusterName::B);
        for wrong in ["", "e", "ab", "1"] {
            let told = wrong.parse::<ClusterName>().unwrap_err().to_string();
            assert!(told.contains("a to d"), "{told}");
        }
    }

    #[test]
    fn no_two_ranges_of_any_two_labs_are_one() {
        let mut seen = BTreeSet::new();
        for number in [0, 1, 255] {
            let network = Network::of_number(number);
            for cluster in ClusterName::all() {
                assert!(seen.insert(cluster.services(network).to_string()));
                for worker in 1..=WORKERS {
                    assert!(seen.insert(cluster.pods(network, worker).to_string()));
                }
            }
        }
        let last = ClusterName(3).pods(Network::of_number(255), 3);
        assert_eq!(last.to_string(), "10.127.255.0/24");
        let everything = ClusterName::B.everything(Network::of_number(1));
        assert_eq!(everything.to_string(), "10.112.20.0/22");
    }

    #[test]
    fn no_node_has_the_address_of_a_clusters() {
        let of_clusters: BTreeSet<u8> = ClusterName::all()
            .flat_map(|cluster| (0..=WORKERS).map(move |number| cluster.host_part(number)))
            .collect();
        assert_eq!(node_host_parts().next(), Some(11));
        assert_eq!(node_host_parts().filter(|part| !of_clusters.contains(part)).count(), 49);
    }

    #[test]
    fn a_worker_has_no_route_to_its_own_pods() {
        let network = Network::of_number(0);
        let own = ClusterName::A.host_part(1);
        let all = routes(network, None);
        let of_a1 = routes(network, Some(own));
        // Its own pods, and the services that it serves itself.
        assert_eq!(all.len(), of_a1.len() + 2);
        assert!(of_a1.iter().all(|route| route.host_part != own));
    }
}
