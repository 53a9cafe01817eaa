//! A node's agent, started anew by a test.

use anyhow::{Context as _, Result};
use godwit_lab::{AgentOptions, Node};
use godwit_types::names;

/// Changes how fast the agent of a node may read, by lines at the end of its configuration: the store's section is the last one there.
///
/// # Errors
/// It does not end with `from`; as [`restart_agent`].
pub fn read_at(node: &Node, from: &str, to: &str) -> Result<()> {
    let text = node.read_file(names::AGENT_CONFIG)?;
    let text = text.strip_suffix(from).context("the end of the configuration")?;
    node.write_file(names::AGENT_CONFIG, format!("{text}{to}"))?;
    restart_agent(node)
}

/// Kills it and starts it again.
///
/// # Errors
/// It does not serve.
pub fn restart_agent(node: &Node) -> Result<()> {
    node.kill_agent()?;
    Ok(node.start_agent(&AgentOptions::default())?)
}
