//! The agent is killed at every step of a checkpoint and of a restore: afterwards there is one running copy or one recovery
//! point, and the log agrees. Needs programs that were built with the feature `failpoints` of `godwit-wire`, as `make` does.

use anyhow::{Context as _, Result, bail, ensure};
use godwit_e2e::bed::{Bed, Store};
use godwit_e2e::container::{Container, SOON};
use godwit_lab::{AgentOptions, Image, LabOptions, Node, wait};
use godwit_wire::failpoint::VARIABLE;

const CHECKPOINT_SITES: [&str; 13] = [
    "phase-preflight",
    "begin.answered",
    "phase-prepare",
    "phase-pre-copy",
    "phase-freeze",
    "phase-upload",
    "phase-commit",
    "seal.before",
    "seal.answered",
    "put-stop.before",
    "put-stop.answered",
    "stopped.answered",
    "phase-finish",
];

const RESTORE_SITES: [&str; 9] = [
    "phase-check",
    "phase-stage",
    "phase-restore",
    "plan.answered",
    "committing.answered",
    "put-take-over.before",
    "put-take-over.answered",
    "resume.answered",
    "phase-hydrate",
];

fn counter(id: &str) -> Container {
    let script = "i=0; while :; do i=$((i+1)); echo $i >/progress; sleep 0.05; done";
    Container::new(id, Image::Shell, &["sh", "-c", script])
}

fn restart_agent(node: &Node, failpoint: Option<&str>) -> Result<()> {
    node.kill_agent()?;
    let env = failpoint.map(|site| (VARIABLE.to_owned(), site.to_owned())).into_iter().collect();
    node.start_agent(&AgentOptions { env })?;
    Ok(())
}

fn wait_agent_dead(node: &Node, site: &str) -> Result<()> {
    wait::until_true(&format!("the agent to die at {site}"), SOON, || node.agent_pid().is_none())?;
    Ok(())
}

/// What the agent and containerd agree on, once nothing is under way: whether it runs there.
fn settled(container: &Container, node: &Node) -> Result<bool> {
    Ok(wait::until("the pod to be settled", SOON, || {
        let look = || -> Result<(String, String)> {
            Ok((container.listed(node)?, container.state(node)?))
        };
        match look() {
            Ok((listed, state)) if listed == "RUNNING" && state == "running" => Ok(true),
            Ok((listed, _)) if listed == "STOPPED" => Ok(false),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(format!("{error:#}")),
        }
    })?)
}

/// The newest checkpoint of this container.
fn newest(container: &Container, node: &Node) -> Result<String> {
    let json: serde_json::Value =
        serde_json::from_str(&node.run(&["godwit", "list", "--output", "json"])?)?;
    let all = json["checkpoints"].as_array().context("checkpoints")?;
    let mine = all.iter().find(|c| c["pod"] == container.id.as_str());
    let id = mine.and_then(|c| c["id"].as_str()).context("no recovery point")?;
    Ok(id.to_owned())
}

#[test]
fn at_every_step_of_a_checkpoint() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    for (n, site) in CHECKPOINT_SITES.into_iter().enumerate() {
        let web = counter(&format!("web{n}"));
        checkpoint_dies(&bed, &web, site).with_context(|| format!("killed at {site}"))?;
    }
    Ok(())
}

fn checkpoint_dies(bed: &Bed, web: &Container, site: &str) -> Result<()> {
    web.run(&bed.n1)?;
    restart_agent(&bed.n1, Some(site))?;
    let told = web.checkpoint(&bed.n1, &["--stop"]);
    wait_agent_dead(&bed.n1, site)?;
    ensure!(told.is_err(), "the command succeeded without an agent");
    restart_agent(&bed.n1, None)?;
    if settled(web, &bed.n1)? {
        // It runs: nobody else may have it, and it can be stopped properly.
        web.checkpoint(&bed.n1, &["--stop"])?;
        ensure!(!settled(web, &bed.n1)?);
    }
    // It was stopped: its point is continued elsewhere, once.
    web.remove(&bed.n1)?;
    web.restore(&bed.n2, &newest(web, &bed.n2)?)?;
    ensure!(settled(web, &bed.n2)?, "it does not run on n2");
    if web.restore(&bed.n1, &newest(web, &bed.n1)?).is_ok() {
        bail!("it runs twice");
    }
    web.remove(&bed.n1)?;
    web.remove(&bed.n2)
}

#[test]
fn at_every_step_of_a_restore() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    for (n, site) in RESTORE_SITES.into_iter().enumerate() {
        let web = counter(&format!("web{n}"));
        restore_dies(&bed, &web, site).with_context(|| format!("killed at {site}"))?;
    }
    Ok(())
}

fn restore_dies(bed: &Bed, web: &Container, site: &str) -> Result<()> {
    web.run(&bed.n1)?;
    let id = web.checkpoint(&bed.n1, &["--stop"])?.checkpoint.to_string();
    web.remove(&bed.n1)?;
    restart_agent(&bed.n2, Some(site))?;
    let told = std::thread::scope(|scope| -> Result<Result<()>> {
        let restore = scope.spawn(|| web.restore(&bed.n2, &id));
        wait_agent_dead(&bed.n2, site)?;
        restart_agent(&bed.n2, None)?;
        Ok(restore.join().unwrap_or_else(|_| Err(anyhow::anyhow!("panicked"))))
    })?;
    let runs = told.is_ok();
    if runs {
        ensure!(settled(web, &bed.n2)?, "the command succeeded and it does not run");
    } else {
        // Nothing of it runs there; the same point can be continued.
        ensure!(web.listed(&bed.n2)? != "RUNNING", "it was refused and runs: {told:?}");
        web.remove(&bed.n2)?;
        web.restore(&bed.n2, &id)?;
        ensure!(settled(web, &bed.n2)?);
    }
    // The log agrees: it is this node's to stop.
    web.checkpoint(&bed.n2, &["--stop"])?;
    web.remove(&bed.n2)
}
