//! A node for `critest`: one of the containerds, a network for pods, the images that it asks for, our shim and our proxy.

use std::path::Path;

use anyhow::{Context as _, Result};
use godwit_lab::{
    Image, InstallOptions, Lab, LabOptions, Node, Service, StoreChoice, default_bin_dir,
    ensure_critest_images, kubernetes,
};

use super::Way;
use super::report::parse;
use crate::conformance::registry::Registry;
use crate::conformance::{Daemon, Outcomes, programs};

const CRITEST: &str = "/opt/critest";
const REPORT: &str = "/var/log/critest.json";
/// Where the images come from.
const HOSTS: [&str; 3] = ["registry.k8s.io", "gcr.io", "k8s.gcr.io"];
/// Pods of this node alone.
const NETWORK: &str = r#"{"cniVersion": "1.0.0", "name": "critest", "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.112.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}]}"#;
/// For all of them: they take a minute and a half.
const PATIENCE: &str = "900s";

/// The node; gone when dropped.
pub(super) struct Stage {
    node: Node,
    _registry: Registry,
    lab: Lab,
}

impl Stage {
    pub(super) fn set(daemon: Daemon) -> Result<Self> {
        let (critest, images) = (kubernetes::ensure_critest()?, ensure_critest_images()?);
        let lab = Lab::up(&LabOptions::for_tests().nodes(&["n1"]))?;
        let node = lab.node("n1")?;
        node.put_program(&critest, CRITEST)?;
        node.write_file("/etc/cni/net.d/10-critest.conflist", NETWORK)?;
        if daemon == Daemon::Own {
            take(&node, &programs::ensure()?)?;
        }
        let store = StoreChoice::Directory("/lab/shared/store".to_owned());
        let settings = String::new();
        node.install(&InstallOptions { bin_dir: default_bin_dir(), store, settings })?;
        node.start(Service::CriProxy)?;
        node.import_into("k8s.io", Image::Pause)?;
        let registry = Registry::serve(&node, &HOSTS)?;
        publish(&node, &registry, &images)?;
        trust(&node)?;
        Ok(Self { node, _registry: registry, lab })
    }

    /// What the running containerd calls itself.
    pub(super) fn version(&self) -> Result<String> {
        let version = self.node.ctr(&["version"])?;
        let server = version.split("Server:").nth(1).unwrap_or_default();
        Ok(server.split_whitespace().nth(1).unwrap_or_default().to_owned())
    }

    /// Runs them, and leaves the stage. `log` is the beginning of the names of the logs.
    pub(super) fn run(mut self, way: Way, only: Option<&str>, log: &Path) -> Result<Outcomes> {
        let endpoint = way.endpoint();
        let handler =
            way.handler().map(|name| format!("--runtime-handler={name}")).unwrap_or_default();
        let only = only.map(|pattern| format!("--ginkgo.focus='{pattern}'")).unwrap_or_default();
        // How it ends says less than its report: some tests are known to fail.
        let line = format!(
            "cd /tmp; timeout {PATIENCE} {CRITEST} --runtime-endpoint={endpoint} --image-endpoint={endpoint} {handler} {only} \
             --ginkgo.no-color --ginkgo.seed=1 --ginkgo.json-report={REPORT} >/var/log/critest 2>&1 || true"
        );
        self.node.sh(&line)?;
        let text = self.node.read_file("/var/log/critest")?;
        let shown = log.with_extension("log");
        std::fs::write(&shown, text).with_context(|| format!("write {}", shown.display()))?;
        let report =
            self.node.read_file(REPORT).with_context(|| format!("see {}", shown.display()))?;
        std::fs::write(log.with_extension("json"), &report)?;
        self.lab.done();
        parse(&report)
    }
}

/// Another containerd than the distribution's: it is found first.
fn take(node: &Node, programs: &Path) -> Result<()> {
    for name in ["containerd", "containerd-shim-runc-v2", "ctr"] {
        node.put_program(&programs.join(name), &format!("/usr/local/bin/{name}"))?;
    }
    restart(node)
}

fn restart(node: &Node) -> Result<()> {
    node.stop(Service::Containerd)?;
    Ok(node.start(Service::Containerd)?)
}

/// Puts the images into the registry; containerd has to ask for them.
fn publish(
    node: &Node,
    registry: &Registry,
    images: &(std::path::PathBuf, Vec<String>),
) -> Result<()> {
    let (archive, names) = images;
    let name = archive.file_name().unwrap_or_default().to_string_lossy();
    node.ctr(&["images", "import", &format!("/lab/images/{name}")])?;
    names.iter().try_for_each(|name| registry.push(name))
}

/// Has containerd trust the registry, from its next start on.
fn trust(node: &Node) -> Result<()> {
    node.sh(&format!("cat {} >>/etc/ssl/certs/ca-certificates.crt", Registry::certificate()))?;
    restart(node)
}
