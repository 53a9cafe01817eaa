//! A node for containerd's CRI tests: their containerd, which somebody starts again whenever it has ended, networks for pods, the images
//! that they ask for, our shim and our proxy.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use godwit_lab::{
    InstallOptions, Lab, LabOptions, Node, Service, Spawned, StoreChoice, default_bin_dir,
    ensure_suite_images, wait,
};

use super::Way;
use crate::conformance::outcome::parse;
use crate::conformance::registry::Registry;
use crate::conformance::{Outcomes, programs};

/// Where everything of the tests is, in the node: `bin`, what they and the lab run; `build`, what they call their own build.
const SUITE: &str = "/opt/suite";
const CONFIG: &str = "/etc/containerd/config.toml";
/// Where containerd's socket is, and where the tests look for it. The names of shims' sockets follow from this path, so tests by way of
/// the proxy have to ask at the same one.
const SOCKET: &str = "/run/cri/containerd.sock";
/// The directory that tests by way of the proxy see instead of that socket's.
const VIEW: &str = "/run/by-proxy";
/// What runc's runtime is where a test starts a containerd of its own: the one or the other.
const RUNC_SHIM: &str = "/opt/suite/bin/containerd-shim-runc-v2";
const OUR_SHIM: &str = "/usr/local/bin/containerd-shim-godwit-v2";
/// Where the images come from.
const HOSTS: [&str; 2] = ["ghcr.io", "registry.k8s.io"];
const SOON: Duration = Duration::from_secs(60);
/// For all of them.
const PATIENCE: &str = "3600s";

/// The node; gone when dropped.
pub(super) struct Stage {
    node: Node,
    way: Way,
    _containerd: Spawned,
    _registry: Registry,
    lab: Lab,
}

impl Stage {
    pub(super) fn set(way: Way) -> Result<Self> {
        let (programs, tests) = (programs::ensure()?, programs::ensure_cri()?);
        let lab = Lab::up(&LabOptions::for_tests().nodes(&["n1"]))?;
        let node = lab.node("n1")?;
        node.stop(Service::Containerd)?;
        put(&node, &programs, &tests)?;
        connect(&node)?;
        node.start(Service::Containerd)?;
        install(&node)?;
        let registry = Registry::serve(&node, &HOSTS)?;
        publish(&node, &registry)?;
        if way == Way::GodwitByProxy {
            take_ours(&node)?;
        }
        node.stop(Service::Containerd)?;
        let containerd = keep(&node)?;
        Ok(Self { node, way, _containerd: containerd, _registry: registry, lab })
    }

    /// What the running containerd calls itself.
    pub(super) fn version(&self) -> Result<String> {
        let version = self.node.ctr(&["version"])?;
        let server = version.split("Server:").nth(1).unwrap_or_default();
        Ok(server.split_whitespace().nth(1).unwrap_or_default().to_owned())
    }

    /// Runs them, and leaves the stage. `log` is the beginning of the names of the logs.
    pub(super) fn run(
        mut self,
        (only, hanging): (Option<&str>, &str),
        log: &Path,
    ) -> Result<Outcomes> {
        let only = only.map(|pattern| format!("-test.run '{pattern}'")).unwrap_or_default();
        let look = match self.way {
            Way::Runc => "true".to_owned(),
            Way::GodwitByProxy => format!("mount --bind {VIEW} /run/cri"),
        };
        let tests = format!(
            "{look}; exec timeout {PATIENCE} {SUITE}/cri.test -test.v -test.skip '{hanging}' {only} --cri-endpoint unix://{SOCKET} \
             --runtime-handler {} --build-dir {SUITE}/build >/var/log/suite 2>&1",
            self.way.handler()
        );
        self.node.write_file("/run/tests.sh", tests)?;
        // All mounts but that one are seen by both sides. How it ends says less than what it prints: some tests are known to fail.
        self.node.exec(&[
            "unshare",
            "--mount",
            "--propagation",
            "unchanged",
            "bash",
            "/run/tests.sh",
        ])?;
        for (of, name) in [("/var/log/suite", "log"), ("/var/log/containerd", "containerd.log")] {
            let to = log.with_extension(name);
            std::fs::copy(self.node.host_path(of)?, &to)
                .with_context(|| format!("write {}", to.display()))?;
        }
        let text = std::fs::read(log.with_extension("log"))?;
        self.lab.done();
        Ok(parse(&String::from_utf8_lossy(&text)))
    }
}

fn put(node: &Node, programs: &Path, tests: &Path) -> Result<()> {
    for name in ["containerd", "containerd-shim-runc-v2", "ctr"] {
        node.put_program(&programs.join(name), &format!("{SUITE}/bin/{name}"))?;
    }
    node.put_program(&tests.join("cri.test"), &format!("{SUITE}/cri.test"))?;
    node.put_program(&programs.join("runc-fp"), "/usr/local/bin/runc-fp")?;
    for name in ["containerd-shim-runc-fp-v1", "loopback-v2"] {
        node.put_program(&tests.join(name), &format!("/usr/local/bin/{name}"))?;
    }
    node.put_program(&tests.join("cni-bridge-fp"), "/usr/lib/cni/cni-bridge-fp")?;
    node.write_file(CONFIG, include_str!("containerd.toml"))?;
    node.write_file(&format!("{SUITE}/lab.toml"), of_the_lab(RUNC_SHIM))?;
    node.write_file(&format!("{SUITE}/build/containerd"), include_str!("nested.sh"))?;
    node.write_file("/etc/cni/net.d/10-suite.conflist", network("suite", "bridge", 0))?;
    node.write_file(
        "/etc/cni/failing.d/10-suite.conflist",
        network("failing", "cni-bridge-fp", 1),
    )?;
    // What a test's containerd finds is found by its name: ctr and shims are the suite's, and so is, through us, containerd.
    node.sh(&format!(
        "chmod +x {SUITE}/build/containerd
         ln -s {SUITE}/bin/containerd-shim-runc-v2 {SUITE}/bin/ctr {SUITE}/build/containerd /usr/local/bin/
         ln -s {SUITE}/bin/containerd-shim-runc-v2 {SUITE}/build/
         mkdir -p /opt/cni && ln -s /usr/lib/cni /opt/cni/bin
         # On a real file system, as the tests ask.
         mkdir -p /var/lib/containerd/suite /var/lib/containerd-test
         mount --bind /var/lib/containerd/suite /var/lib/containerd-test"
    ))?;
    Ok(())
}

/// Settings that go over those of a containerd that a test starts: what the lab needs, and which shim is runc's.
fn of_the_lab(shim: &str) -> String {
    let runtime = "plugins.'io.containerd.cri.v1.runtime'";
    format!(
        "version = 3\n[{runtime}]\nrestrict_oom_score_adj = true\n[{runtime}.cni]\nbin_dirs = ['/usr/lib/cni']\n\
         [{runtime}.containerd.runtimes.runc]\nruntime_type = 'io.containerd.runc.v2'\nruntime_path = '{shim}'\n"
    )
}

/// Pods of this node alone.
fn network(name: &str, kind: &str, number: u8) -> String {
    format!(
        r#"{{"cniVersion": "1.0.0", "name": "{name}", "plugins": [
        {{"type": "{kind}", "bridge": "cni{number}", "isGateway": true, "ipMasq": false, "hairpinMode": true,
          "ipam": {{"type": "host-local", "ranges": [[{{"subnet": "10.112.{number}.0/24"}}], [{{"subnet": "fd00:{number}::/64"}}]],
                   "routes": [{{"dst": "0.0.0.0/0"}}, {{"dst": "::/0"}}]}},
          "capabilities": {{"io.kubernetes.cri.pod-annotations": true}}}},
        {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}"#
    )
}

/// containerd's socket in a directory that can be another one for the tests, and where everybody else looks for it.
fn connect(node: &Node) -> Result<()> {
    node.sh(&format!(
        "mkdir -p /run/cri {VIEW} /run/netns
         mount -t tmpfs -o mode=711 tmpfs /run/cri
         mount --make-private /run/cri
         mkdir -p /run/containerd
         ln -sfn {SOCKET} /run/containerd/containerd.sock
         ln -s /run/godwit/cri.sock {VIEW}/containerd.sock"
    ))?;
    Ok(())
}

fn install(node: &Node) -> Result<()> {
    let store = StoreChoice::Directory("/lab/shared/store".to_owned());
    let settings = String::new();
    node.install(&InstallOptions { bin_dir: default_bin_dir(), store, settings })?;
    Ok(node.start(Service::CriProxy)?)
}

/// Puts the images into the registry, and has everybody trust it and ask for them.
fn publish(node: &Node, registry: &Registry) -> Result<()> {
    let (archive, names) = ensure_suite_images()?;
    let name = archive.file_name().unwrap_or_default().to_string_lossy();
    node.ctr(&["images", "import", &format!("/lab/images/{name}")])?;
    names.iter().try_for_each(|name| registry.push(name))?;
    node.sh(&format!(
        "ctr images list --quiet | xargs ctr images remove --sync >/dev/null
         cat {} >>/etc/ssl/certs/ca-certificates.crt",
        Registry::certificate()
    ))?;
    Ok(())
}

/// Ours is what a test gets that does not say which shim, or says runc's.
fn take_ours(node: &Node) -> Result<()> {
    node.write_file(&format!("{SUITE}/lab.toml"), of_the_lab(OUR_SHIM))?;
    node.sh(&format!(
        "sed -i 's/default_runtime_name = .*/default_runtime_name = \"godwit\"/' {CONFIG}
         ln -sfn {OUR_SHIM} {SUITE}/build/containerd-shim-runc-v2"
    ))?;
    Ok(())
}

/// Starts containerd, and again some seconds after it has ended: tests end it, and look once a second whether it has.
fn keep(node: &Node) -> Result<Spawned> {
    // A test counts the pipes of shims: those that this program was started with, by whomever, are not to be theirs.
    let line = format!(
        "for fd in $(ls /proc/$$/fd); do [ $fd -le 2 ] || eval \"exec $fd>&-\"; done
         while :; do {SUITE}/bin/containerd --config {CONFIG}; sleep 3; done </dev/null >>/var/log/containerd 2>&1"
    );
    let containerd = node.spawn(&["bash", "-c", &line])?;
    wait::until("containerd to answer", SOON, || node.ctr(&["version"]))?;
    Ok(containerd)
}
