//! What Kubernetes has by itself: the kubelet's checkpoint API (KEP-2008), an image of its archive, a pod of that image on another node.
//! containerd pulls the image that the container ran before it restores one, so a registry is in that node.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use godwit_lab::{Cluster, Image, Node, Spawned, of_checkpoint, wait};
use serde_json::Value;

use super::TARGET;
use crate::conformance::programs;
use crate::pods::Clusters;

const SOURCE: &str = "a1";
/// Of the registry, in the target node.
const DIR: &str = "/opt/registry";
const ADDRESS: &str = "127.0.0.1:5000";
/// The image there. containerd asks a registry of this name without encryption, and no other.
pub(super) const BASE: &str = "localhost:5000/redis:latest";
const SOON: Duration = Duration::from_secs(60);

/// The chain from one pod to images of it.
pub(super) struct Chain {
    cluster: Cluster,
    source: Node,
    target: Node,
    /// Name of the pod.
    pod: String,
    /// Which every node sees as `/lab/shared`.
    shared: PathBuf,
    _registry: Spawned,
}

impl Chain {
    /// For a pod of this name. All pods run [`BASE`] from now on.
    pub(super) fn prepare(clusters: &Clusters, pod: &str) -> Result<Self> {
        let (source, target) = (clusters.lab.node(SOURCE)?, clusters.lab.node(TARGET)?);
        [&source, &target].into_iter().try_for_each(rename)?;
        let registry = serve(&target)?;
        let shared = clusters.lab.shared();
        Ok(Self {
            cluster: clusters.a.clone(),
            source,
            target,
            pod: pod.to_owned(),
            shared,
            _registry: registry,
        })
    }

    /// A checkpoint of the pod as an image of the target's containerd; its name. The pod runs on.
    pub(super) fn checkpoint(&self, round: usize) -> Result<String> {
        let path = format!("/api/v1/nodes/{SOURCE}/proxy/checkpoint/default/{}/main", self.pod);
        let told = self.cluster.send(&["create", "--raw", &path, "--filename", "-"], "")?;
        let told: Value = serde_json::from_str(&told).with_context(|| told.clone())?;
        let archive = told["items"][0].as_str().context("an archive")?;
        let name = format!("godwit.test/checkpoint:{round}");
        let image = self.shared.join("checkpoint.tar");
        of_checkpoint(&self.source.host_path(archive)?, ("main", BASE), &name, &image)?;
        self.source.run(&["rm", archive])?;
        let import = ["--namespace", "k8s.io", "images", "import", "/lab/shared/checkpoint.tar"];
        self.target.ctr(&import)?;
        std::fs::remove_file(image)?;
        Ok(name)
    }
}

/// Has the image known as [`BASE`], and by its digest there: containerd pulls by that name what it restores.
fn rename(node: &Node) -> Result<()> {
    let (name, ctr) = (Image::Redis.reference(), "ctr --namespace k8s.io images");
    node.sh(&format!(
        "names=$({ctr} list --quiet | grep ^{repository}[:@])
         digest=$(echo \"$names\" | grep @)
         {ctr} tag {name} {BASE} localhost:5000/redis@${{digest#*@}}
         {ctr} remove $names",
        repository = name.trim_end_matches(":latest")
    ))?;
    Ok(())
}

/// A registry with the image that the pod runs, where the node's containerd looks for it.
fn serve(node: &Node) -> Result<Spawned> {
    node.put_program(&programs::ensure_registry()?, &format!("{DIR}/registry"))?;
    let settings = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: /var/lib/godwit-registry}}}}\nhttp: {{addr: '{ADDRESS}'}}\n"
    );
    node.write_file(&format!("{DIR}/registry.yml"), settings)?;
    let serve = format!(
        "OTEL_TRACES_EXPORTER=none exec {DIR}/registry serve {DIR}/registry.yml >/var/log/registry 2>&1"
    );
    let process = node.spawn(&["bash", "-c", &serve])?;
    let ask = format!("curl --silent --fail --noproxy '*' http://{ADDRESS}/v2/");
    wait::until("the registry to answer", SOON, || node.sh(&ask))?;
    node.sh(&format!("ctr --namespace k8s.io images push --local --plain-http {BASE}"))?;
    Ok(process)
}
