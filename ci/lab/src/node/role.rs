//! What a node is for, and which daemons it therefore has.

use serde::{Deserialize, Serialize};

use super::Service;
use crate::addresses::ClusterName;

/// What a node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Containers by hand: containerd alone.
    #[default]
    Containers,
    /// The control plane of a cluster, without containerd and kubelet.
    ControlPlane(ClusterName),
    /// A worker of a cluster, with its number, from 1.
    Worker(ClusterName, u8),
}

impl Role {
    /// Its daemons that come up with the node, if they are installed, in steps: those of one step are started together.
    #[must_use]
    pub fn services(self) -> &'static [&'static [Service]] {
        match self {
            Self::Containers => &[&[Service::Containerd]],
            Self::ControlPlane(_) => &[
                &[Service::Etcd, Service::ApiServer],
                &[Service::ControllerManager, Service::Scheduler],
            ],
            Self::Worker(..) => &[
                &[Service::Containerd],
                &[Service::CriProxy],
                &[Service::Kubelet, Service::KubeProxy],
            ],
        }
    }

    /// The cluster that it is a part of.
    #[must_use]
    pub fn cluster(self) -> Option<ClusterName> {
        match self {
            Self::Containers => None,
            Self::ControlPlane(cluster) | Self::Worker(cluster, _) => Some(cluster),
        }
    }

    /// Whether containers run on it.
    #[must_use]
    pub fn has_containers(self) -> bool {
        !matches!(self, Self::ControlPlane(_))
    }
}
