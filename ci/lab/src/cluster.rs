//! A Kubernetes cluster of a lab, as its users and its tests have it: `kubectl`, its nodes by name, waiting for what it says.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::addresses::ClusterName;
use crate::command::{run, run_with_input, tail};
use crate::error::{LabError, Result};
use crate::node::{Node, Role, Service};
use crate::pki::Pki;
use crate::{kubernetes, wait};

/// For anything to happen on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// How much of a description is shown.
const SHOWN: usize = 3000;

/// A handle on one cluster; cheap to clone, valid across reboots of its nodes.
#[derive(Debug, Clone)]
pub struct Cluster {
    name: ClusterName,
    admin: PathBuf,
    cache: PathBuf,
    control_plane: Node,
    workers: Vec<Node>,
}

impl Cluster {
    /// The cluster of these nodes; `None` without a control plane among them.
    pub(crate) fn of(name: ClusterName, lab: &Path, nodes: Vec<Node>) -> Option<Self> {
        let control_plane =
            nodes.iter().find(|node| node.role() == Role::ControlPlane(name))?.clone();
        let is_worker = |node: &Node| matches!(node.role(), Role::Worker(of, _) if of == name);
        let workers = nodes.into_iter().filter(is_worker).collect();
        let admin = Pki::of_cluster(lab, name).admin();
        let cache = admin.with_file_name("cache");
        Some(Self { name, admin, cache, control_plane, workers })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> ClusterName {
        self.name
    }

    /// The kubeconfig of who may do everything, on the host.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.admin
    }

    /// The node with etcd, API server, controller manager and scheduler.
    #[must_use]
    pub fn control_plane(&self) -> &Node {
        &self.control_plane
    }

    /// The nodes with a kubelet, by name.
    #[must_use]
    pub fn workers(&self) -> &[Node] {
        &self.workers
    }

    /// `kubectl` with these words, on the host, by who may do everything. Streams are as the caller sets them.
    ///
    /// # Errors
    /// When it has to be built and cannot.
    pub fn kubectl_command(&self, words: &[&str]) -> Result<Command> {
        let mut command = Command::new(kubernetes::ensure_built()?.join("kubectl"));
        command.args(words).env("KUBECONFIG", &self.admin).env("KUBECACHEDIR", &self.cache);
        // The API server is on this machine, whatever is between it and the world.
        for proxy in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        Ok(command)
    }

    /// Runs `kubectl`, which has to succeed, and returns what it prints.
    ///
    /// # Errors
    /// [`LabError::Failed`] with what it says.
    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        run(&mut self.kubectl_command(words)?)
    }

    /// Has these objects, in YAML or JSON, be as they are told.
    ///
    /// # Errors
    /// [`LabError::Failed`] with what the API server says.
    pub fn apply(&self, objects: &str) -> Result<()> {
        self.send(&["apply", "--filename", "-"], objects).map(drop)
    }

    /// Runs `kubectl`, which has to succeed, with this as its standard input, and returns what it prints.
    ///
    /// # Errors
    /// [`LabError::Failed`] with what it says.
    pub fn send(&self, words: &[&str], input: &str) -> Result<String> {
        run_with_input(&mut self.kubectl_command(words)?, input)
    }

    /// What `kubectl get` says of these objects.
    ///
    /// # Errors
    /// [`LabError::Failed`] when there are none, or the API server does not answer.
    pub fn get(&self, objects: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "--output", "json"][..], objects].concat())?;
        serde_json::from_str(&text).map_err(|error| LabError::Record {
            path: PathBuf::from(objects.join(" ")),
            why: error.to_string(),
        })
    }

    /// Waits until this is true of the objects, as `kubectl wait --for` names it: `condition=Ready`, `delete`,
    /// `jsonpath={.status.phase}=Running`. Objects that are not there yet are waited for, too.
    ///
    /// # Errors
    /// With the description of the objects when it does not become true in time.
    pub fn wait_for(&self, objects: &[&str], condition: &str) -> Result<()> {
        let (goal, timeout) =
            (format!("--for={condition}"), format!("--timeout={}s", PATIENCE.as_secs()));
        let words = [&["wait", &goal, &timeout][..], objects].concat();
        let come = wait::until(&format!("{} to be there", objects.join(" ")), PATIENCE, || {
            match self.kubectl(&words) {
                Err(error) if is_absent(&error) => Err(error),
                said => Ok(said),
            }
        });
        come.and_then(|said| said).map(drop).map_err(|late| self.describe(objects, &late))
    }

    /// Asks `kubectl get` until `look` returns something; what it says else is told when it does not in time.
    ///
    /// # Errors
    /// With the description of the objects when it does not in time.
    pub fn wait_until<T>(
        &self,
        what: &str,
        objects: &[&str],
        mut look: impl FnMut(&Value) -> std::result::Result<T, String>,
    ) -> Result<T> {
        let found = wait::until(what, PATIENCE, || {
            self.get(objects).map_err(|error| error.to_string()).and_then(|value| look(&value))
        });
        found.map_err(|late| self.describe(objects, &late))
    }

    /// Waits until every worker is ready for pods.
    ///
    /// # Errors
    /// With the nodes' description when it is not in time.
    pub fn wait_ready(&self) -> Result<()> {
        self.workers.iter().try_for_each(|node| self.wait_node_ready(node))
    }

    /// Has an API server that was ended serve again. Who schedules and controls starts anew, as where a lease is lost:
    /// clients that were refused come back after up to a minute only.
    ///
    /// # Errors
    /// When one of them does not start, or a worker is not ready in time.
    pub fn start_api_server(&self) -> Result<()> {
        self.control_plane.start(Service::ApiServer)?;
        for service in [Service::ControllerManager, Service::Scheduler] {
            self.control_plane.kill(service)?;
            self.control_plane.start(service)?;
        }
        self.wait_ready()
    }

    /// How many workers are ready for pods now.
    ///
    /// # Errors
    /// When the API server does not answer within some seconds.
    pub fn ready_workers(&self) -> Result<usize> {
        let ready = r#"jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}"#;
        let text = self.kubectl(&["get", "nodes", "--request-timeout=5s", "--output", ready])?;
        Ok(text.split_whitespace().filter(|&state| state == "True").count())
    }

    /// Waits until this worker is ready for pods.
    ///
    /// # Errors
    /// With the node's description when it is not in time.
    pub fn wait_node_ready(&self, node: &Node) -> Result<()> {
        self.wait_for(&[&format!("node/{}", node.name())], "condition=Ready")
    }

    fn describe(&self, objects: &[&str], late: &LabError) -> LabError {
        let told = self.kubectl(&[&["describe"][..], objects].concat());
        LabError::Service {
            service: format!("{} in cluster {}", objects.join(" "), self.name),
            why: late.to_string(),
            log: tail(told.unwrap_or_default().trim(), SHOWN).to_owned(),
        }
    }
}

/// `kubectl wait` does not wait for what is to come.
fn is_absent(error: &LabError) -> bool {
    let text = error.to_string();
    text.contains("NotFound") || text.contains("no matching resources found")
}
