//! A node on which the tests run: their programs, their images in a registry under the names that they ask for, our shim.

use std::path::Path;

use anyhow::{Context as _, Result};
use godwit_lab::{Image, Lab, LabOptions, Node, default_bin_dir, ensure_platform_images, tools};

use super::Daemon;
use super::outcome::{Outcomes, parse};
use super::registry::Registry;

const SHIM: &str = "containerd-shim-godwit-v2";
/// Programs that only the tests' own containerd uses.
const OWN: [&str; 3] = ["containerd", "containerd-shim-runc-v2", "ctr"];
/// Where everything of the tests is, in the node.
const SUITE: &str = "/opt/suite";
/// Names of images that the tests pull.
const IMAGES: [&str; 6] = [
    "ghcr.io/containerd/busybox:1.36",
    "ghcr.io/containerd/alpine:3.14.0",
    "ghcr.io/containerd/volume-copy-up:2.1",
    "ghcr.io/containerd/volume-copy-up:2.2",
    "ghcr.io/containerd/volume-ownership:2.1",
    "registry.k8s.io/pause:3.6",
];
/// For all of them: they take two minutes, and some wait for half a minute.
const PATIENCE: &str = "900s";

/// The node; gone when dropped.
pub(super) struct Stage {
    node: Node,
    _registry: Registry,
    lab: Lab,
}

impl Stage {
    pub(super) fn set(programs: &Path) -> Result<Self> {
        let lab = Lab::up(&LabOptions::for_tests().nodes(&["n1"]))?;
        let node = lab.node("n1")?;
        for name in OWN {
            node.put_program(&programs.join(name), &format!("{SUITE}/own/{name}"))?;
        }
        node.put_program(&programs.join("client.test"), &format!("{SUITE}/client.test"))?;
        node.put_program(&programs.join("runc-fp"), "/usr/local/bin/runc-fp")?;
        let shim = default_bin_dir().join(SHIM);
        node.put_program(&shim, &format!("/usr/local/bin/{SHIM}"))
            .with_context(|| format!("{} is built by `make build`", shim.display()))?;
        tools::shell(
            programs,
            "cp --recursive testdata \"$TO\"",
            &[("TO", &node.host_path(SUITE)?)],
        )?;
        let registry = Registry::serve(&node, &["ghcr.io", "registry.k8s.io"])?;
        node.import(Image::Suite)?;
        for name in IMAGES {
            node.ctr(&["images", "tag", Image::Suite.reference(), name])?;
            registry.push(name)?;
        }
        let (archive, names) = ensure_platform_images()?;
        let archive = archive.file_name().unwrap_or_default().to_string_lossy();
        let archive = format!("/lab/images/{archive}");
        node.ctr(&["images", "import", "--all-platforms", "--no-unpack", &archive])?;
        names.iter().try_for_each(|name| registry.push(name))?;
        // On a real file system: overlay on overlay is refused.
        node.sh("mkdir -p /var/lib/containerd/suite /var/lib/containerd-test
                 mount --bind /var/lib/containerd/suite /var/lib/containerd-test")?;
        Ok(Self { node, _registry: registry, lab })
    }

    /// What the daemon calls itself.
    pub(super) fn version(&self, daemon: Daemon) -> Result<String> {
        let version = self.node.sh(&format!("{} containerd --version", path(daemon)))?;
        Ok(version.split_whitespace().nth(2).unwrap_or_default().to_owned())
    }

    /// Runs them, and leaves the stage.
    pub(super) fn run(
        mut self,
        daemon: Daemon,
        runtime: &str,
        (only, hanging): (Option<&str>, &str),
        log: &Path,
    ) -> Result<Outcomes> {
        let only = only.map(|pattern| format!("-test.run '{pattern}'")).unwrap_or_default();
        let line = format!(
            "cd {SUITE}; export SSL_CERT_FILE={} TEST_RUNTIME={runtime}
             {} timeout {PATIENCE} ./client.test -test.root -test.v -test.parallel 2 -test.skip '{hanging}' {only} >/var/log/suite 2>&1",
            Registry::certificate(),
            path(daemon)
        );
        // How it ends says less than what it prints: some tests are known to fail.
        self.node.exec(&["bash", "-c", &line])?;
        let text = std::fs::read(self.node.host_path("/var/log/suite")?)?;
        std::fs::write(log, &text).with_context(|| format!("write {}", log.display()))?;
        self.lab.done();
        Ok(parse(&String::from_utf8_lossy(&text)))
    }
}

/// Which containerd is found first.
fn path(daemon: Daemon) -> String {
    match daemon {
        Daemon::Own => format!("PATH={SUITE}/own:$PATH"),
        Daemon::Debian => "PATH=$PATH".to_owned(),
    }
}
