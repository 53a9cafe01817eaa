//! What happens to a pod while only some of its containers are there, or as they are let go.

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::clean;
use godwit_e2e::container::{Container, SOON};
use godwit_lab::{AgentOptions, Image, Node, wait};
use godwit_types::names;
use godwit_wire::failpoint::VARIABLE;

use super::{POD, stopped};

fn restart_agent(node: &Node, failpoint: Option<&str>) -> Result<()> {
    node.kill_agent()?;
    let env = failpoint.map(|site| (VARIABLE.to_owned(), site.to_owned())).into_iter().collect();
    node.start_agent(&AgentOptions { env })?;
    Ok(())
}

fn wait_stopped(one: &Container, node: &Node) -> Result<()> {
    let stopped = || one.listed(node).is_ok_and(|listed| listed == "STOPPED");
    Ok(wait::until_true(&format!("{} to end", one.id), SOON, stopped)?)
}

#[test]
fn a_restart_of_containerd_while_a_container_is_held_changes_nothing() -> Result<()> {
    let (bed, pod, id) = stopped()?;
    pod.answers.restore(&bed.n2, &id)?;
    let held = pod.answers.progress(&bed.n2)?;
    bed.n2.kill_containerd()?;
    bed.n2.start_containerd()?;
    ensure!(pod.answers.listed(&bed.n2)? == "RUNNING");
    ensure!(pod.answers.progress(&bed.n2)? == held, "it runs before the other is there");
    pod.asks.restore(&bed.n2, &id)?;
    pod.talk(&bed.n2)?;
    pod.remove(&bed.n2)
}

#[test]
fn an_agent_that_dies_while_the_last_container_joins_ends_the_attempt_and_nothing_is_lost()
-> Result<()> {
    let (bed, pod, mut id) = stopped()?;
    let node = &bed.n2;
    // Of the second container: its question is read, its plan is made, and it is being restored.
    for site in ["phase-check:2", "phase-stage:2", "phase-restore:2"] {
        restart_agent(node, Some(site))?;
        pod.answers.restore(node, &id)?;
        let _joins = pod.asks.attach(node, Some(&id))?;
        wait::until_true("the agent to die", SOON, || node.agent_pid().is_none())?;
        wait_stopped(&pod.answers, node).with_context(|| site)?;
        restart_agent(node, None)?;
        // The other one is asked for again by itself, and waits for this one.
        pod.answers.remove(node)?;
        pod.answers.restore(node, &id).with_context(|| site)?;
        pod.talk(node).with_context(|| site)?;
        id = pod.asks.checkpoint(node, &["--stop"])?.checkpoint.to_string();
        pod.remove(node)?;
    }
    Ok(())
}

/// The pod's sandbox, which lives on when containers end, and its shim with it.
fn sandbox() -> Container {
    Container::new(POD, Image::Shell, &["sleep", "infinity"]).with(&[
        "--annotation",
        &format!("{}={POD}", names::SANDBOX_ID),
        "--annotation",
        &format!("{}=sandbox", names::CONTAINER_TYPE),
    ])
}

/// Process ids of the CRIUs that hold what they have restored, the oldest first.
fn criu(node: &Node) -> Result<Vec<String>> {
    let list = node.sh("pgrep --exact criu || true")?;
    Ok(list.lines().map(str::to_owned).collect())
}

#[test]
fn a_criu_that_dies_as_it_lets_its_container_go_costs_the_pod_nothing() -> Result<()> {
    let (bed, pod, id) = stopped()?;
    let node = &bed.n2;
    let sandbox = sandbox();
    sandbox.run(node)?;
    // Both are held, the take-over is written, and nobody has told them yet.
    restart_agent(node, Some("put-take-over.answered"))?;
    pod.answers.restore(node, &id)?;
    let before = pod.answers.progress(node)?;
    let mut last = pod.asks.attach(node, Some(&id))?;
    wait::until_true("the agent to die", SOON, || node.agent_pid().is_none())?;
    let all = criu(node)?;
    let [_, second] = &all[..] else { anyhow::bail!("{all:?} hold two containers") };
    node.run(&["kill", "-STOP", second])?;
    restart_agent(node, None)?;
    let runs = || criu(node).is_ok_and(|left| left == [second.as_str()]);
    wait::until_true("the first one to be let go", SOON, runs)?;
    node.run(&["kill", "-KILL", second])?;
    last.child().wait()?;
    wait_stopped(&pod.answers, node)?;
    // In the same sandbox, as the kubelet starts them again: the same point, not the image.
    pod.all().into_iter().try_for_each(|one| one.remove(node))?;
    for one in pod.all() {
        one.restore(node, &id)?;
    }
    ensure!(pod.answers.progress(node)? >= before, "it began anew");
    pod.talk(node)?;
    pod.all().into_iter().try_for_each(|one| one.remove(node))?;
    sandbox.remove(node)?;
    clean::wait(node)
}
