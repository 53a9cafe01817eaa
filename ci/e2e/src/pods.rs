//! Pods as their users write them, and two clusters with Godwit on every worker to run them in.

mod life;
mod shared;
mod told;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use godwit_lab::{
    Cluster, ClusterName, Image, InstallOptions, Lab, LabOptions, Node, default_bin_dir, wait,
};
use godwit_types::names;
use serde_json::{Value, json};

use crate::bed::{Store, log_level};
use crate::container::{PROGRESS, SOON};

pub use life::Life;
pub use shared::{Shared, take_down};
pub use told::{count_events, delete, event, event_says, events, number};

/// Of each sandbox and each container.
const BUNDLES: &str = "/run/containerd/io.containerd.runtime.v2.task/k8s.io";
/// Of the web image.
pub const WEB_PORT: u16 = 8080;

/// Which shim runs a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handler {
    /// containerd's own.
    Runc,
    /// Godwit's.
    Godwit,
}

impl Handler {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Runc, Self::Godwit];
}

/// A pod with one container.
#[derive(Debug, Clone)]
pub struct Pod {
    name: String,
    metadata: Value,
    spec: Value,
}

impl Pod {
    /// One of this image and command; without words, the image's own. It ends at once when it is deleted.
    #[must_use]
    pub fn new(name: &str, handler: Handler, image: Image, words: &[&str]) -> Self {
        let mut container = json!({
            "name": "main", "image": image.reference(), "imagePullPolicy": "Never",
        });
        if !words.is_empty() {
            container["command"] = json!(words);
        }
        let mut spec = json!({
            "containers": [container], "terminationGracePeriodSeconds": 0, "dnsPolicy": "Default",
        });
        if handler == Handler::Godwit {
            spec["runtimeClassName"] = json!("godwit");
        }
        Self { name: name.to_owned(), metadata: json!({"labels": {"app": name}}), spec }
    }

    /// On this node only.
    #[must_use]
    pub fn on(mut self, node: &str) -> Self {
        self.spec["nodeSelector"] = json!({"kubernetes.io/hostname": node});
        self
    }

    /// With this in its container: `probes`, `resources`, ….
    #[must_use]
    pub fn container_with(mut self, field: &str, value: Value) -> Self {
        self.spec["containers"][0][field] = value;
        self
    }

    /// With this container, too.
    #[must_use]
    pub fn beside(mut self, container: Value) -> Self {
        if let Some(all) = self.spec["containers"].as_array_mut() {
            all.push(container);
        }
        self
    }

    /// That is to keep its memory when it ends, and has the time for that.
    #[must_use]
    pub fn that_keeps(self) -> Self {
        self.annotated(names::CHECKPOINT_ON_STOP, "true")
            .with("terminationGracePeriodSeconds", json!(60))
    }

    /// With this annotation.
    #[must_use]
    pub fn annotated(mut self, name: &str, value: &str) -> Self {
        self.metadata["annotations"][name] = json!(value);
        self
    }

    /// With this in its specification.
    #[must_use]
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.spec[field] = value;
        self
    }

    /// As an object of its own.
    #[must_use]
    pub fn manifest(&self) -> String {
        let mut metadata = self.metadata.clone();
        metadata["name"] = json!(self.name);
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": self.spec})
            .to_string()
    }

    /// As the template of an owner of this kind (`Deployment`, `StatefulSet`), which has the pod's name.
    #[must_use]
    pub fn owned_by(&self, kind: &str, replicas: u32) -> String {
        let mut spec = json!({
            "replicas": replicas,
            "selector": {"matchLabels": self.metadata["labels"]},
            "template": {"metadata": self.metadata, "spec": self.spec},
        });
        if kind == "StatefulSet" {
            spec["serviceName"] = json!(self.name);
        }
        self.object("apps/v1", kind, spec)
    }

    /// As the template of a Job, which has the pod's name.
    #[must_use]
    pub fn job(&self) -> String {
        let mut pod = self.spec.clone();
        pod["restartPolicy"] = json!("Never");
        let template = json!({"metadata": self.metadata, "spec": pod});
        self.object("batch/v1", "Job", json!({"backoffLimit": 0, "template": template}))
    }

    fn object(&self, version: &str, kind: &str, spec: Value) -> String {
        let metadata = json!({"name": self.name});
        json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}).to_string()
    }

    /// A service in front of its web server.
    #[must_use]
    pub fn service(&self) -> String {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": self.name},
            "spec": {
                "selector": self.metadata["labels"],
                "ports": [{"port": 80, "targetPort": WEB_PORT}],
            },
        })
        .to_string()
    }
}

/// Two clusters with Godwit on every worker; gone when dropped.
#[derive(Debug)]
pub struct Clusters {
    /// The lab.
    pub lab: Lab,
    /// The cluster with the workers `a1` and `a2`.
    pub a: Cluster,
    /// The cluster with the worker `b1`.
    pub b: Cluster,
}

impl Clusters {
    /// Those that the test before has left, or new ones.
    ///
    /// # Errors
    /// As [`Clusters::with`].
    pub fn up() -> Result<Shared> {
        Shared::take()
    }

    fn for_tests() -> Result<Self> {
        Self::with(&LabOptions::for_tests(), Store::S3)
    }

    /// Starts both in a lab of these options, with an agent on every worker and this store.
    ///
    /// # Errors
    /// When the lab cannot be brought up, or a program is not built.
    pub fn with(options: &LabOptions, store: Store) -> Result<Self> {
        let lab = Lab::up(&options.clone().two_clusters())?;
        let store = store.of(&lab)?;
        let clusters =
            Self { a: lab.cluster(ClusterName::A)?, b: lab.cluster(ClusterName::B)?, lab };
        let mut all = Vec::new();
        for cluster in [&clusters.a, &clusters.b] {
            for node in cluster.workers() {
                let settings = format!("{}\n{}", log_level(), cluster.admit_agent(node)?);
                let (bin_dir, store) = (default_bin_dir(), store.clone());
                all.push((node, InstallOptions { bin_dir, store, settings }));
            }
        }
        // Most of an installation is waiting.
        thread::scope(|scope| {
            let works: Vec<_> =
                all.iter().map(|(node, options)| scope.spawn(|| node.install(options))).collect();
            works.into_iter().try_for_each(|work| match work.join() {
                Ok(installed) => installed,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        Ok(clusters)
    }

    /// The workers of both.
    pub fn workers(&self) -> impl Iterator<Item = &Node> + Clone {
        self.a.workers().iter().chain(self.b.workers())
    }
}

/// The address of a pod.
///
/// # Errors
/// It has none.
pub fn address(cluster: &Cluster, pod: &str) -> Result<IpAddr> {
    let found = cluster.get(&["pod", pod])?;
    let text =
        found["status"]["podIP"].as_str().with_context(|| format!("{pod} has no address"))?;
    Ok(text.parse()?)
}

/// How the only container of a pod is: its id, and how often it was started again.
///
/// # Errors
/// The pod has none.
pub fn instance(cluster: &Cluster, pod: &str) -> Result<(String, u64)> {
    let found = cluster.get(&["pod", pod])?;
    let status = &found["status"]["containerStatuses"][0];
    let id = status["containerID"].as_str().with_context(|| format!("{pod} runs nothing yet"))?;
    Ok((id.to_owned(), status["restartCount"].as_u64().unwrap_or_default()))
}

/// The number that a container of this id (as the kubelet writes it) keeps in `/progress`, whether containerd runs or not.
///
/// # Errors
/// There is none.
pub fn progress(node: &Node, container: &str) -> Result<u64> {
    let id = container.trim_start_matches("containerd://");
    let text = node.read_file(&format!("{BUNDLES}/{id}/rootfs{PROGRESS}"))?;
    let number = text.split_whitespace().find_map(|word| word.parse().ok());
    number.with_context(|| format!("no number in {text:?}"))
}

/// What a web server answers at this address, asked from the host.
///
/// # Errors
/// It does not answer well within a minute.
pub fn http(address: SocketAddr) -> Result<String> {
    let soon = Duration::from_secs(60);
    let mut stream = TcpStream::connect_timeout(&address, soon)?;
    stream.set_read_timeout(Some(soon))?;
    write!(stream, "GET / HTTP/1.0\r\n\r\n")?;
    // The server closes without having read all, which the kernel tells as a reset: behind all that was said before.
    let mut answer = vec![];
    let mut part = [0; 4096];
    let end = loop {
        match stream.read(&mut part) {
            Ok(more @ 1..) => answer.extend(part.iter().take(more)),
            end => break end,
        }
    };
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("{address} answered {answer:?} and ended with {end:?}");
    };
    ensure!(head.lines().next().is_some_and(|line| line.contains(" 200 ")), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    ensure!(length.and_then(|text| text.trim().parse().ok()) == Some(body.len()), "{answer}");
    Ok(body.trim().to_owned())
}

/// `kubectl port-forward` to the web server of a pod; ends when dropped.
#[derive(Debug)]
pub struct Forwarded {
    /// Where the host reaches it.
    pub address: SocketAddr,
    child: Child,
    /// `kubectl` prints a line for each connection, and ends when nobody can read it.
    _printed: BufReader<ChildStdout>,
}

impl Forwarded {
    /// Begins.
    ///
    /// # Errors
    /// `kubectl` says no address.
    pub fn to(cluster: &Cluster, object: &str, port: u16) -> Result<Self> {
        let ports = format!(":{port}");
        let words = ["port-forward", "--address", "127.0.0.1", object, &ports];
        let mut child = cluster.kubectl_command(&words)?.stdout(Stdio::piped()).spawn()?;
        let mut printed = BufReader::new(child.stdout.take().context("a pipe")?);
        let mut line = String::new();
        printed.read_line(&mut line)?;
        let told = line.split_whitespace().find_map(|word| word.parse().ok());
        let Some(address) = told else {
            // Both fail only when it has ended.
            let _ = (child.kill(), child.wait());
            bail!("kubectl port-forward said {line:?}");
        };
        Ok(Self { address, child, _printed: printed })
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until a worker has nothing of pods of Godwit's shim: it must have none.
///
/// # Errors
/// Something is left, for too long.
pub fn wait_clean(node: &Node) -> Result<()> {
    let (shims, images, fences) = (names::SHIM_SOCKETS, names::IMAGES_DIR, names::FENCES);
    let run = names::RUN_DIR;
    let look = format!(
        "pgrep --list-full 'containerd-shim|criu|godwit-pager' || true
        for dir in {shims} {images} {fences} {run}/restores {BUNDLES} /run/containerd/runc/k8s.io; do
            test ! -d $dir || find $dir -mindepth 1
        done
        find /sys/fs/cgroup -mindepth 2 -type d -path '*/kubepods/*' -name 'pod*'
        grep --extended-regexp 'io.containerd.runtime.v2.task|{run}/|{images}' /proc/self/mountinfo || true"
    );
    wait::until(&format!("nothing to be left on {}", node.name()), SOON, || {
        match node.sh(&look) {
            Ok(left) if left.is_empty() => Ok(()),
            Ok(left) => Err(left),
            Err(error) => Err(error.to_string()),
        }
    })?;
    Ok(())
}
