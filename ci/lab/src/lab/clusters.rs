//! Bringing the clusters of a lab up: as much as possible at the same time.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::Lab;
use super::at_once::at_once;
use crate::addresses::{ClusterName, WORKERS};
use crate::cluster::Cluster;
use crate::error::{LabError, Result};
use crate::image::Image;
use crate::node::{CgroupView, Node, Role};
use crate::pki::Pki;
use crate::{kubernetes, places};

/// What pods are made of, on every worker.
const IMAGES: [Image; 5] = [Image::Pause, Image::Shell, Image::Redis, Image::Mem, Image::Web];
/// Where containerd keeps what the kubelet knows.
const NAMESPACE: &str = "k8s.io";
/// What comes up alone: containerd; etcd and the API server. What follows wants these, and images.
const ALONE: usize = 1;

impl Lab {
    /// The cluster of this name.
    ///
    /// # Errors
    /// [`LabError::Missing`] when the lab has none of this name.
    pub fn cluster(&self, name: ClusterName) -> Result<Cluster> {
        Cluster::of(name, &self.dir, self.nodes()?).ok_or_else(|| LabError::Missing {
            what: format!("cluster {name} of lab {:?}", self.name),
            hint: "`lab up clusters` starts it".to_owned(),
        })
    }

    /// All clusters, by name.
    ///
    /// # Errors
    /// When the lab's records cannot be read.
    pub fn clusters(&self) -> Result<Vec<Cluster>> {
        let nodes = self.nodes()?;
        Ok(ClusterName::all()
            .filter_map(|name| Cluster::of(name, &self.dir, nodes.clone()))
            .collect())
    }

    pub(super) fn add_clusters(
        &self,
        shapes: &[(ClusterName, u8)],
        cgroup: CgroupView,
    ) -> Result<()> {
        if shapes.is_empty() {
            return Ok(());
        }
        kubernetes::ensure_built()?;
        let archives = IMAGES.into_iter().map(Image::archive).collect::<Result<Vec<_>>>()?;
        let mut clusters = vec![];
        for &(name, workers) in shapes {
            self.make_cluster(name, workers, cgroup)?;
            clusters.push(self.cluster(name)?);
        }
        at_once(clusters.iter().flat_map(Cluster::nodes), |node| prepare(node, &archives))?;
        at_once(clusters.iter(), finish)
    }

    /// Its records and certificates; nothing is started.
    fn make_cluster(&self, name: ClusterName, workers: u8, cgroup: CgroupView) -> Result<()> {
        if !(1..=WORKERS).contains(&workers) {
            return Err(LabError::Refused(format!(
                "cluster {name} cannot have {workers} workers: it has 1 to {WORKERS}"
            )));
        }
        let pki = Pki::of_cluster(&self.dir, name);
        pki.ensure(name, self.network)?;
        if !pki.is_of(name, self.network)? {
            return Err(LabError::Refused(format!(
                "lab {:?} was made before this machine was started, and its addresses are taken: `lab down`, then up again",
                self.name
            )));
        }
        self.ensure_member(&name.control_plane(), 0, Role::ControlPlane(name), cgroup)?;
        for number in 1..=workers {
            self.ensure_member(&name.worker(number), number, Role::Worker(name, number), cgroup)?;
        }
        Ok(())
    }

    fn ensure_member(&self, name: &str, number: u8, role: Role, cgroup: CgroupView) -> Result<()> {
        let host_part = role.cluster().map(|cluster| cluster.host_part(number));
        self.ensure_node(name, cgroup, role, host_part)?;
        Ok(())
    }
}

impl Cluster {
    fn nodes(&self) -> impl Iterator<Item = &Node> {
        std::iter::once(self.control_plane()).chain(self.workers())
    }
}

/// What a node can do without any other.
fn prepare(node: &Node, archives: &[PathBuf]) -> Result<()> {
    node.mend(ALONE)?;
    if node.role().has_containers() { import_missing(node, archives) } else { Ok(()) }
}

/// Those that it does not have yet, by the names of the archives: these change with the contents.
fn import_missing(node: &Node, archives: &[PathBuf]) -> Result<()> {
    let record = node.images_record();
    let text = places::read(&record).unwrap_or_default();
    let mut known: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    for archive in archives {
        let name = archive.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !known.contains(&name) {
            node.import_archive(NAMESPACE, &name)?;
            known.insert(name);
        }
    }
    places::write(&record, known.into_iter().collect::<Vec<_>>().join("\n"))
}

/// What needs an API server.
fn finish(cluster: &Cluster) -> Result<()> {
    at_once(cluster.nodes(), |node| node.mend(usize::MAX))?;
    cluster.wait_ready()?;
    // Pods are refused before.
    cluster.wait_for(&["serviceaccount/default"], "create")
}
