//! What the scheduler and people read about this node: that Godwit serves pods here, and between which nodes their memory can move.

use std::time::Duration;

use godwit_engine::{Node, compat, sentence};
use godwit_types::names;
use k8s_openapi::api::core::v1::{Node as Object, NodeCondition};
use serde_json::json;
use tokio::time::timeout;

use super::api::Api;

/// Between two looks at the stores.
const EVERY: Duration = Duration::from_secs(20);
/// For somebody who waits for what is written.
const PATIENCE: Duration = Duration::from_secs(10);
/// A condition that nobody renews is old news.
const HEARTBEATS: u32 = 15;

/// How the node is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    /// Pods may come.
    takes: bool,
    /// Why the condition is not true, in a word.
    fault: Option<&'static str>,
    message: String,
}

/// Keeps label and condition for ever.
pub(super) async fn forever(node: &Node, api: &Api) {
    let mut written: Option<State> = None;
    let mut ticks = tokio::time::interval(EVERY);
    let mut age = 0;
    loop {
        ticks.tick().await;
        age += 1;
        let takes = api.takes_pods().await;
        let state = of(node, *takes);
        if written.as_ref() == Some(&state) && age < HEARTBEATS {
            continue;
        }
        match write(node, api, &state).await {
            Ok(()) => {
                written = Some(state);
                age = 0;
            }
            Err(error) => {
                tracing::warn!(%error, "this node's label and condition cannot be written yet")
            }
        }
    }
}

/// Writes them now.
///
/// # Errors
/// The API server is away, or does not permit it.
pub(crate) async fn take_pods(node: &Node, api: &Api, takes: bool) -> Result<(), String> {
    let written = async {
        let mut now = api.takes_pods().await;
        *now = takes;
        write(node, api, &of(node, takes)).await
    };
    match timeout(PATIENCE, written).await {
        Ok(written) => written.map_err(|error| sentence(&error)),
        Err(_) => Err(format!("no answer of the API server within {PATIENCE:?}")),
    }
}

/// Ready is a node whose stores are open: pods that want to go on need them.
fn of(node: &Node, takes: bool) -> State {
    let away: Vec<String> = node
        .stores
        .status()
        .into_iter()
        .filter(|store| store.state != "ready")
        .map(|store| format!("store {}: {}", store.name, store.state))
        .collect();
    let state = |fault, message: String| State { takes, fault, message };
    match (takes, away.is_empty()) {
        (false, _) => state(Some("Leaves"), "Godwit is taken off this node".to_owned()),
        (true, false) => state(Some("StoreAway"), away.join("; ")),
        (true, true) => state(None, "the agent serves, and its stores are open".to_owned()),
    }
}

async fn write(node: &Node, api: &Api, state: &State) -> kube::Result<()> {
    let labels = json!({"metadata": {"labels": {
        (names::READY): state.takes.then_some("true"),
        (names::CPU_CLASS): compat::cpu_class(&node.compat),
    }}});
    let before = api.patch_node(labels, false).await?;
    let status = if state.fault.is_none() { "True" } else { "False" };
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut written = json!({
        "type": names::CONDITION,
        "status": status,
        "reason": state.fault.unwrap_or("StoresOpen"),
        "message": state.message,
        "lastHeartbeatTime": now,
    });
    if condition(&before).is_none_or(|before| before.status != status) {
        written["lastTransitionTime"] = json!(now);
    }
    api.patch_node(json!({"status": {"conditions": [written]}}), true).await?;
    Ok(())
}

/// Ours, that this agent has written or one before it.
pub(super) fn condition(node: &Object) -> Option<&NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|one| one.type_ == names::CONDITION)
}
