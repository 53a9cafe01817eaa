//! A node's part in a cluster: its files, its ways to the other nodes' pods, the command lines of its daemons.

use super::worker::{KUBELET_CONFIG, Worker};
use super::{Node, Role, Service, control_plane};
use crate::addresses::{self, ClusterName};
use crate::error::Result;
use crate::network::Route;
use crate::pki::Pki;

impl Node {
    /// What a cluster wants of it, once it is on the network; nothing for a node of no cluster.
    pub(super) fn join_cluster(&self, pid: u32) -> Result<()> {
        match self.role() {
            Role::Containers => Ok(()),
            Role::ControlPlane(cluster) => {
                self.network.add_routes(pid, &addresses::routes(self.network, None))?;
                self.write_control_plane(&self.pki(cluster))
            }
            Role::Worker(cluster, number) => {
                let own = Some(self.shape.host_part);
                self.network.add_routes(pid, &addresses::routes(self.network, own))?;
                self.network.add_routes_of_host(&self.routes_to(cluster, number))?;
                self.write_worker(self.worker(cluster, number), &self.pki(cluster))
            }
        }
    }

    /// The command line of a daemon that it has as part of its cluster.
    pub(super) fn line_of_cluster(&self, service: Service) -> Option<String> {
        match self.role() {
            Role::Containers => None,
            Role::ControlPlane(cluster) => control_plane::line(service, cluster, self.network),
            Role::Worker(cluster, number) => self.worker(cluster, number).line(service),
        }
    }

    fn worker(&self, cluster: ClusterName, number: u8) -> Worker<'_> {
        Worker { name: self.name(), cluster, number, network: self.network }
    }

    fn pki(&self, cluster: ClusterName) -> Pki {
        Pki::of_cluster(&self.lab, cluster)
    }

    /// What the host is told: a client of a test may run there.
    fn routes_to(&self, cluster: ClusterName, number: u8) -> Vec<Route> {
        let host_part = self.shape.host_part;
        let pods = cluster.pods(self.network, number).to_string();
        let services = (number == 1).then(|| cluster.services(self.network).to_string());
        let all = [Some(pods), services].into_iter().flatten();
        all.map(|to| Route { to, host_part }).collect()
    }

    fn write_control_plane(&self, pki: &Pki) -> Result<()> {
        for file in control_plane::CERTIFICATES {
            self.write_file(&format!("{}/pki/{file}", control_plane::DIR), pki.read(file)?)?;
        }
        for file in control_plane::KUBECONFIGS {
            self.write_file(&format!("{}/{file}", control_plane::DIR), pki.read(file)?)?;
        }
        Ok(())
    }

    fn write_worker(&self, worker: Worker<'_>, pki: &Pki) -> Result<()> {
        if self.host_path(KUBELET_CONFIG)?.exists() {
            return Ok(());
        }
        for (path, file) in worker.certificates() {
            self.write_file(&path, pki.read(&file)?)?;
        }
        for (path, content) in worker.configuration() {
            self.write_file(path, content)?;
        }
        Ok(())
    }
}
