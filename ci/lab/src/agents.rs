//! Agents as members of a cluster: what `install/kubernetes/godwit.yaml` gives them, and a token that is bound to their node.

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::error::{LabError, Result};
use crate::node::Node;
use crate::places;

/// What a cluster needs once.
const MANIFEST: &str = include_str!("../../../install/kubernetes/godwit.yaml");
/// Where an agent finds its API server.
const KUBECONFIG: &str = "/etc/godwit/kubeconfig";
/// A lab is gone by then.
const LASTS: &str = "--duration=24h";

impl Cluster {
    /// Lets the agent of a worker into the cluster. Returns the section of its configuration that says so.
    ///
    /// # Errors
    /// [`LabError::Failed`] when the API server does not take the objects or gives no token.
    pub fn admit_agent(&self, node: &Node) -> Result<String> {
        self.apply(MANIFEST)?;
        let token = self.agent_token(node.name())?;
        node.write_file(KUBECONFIG, self.with_token(&token)?)?;
        Ok(format!("[kubernetes]\ncluster = \"{}\"\nkubeconfig = \"{KUBECONFIG}\"\n", self.name()))
    }

    /// A token of the agents' service account that is bound to this node.
    ///
    /// # Errors
    /// [`LabError::Failed`] when there is no such node.
    pub fn agent_token(&self, node: &str) -> Result<String> {
        let bound = format!("--bound-object-name={node}");
        let words = ["create", "token", "godwit-agent", "--namespace=godwit-system", LASTS];
        let to_node = ["--bound-object-kind=Node", &bound];
        Ok(self.kubectl(&[&words[..], &to_node].concat())?.trim().to_owned())
    }

    /// The kubeconfig of who may do everything, as of whoever has this token.
    ///
    /// # Errors
    /// When the lab's record of it cannot be read.
    pub fn with_token(&self, token: &str) -> Result<String> {
        let text = places::read(self.kubeconfig())?;
        let refused = |why| LabError::Refused(format!("{}: {why}", self.kubeconfig().display()));
        let mut config: Value =
            serde_json::from_str(&text).map_err(|why| refused(why.to_string()))?;
        config["users"][0]["user"] = json!({"token": token});
        Ok(format!("{config:#}\n"))
    }
}
