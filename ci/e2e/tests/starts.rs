//! How an agent starts: alone on its node, and without waiting for its stores.

use std::os::unix::net::{UnixDatagram, UnixStream};

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::container::{Container, SOON};
use godwit_lab::{
    AgentOptions, Image, InstallOptions, Lab, LabOptions, Node, StoreChoice, default_bin_dir,
};
use godwit_types::names;

/// Where systemd would listen.
const NOTIFY: &str = "/run/notify.sock";

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

#[test]
fn shims_are_served_before_a_store_answers_and_who_needs_it_waits() -> Result<()> {
    let lab = Lab::up(&LabOptions::for_tests().nodes(&["n1"]))?;
    let server = lab.s3()?;
    let store = StoreChoice::Bucket { server: server.clone(), path: "godwit/starts".to_owned() };
    let node = node(&lab, store)?;
    let web = sleeper();
    web.run(&node)?;
    let id = web.checkpoint(&node, &["--stop"])?.checkpoint.to_string();
    web.remove(&node)?;
    node.kill_agent()?;

    let systemd = UnixDatagram::bind(node.host_path(NOTIFY)?)?;
    systemd.set_read_timeout(Some(SOON))?;
    let options = AgentOptions { env: vec![("NOTIFY_SOCKET".to_owned(), NOTIFY.to_owned())] };
    server.pause();
    std::thread::scope(|scope| {
        let started = scope.spawn(|| node.start_agent(&options));
        let mut told = [0; 64];
        let ready = systemd.recv(&mut told).context("the agent is ready");
        let people = node.host_path(names::AGENT_API_SOCKET).map(UnixStream::connect);
        let restored = scope.spawn(|| web.restore(&node, &id));
        server.resume();
        ensure!(told.get(..ready?) == Some(&b"READY=1"[..]), "{told:?}");
        ensure!(people?.is_err(), "people are served while the store does not answer");
        let ended = "a thread ended early";
        started.join().map_err(|_| anyhow::anyhow!(ended))??;
        restored.join().map_err(|_| anyhow::anyhow!(ended))?
    })?;
    web.wait_state(&node, "running")
}
