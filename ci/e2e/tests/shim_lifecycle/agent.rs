//! The shim and an agent that refuses, says nonsense, or is told of a death. The agent here is the test itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use godwit_lab::{Image, Node, wait};
use godwit_types::{Code, names};
use godwit_wire::agent_op::{
    FromAgent, FromAgentBody, Plan, Settled, TaskGone, ToAgent, ToAgentBody,
};
use godwit_wire::{Listener, Refusal, Socket};

use super::kit::{Bed, RUNTIME, SOON, exists, kill};

/// Less than a shim that asks again would take: it does for 100 s.
const AT_ONCE: Duration = Duration::from_secs(50);

type Asked = Socket<FromAgent, ToAgent>;

/// Listens where shims look for the agent of the node.
fn agent(node: &Node) -> Result<Listener> {
    Ok(Listener::bind(&node.host_path(names::AGENT_OP_SOCKET)?)?)
}

/// The next shim that asks.
fn asked(agent: &Listener) -> Result<(Asked, ToAgentBody)> {
    let socket: Asked = agent.accept_timeout(SOON)?;
    socket.greet(SOON)?;
    let question = socket.recv_timeout(SOON)?.context("a question")?;
    Ok((socket, question.body))
}

/// A container that shall be restored; made, not started.
fn created(bed: &Bed, id: &str) -> Result<()> {
    let annotation = format!("{}=latest", names::RESTORE_FROM);
    let image = Image::Shell.reference();
    let words = ["create", "--runtime", RUNTIME, "--annotation", &annotation, image, id];
    bed.node.ctr(&[&["container"], &words[..]].concat()).map(drop).map_err(Into::into)
}

/// Starts it with an agent that answers so; returns what `ctr` says.
fn start_refused(bed: &Bed, id: &str, answer: impl Into<FromAgentBody>) -> Result<String> {
    let agent = agent(&bed.node)?;
    let began = Instant::now();
    let start = bed.node.spawn(&["ctr", "task", "start", "--detach", id])?;
    let (socket, question) = asked(&agent)?;
    ensure!(matches!(question, ToAgentBody::BeginRestore(_)), "{question:?}");
    socket.send(answer, &[])?;
    let output = start.wait_with_output()?;
    ensure!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    ensure!(!output.status.success(), "{output:?}");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn no_restore_is_left(bed: &Bed, id: &str) -> Result<()> {
    bed.node.ctr(&["container", "delete", id])?;
    bed.wait_clean()?;
    let left = bed.node.sh("find /run/godwit/restores -mindepth 1 2>/dev/null || true")?;
    ensure!(left.is_empty(), "{left}");
    Ok(())
}

#[test]
fn a_refused_restore_is_told_and_can_be_removed_at_once() -> Result<()> {
    let bed = Bed::new()?;
    created(&bed, "no")?;
    let no = Refusal::new(Code::Precondition, "web still runs on node-2; stop it there first");
    let said = start_refused(&bed, "no", no)?;
    ensure!(said.contains("web still runs on node-2; stop it there first"), "{said}");
    let began = Instant::now();
    bed.node.exec(&["ctr", "task", "delete", "--force", "no"])?;
    ensure!(began.elapsed() < AT_ONCE && bed.listed("no")? == "ABSENT", "{:?}", began.elapsed());
    no_restore_is_left(&bed, "no")
}

#[test]
fn an_answer_that_cannot_be_read_ends_the_start_at_once_with_a_sentence() -> Result<()> {
    let bed = Bed::new()?;
    created(&bed, "nonsense")?;
    let plan = Plan { checkpoint: "no checkpoint id".into(), ..Default::default() };
    let said = start_refused(&bed, "nonsense", plan)?;
    ensure!(said.contains("could not read the agent's answer"), "{said}");
    ensure!(said.contains("no checkpoint id"), "{said}");
    bed.node.exec(&["ctr", "task", "delete", "--force", "nonsense"])?;
    no_restore_is_left(&bed, "nonsense")
}

#[test]
fn a_start_that_waits_for_the_agent_is_given_up_for_a_kill() -> Result<()> {
    let bed = Bed::new()?;
    created(&bed, "waits")?;
    let began = Instant::now();
    let mut start = bed.node.spawn(&["ctr", "task", "start", "--detach", "waits"])?;
    bed.wait_listed("waits", "CREATED")?;
    // Nobody listens; it is asked for again and again.
    bed.node.ctr(&["task", "kill", "--signal", "SIGTERM", "waits"])?;
    wait::until_true("the start to end", SOON, || {
        start.child().try_wait().is_ok_and(|ended| ended.is_some())
    })?;
    bed.node.exec(&["ctr", "task", "delete", "--force", "waits"])?;
    ensure!(began.elapsed() < AT_ONCE && bed.listed("waits")? == "ABSENT", "{:?}", began.elapsed());
    no_restore_is_left(&bed, "waits")
}

#[test]
fn the_agent_hears_of_a_container_whose_shim_was_killed_and_its_fence_goes() -> Result<()> {
    let bed = Bed::new()?;
    // Longer than any test, and another than the node's own.
    bed.run(&["--detach"], "owned", &["sleep", "87654"])?;
    // As the first checkpoint writes it.
    let fence = r#"{"format":"godwit.fence/1","store":"default","tenant":"_node","lineage":"uid/x",
        "incarnation":"01ARZ3NDEKTSV4RRFFQ69G5FAV","state":"owned","lived":true}"#;
    let path = format!("{}/default+owned", names::FENCES);
    bed.node.run(&["mkdir", "-p", names::FENCES])?;
    bed.node.write_file(&path, fence)?;
    let agent = agent(&bed.node)?;
    kill(&bed.node, bed.shims()?[0])?;
    let (socket, told) = asked(&agent)?;
    let ToAgentBody::TaskGone(TaskGone { wanted, fence, .. }) = told else { bail!("{told:?}") };
    ensure!(!wanted, "nobody asked for this end");
    // Looked at from outside, which is quick: an answer is waited for.
    let lives = std::fs::read_dir(bed.node.host_path("/proc")?)?.flatten().any(|process| {
        let words = std::fs::read(process.path().join("cmdline"));
        words.is_ok_and(|words| words.starts_with(b"sleep\087654"))
    });
    ensure!(!lives, "a death is told only when nobody lives");
    ensure!(String::from_utf8_lossy(&fence).contains(r#""gone":"lost""#), "{fence:?}");
    ensure!(exists(&bed.node, &path)?, "it goes only when its death is settled");
    socket.send(Settled { remove_fence: true }, &[])?;
    bed.wait_listed("owned", "ABSENT")?;
    ensure!(!exists(&bed.node, &path)?);
    bed.node.ctr(&["container", "delete", "owned"])?;
    drop(agent);
    bed.wait_clean()
}
