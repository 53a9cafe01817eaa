//! The agent is killed at every step of a checkpoint and of a restore: afterwards there is one running copy or one recovery
//! point, and the log agrees. Needs programs that were built with the feature `failpoints` of `godwit-wire`, as `make` does.

mod agent_dies {
    mod entries;
}

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use godwit_e2e::bed::{Bed, Store};
use godwit_e2e::container::{Container, PROGRESS, SOON};
use godwit_lab::{AgentOptions, Image, LabOptions, Node, wait};
use godwit_wire::failpoint::VARIABLE;

/// So short that a sealed pod outlives it in a test.
const FREEZE_DEADLINE: Duration = Duration::from_secs(4);
/// What is said of a freeze that was undone because of it.
const TOO_LONG: &str = "was frozen for";
/// How often one is tried again.
const TRIES: usize = 4;

/// Steps of a checkpoint that stops, before the freeze: the container runs on without any agent.
const UNFROZEN_SITES: [&str; 10] = [
    "phase-preflight",
    "begin.sent",
    "begin.answered",
    "put-start.before",
    "put-start.answered",
    "stands.answered",
    "phase-prepare",
    "phase-pre-copy",
    "criu-started.answered",
    "phase-freeze",
];

/// Steps of it from the freeze to the seal: the same.
const FROZEN_SITES: [&str; 7] =
    ["freeze.sent", "frozen", "dumped", "kept", "phase-upload", "phase-commit", "seal.before"];

/// Steps of it after the seal: the container stays as it is until an agent has settled the slot.
const SEALED_SITES: [&str; 5] =
    ["seal.answered", "put-stop.before", "put-stop.answered", "stopped.answered", "phase-finish"];

/// Steps of a checkpoint that leaves the container running.
const RUNNING_SITES: [&str; 7] = [
    "dumped",
    "thaw.before",
    "thaw.answered",
    "phase-upload",
    "put-checkpoint.before",
    "put-checkpoint.answered",
    "phase-finish",
];

const FORK_SITES: [&str; 3] = ["put-start.before", "put-start.answered", "resume.answered"];

const RESTORE_SITES: [&str; 10] = [
    "phase-check",
    "phase-stage",
    "phase-restore",
    "plan.answered",
    "phase-take-over",
    "committing.answered",
    "put-take-over.before",
    "put-take-over.answered",
    "resume.answered",
    "phase-hydrate",
];

fn counter(id: &str) -> Container {
    let script =
        "i=0; while :; do i=$((i+1)); echo $i >/next; mv /next /progress; sleep 0.05; done";
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

/// A bed, and a container for each of these sites.
fn at_each(sites: &[&str], dies: impl Fn(&Bed, &Container, &str) -> Result<()>) -> Result<()> {
    at_each_with("", sites, dies)
}

fn at_each_with(
    settings: &str,
    sites: &[&str],
    dies: impl Fn(&Bed, &Container, &str) -> Result<()>,
) -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, settings, &[Image::Shell])?;
    for (n, site) in sites.iter().enumerate() {
        let web = counter(&format!("web{n}"));
        dies(&bed, &web, site).with_context(|| format!("killed at {site}"))?;
    }
    Ok(())
}

#[test]
fn at_every_step_of_a_checkpoint_before_the_seal() -> Result<()> {
    let sites = [&UNFROZEN_SITES[..], &FROZEN_SITES[..]].concat();
    at_each(&sites, |bed, web, site| {
        let before = bed.n1.log("containerd")?.len();
        checkpoint_dies(bed, web, site, &["--stop"])?;
        runs_on(bed, web)?;
        if FROZEN_SITES.contains(&site) {
            thawed_for_its_agent(bed, web, before)?;
        }
        moves_on(bed, web)
    })
}

/// As a container of some size does it: in its freeze there is more to put back.
#[test]
fn a_larger_container_in_its_freeze() -> Result<()> {
    let settings = "freeze_deadline = \"2min\"\n";
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, settings, &[Image::Mem])?;
    let words = ["memwriter", "--mib", "256", "--threads", "2", "--file", PROGRESS];
    let writer = Container::new("writer", Image::Mem, &words);
    let before = bed.n1.log("containerd")?.len();
    checkpoint_dies(&bed, &writer, "dumped", &[])?;
    runs_on(&bed, &writer)?;
    thawed_for_its_agent(&bed, &writer, before)
}

/// CRIU waits for an agent that hangs as it waits for one that works: the shim ends it, before it would have to kill CRIU.
#[test]
fn one_that_hangs_in_the_freeze_is_killed_and_the_container_runs_on() -> Result<()> {
    let settings = format!("freeze_deadline = \"{}s\"\n", FREEZE_DEADLINE.as_secs());
    at_each_with(&settings, &["frozen:1:stop"], |bed, web, site| {
        checkpoint_dies(bed, web, site, &["--stop"])?;
        runs_on(bed, web)?;
        moves_on(bed, web)
    })
}

/// Nobody but its shim lets it run.
fn runs_on(bed: &Bed, web: &Container) -> Result<()> {
    let then = web.progress(&bed.n1)?;
    web.wait_beyond(&bed.n1, then)?;
    ensure!(bed.n1.agent_pid().is_none(), "an agent helped");
    Ok(())
}

/// It was thawed because its agent was gone, and neither the deadline nor a CRIU that hung was waited for. `before`: so long was the
/// log when it began.
fn thawed_for_its_agent(bed: &Bed, web: &Container, before: usize) -> Result<()> {
    let log = wait::until("its shim to tell of the thaw", SOON, || {
        let log = bed.n1.log("containerd").map_err(|error| error.to_string())?;
        let since = log.get(before..).unwrap_or_default();
        let pod = format!("pod=\"default+{}\"", web.id);
        let of_pod: Vec<&str> = since.lines().filter(|line| line.contains(&pod)).collect();
        let told = of_pod.join("\n");
        if told.contains("thawed") { Ok(told) } else { Err(since.to_owned()) }
    })?;
    let gone = log.find("the agent of a checkpoint is gone").context("its end was not heard")?;
    ensure!(log.rfind("thawed") > Some(gone), "{log}");
    ensure!(!log.contains("freeze deadline"), "{log}");
    Ok(())
}

/// containerd is killed and started again: it finds the container as it is, and lets it be.
fn restart_containerd(container: &Container, node: &Node, listed: &str) -> Result<()> {
    let look = || Ok::<_, anyhow::Error>((container.listed(node)?, has_pids(container, node)?));
    let before = look()?;
    ensure!(before == (listed.to_owned(), true), "{before:?}");
    node.kill_containerd()?;
    node.start_containerd()?;
    let after = look()?;
    ensure!(after == before, "{before:?} became {after:?}");
    Ok(())
}

/// containerd takes a task without a process for one whose shim was forgotten.
fn has_pids(container: &Container, node: &Node) -> Result<bool> {
    let list = node.ctr(&["task", "ps", &container.id])?;
    Ok(list.lines().any(|line| line.split_whitespace().next().is_some_and(is_pid)))
}

fn is_pid(word: &str) -> bool {
    word.parse::<u32>().is_ok_and(|pid| pid > 0)
}

#[test]
fn and_containerd_with_it_while_a_container_is_sealed_held_or_hydrating() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    let web = counter("sealed");
    checkpoint_dies(&bed, &web, "seal.sent", &["--stop"])?;
    restart_containerd(&web, &bed.n1, "RUNNING")?;
    moves_on(&bed, &web)?;
    // Before its slot is settled, too: a task that containerd finds created is killed by its CRI.
    for (name, site) in [("claims", "put-take-over.answered"), ("hydrates", "phase-hydrate")] {
        both_die_in_a_restore(&bed, &counter(name), site).with_context(|| format!("at {site}"))?;
    }
    Ok(())
}

/// The entry stands when the agent dies: it runs there, whoever started it, and nowhere else.
fn both_die_in_a_restore(bed: &Bed, web: &Container, site: &str) -> Result<()> {
    web.run(&bed.n1)?;
    let id = web.checkpoint(&bed.n1, &["--stop"])?.checkpoint.to_string();
    web.remove(&bed.n1)?;
    restart_agent(&bed.n2, Some(site))?;
    std::thread::scope(|scope| {
        let restore = scope.spawn(|| web.restore(&bed.n2, &id));
        wait_agent_dead(&bed.n2, site)?;
        wait::until("it to be where it waits", SOON, || match web.listed(&bed.n2) {
            Ok(now) if now == "RUNNING" => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        restart_containerd(web, &bed.n2, "RUNNING")?;
        // Its own connection to containerd may have broken in the middle.
        drop(restore.join());
        restart_agent(&bed.n2, None)
    })?;
    ensure!(settled(web, &bed.n2)?, "it does not run");
    web.wait_beyond(&bed.n2, web.progress(&bed.n2)?)?;
    ensure!(web.restore(&bed.n1, &newest(web, &bed.n1)?).is_err(), "it runs twice");
    web.remove(&bed.n1)?;
    web.checkpoint(&bed.n2, &["--stop"])?;
    web.remove(&bed.n2)
}

#[test]
fn at_every_step_of_a_checkpoint_after_the_seal() -> Result<()> {
    let settings = format!("freeze_deadline = \"{}s\"\n", FREEZE_DEADLINE.as_secs());
    at_each_with(&settings, &SEALED_SITES, |bed, web, site| {
        checkpoint_dies(bed, web, site, &["--stop"])?;
        let then = web.progress(&bed.n1)?;
        // No condition: what shall not happen has this long to happen.
        std::thread::sleep(2 * FREEZE_DEADLINE);
        let now = web.progress(&bed.n1)?;
        ensure!(now == then, "it ran on from {then} to {now} with its entry unsettled");
        moves_on(bed, web)
    })
}

#[test]
fn at_every_step_of_a_checkpoint_that_leaves_it_running() -> Result<()> {
    at_each(&RUNNING_SITES, |bed, web, site| {
        checkpoint_dies(bed, web, site, &[])?;
        let then = web.progress(&bed.n1)?;
        web.wait_beyond(&bed.n1, then)?;
        restart_agent(&bed.n1, None)?;
        // The next one builds on what is there, and all that is listed is whole.
        web.checkpoint(&bed.n1, &[])?;
        bed.n1.run(&["godwit", "verify", &newest(web, &bed.n1)?])?;
        moves_on(bed, web)
    })
}

fn checkpoint_dies(bed: &Bed, web: &Container, site: &str, flags: &[&str]) -> Result<()> {
    web.run(&bed.n1)?;
    web.wait_beyond(&bed.n1, 0)?;
    restart_agent(&bed.n1, Some(site))?;
    // One that is frozen for too long is undone before it comes to some of the sites.
    let mut told = web.checkpoint(&bed.n1, flags);
    for _ in 0..TRIES {
        let is_late = told.as_ref().is_err_and(|why| format!("{why:#}").contains(TOO_LONG));
        if !is_late || bed.n1.agent_pid().is_none() {
            break;
        }
        told = web.checkpoint(&bed.n1, flags);
    }
    wait_agent_dead(&bed.n1, site)?;
    ensure!(told.is_err(), "the command succeeded without an agent");
    Ok(())
}

/// An agent is there again: it runs, or it was stopped; then its point is continued elsewhere, once.
fn moves_on(bed: &Bed, web: &Container) -> Result<()> {
    restart_agent(&bed.n1, None)?;
    if settled(web, &bed.n1)? {
        // It runs: nobody else may have it, and it can be stopped properly.
        web.checkpoint(&bed.n1, &["--stop"])?;
        ensure!(!settled(web, &bed.n1)?);
    }
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
    at_each(&RESTORE_SITES, restore_dies)
}

#[test]
fn at_every_step_of_a_fork() -> Result<()> {
    at_each(&FORK_SITES, |bed, web, site| {
        web.run(&bed.n1)?;
        web.wait_beyond(&bed.n1, 0)?;
        let point = web.checkpoint(&bed.n1, &[])?.checkpoint.to_string();
        let copy = web.named(&format!("{}-copy", web.id));
        let told = beside_a_death(&bed.n2, site, || copy.fork(&bed.n2, &point))?;
        if told.is_err() {
            ensure!(copy.listed(&bed.n2)? != "RUNNING", "it was refused and runs: {told:?}");
            copy.remove(&bed.n2)?;
            copy.fork(&bed.n2, &point)?;
        }
        ensure!(settled(&copy, &bed.n2)?, "the copy does not run");
        // Neither knows of the other.
        web.wait_beyond(&bed.n1, web.progress(&bed.n1)?)?;
        copy.wait_beyond(&bed.n2, copy.progress(&bed.n2)?)?;
        copy.remove(&bed.n2)?;
        web.remove(&bed.n1)
    })
}

/// Does this on a node whose agent dies at that site and comes back; what it said.
fn beside_a_death(
    node: &Node,
    site: &str,
    work: impl FnOnce() -> Result<()> + Send,
) -> Result<Result<()>> {
    restart_agent(node, Some(site))?;
    std::thread::scope(|scope| {
        let work = scope.spawn(work);
        wait_agent_dead(node, site)?;
        restart_agent(node, None)?;
        Ok(work.join().unwrap_or_else(|_| Err(anyhow::anyhow!("panicked"))))
    })
}

fn restore_dies(bed: &Bed, web: &Container, site: &str) -> Result<()> {
    web.run(&bed.n1)?;
    let id = web.checkpoint(&bed.n1, &["--stop"])?.checkpoint.to_string();
    web.remove(&bed.n1)?;
    let told = beside_a_death(&bed.n2, site, || web.restore(&bed.n2, &id))?;
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
