//! What the node is and does, for a person.

use std::path::Path;

use godwit_ownership::Fence;
use godwit_types::{PodKey, names};
use godwit_wire::api::{AgentStatus, PodStatus};
use godwit_wire::shim_op::PodState;

use crate::look::shims;
use crate::node::Node;
use crate::shim::Shim;

/// Asks every shim of the node.
pub async fn of(node: &Node) -> AgentStatus {
    let mut pods = Vec::new();
    for key in shims(Path::new(names::SHIM_SOCKETS)) {
        pods.push(pod(&key).await);
    }
    AgentStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: node.identity.node.clone(),
        criu: format!("{} {}", node.launcher.criu.display(), node.compat.criu),
        stores: node.stores.status(),
        pods,
        operations: node.progress.status(),
        restored: node.restored.last(),
        budget: (node.budget.used().0, node.budget.total().0),
    }
}

async fn pod(key: &PodKey) -> PodStatus {
    let asked = async { Shim::connect(key).await?.attach().await };
    match asked.await {
        Ok(status) => {
            let fence = Fence::decode(&status.fence).ok();
            PodStatus {
                pod: key.to_string(),
                lineage: fence.as_ref().map(|f| f.at.lineage.to_string()).unwrap_or_default(),
                fence: fence.map(|f| word(&f)).unwrap_or_else(|| "none".to_owned()),
                shim: state(status.state()).to_owned(),
            }
        }
        Err(error) => PodStatus {
            pod: key.to_string(),
            lineage: String::new(),
            fence: "unknown".to_owned(),
            shim: error.to_string(),
        },
    }
}

fn word(fence: &Fence) -> String {
    format!("{:?}", fence.state).to_lowercase()
}

fn state(state: PodState) -> &'static str {
    match state {
        PodState::Unspecified => "unknown",
        PodState::Created => "created",
        PodState::Running => "running",
        PodState::Paused => "paused",
        PodState::Checkpointing => "checkpointing",
        PodState::Frozen => "frozen",
        PodState::Sealed => "sealed",
        PodState::Moved => "moved",
        PodState::Restoring => "restoring",
        PodState::Held => "held",
        PodState::Hydrating => "hydrating",
        PodState::Exited => "exited",
    }
}
