//! How an agent starts: alone on its node.

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::container::Container;
use godwit_lab::{
    AgentOptions, Image, InstallOptions, Lab, LabOptions, Node, StoreChoice, default_bin_dir,
};
use godwit_types::names;

fn sleeper() -> Container {
    Container::new("web", Image::Shell, &["sleep", "infinity"])
}

fn node(lab: &Lab, store: StoreChoice) -> Result<Node> {
    let node = lab.node("n1")?;
    let settings = String::new();
    node.install(&InstallOptions { bin_dir: default_bin_dir(), store, settings })?;
    node.import(Image::Shell)?;
    Ok(node)
}

#[test]
fn a_second_agent_is_refused_and_the_first_one_goes_on() -> Result<()> {
    let lab = Lab::up(&LabOptions::for_tests().nodes(&["n1"]))?;
    let node = node(&lab, StoreChoice::Directory("/lab/shared/store".to_owned()))?;
    let web = sleeper();
    web.run(&node)?;
    let agent = ["godwit-agent", "--config", names::AGENT_CONFIG];
    let first = node.agent_pid().context("an agent")?;
    let second = node.exec(&agent)?;
    let told = String::from_utf8_lossy(&second.stderr);
    let words = format!("another godwit-agent serves this node (process {first};");
    ensure!(!second.status.success() && told.contains(&words), "{told}");
    node.run(&[&agent[..], &["--check"]].concat())?;
    let id = web.checkpoint(&node, &["--stop"])?.checkpoint.to_string();
    web.remove(&node)?;
    web.restore(&node, &id)?;
    web.wait_state(&node, "running")?;
    // One that was killed holds nothing.
    node.kill_agent()?;
    Ok(node.start_agent(&AgentOptions::default())?)
}
