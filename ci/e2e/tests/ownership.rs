//! One owner: what the log permits, seen from outside.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use godwit_e2e::bed::{Bed, Store};
use godwit_e2e::container::Container;
use godwit_lab::{AgentOptions, Image, LabOptions, wait};

const ROUNDS: usize = 200;

fn counter() -> Container {
    let script = "i=0; while :; do i=$((i+1)); echo $i >/progress; sleep 0.05; done";
    Container::new("web", Image::Shell, &["sh", "-c", script])
}

#[test]
fn of_two_nodes_that_race_for_a_stopped_checkpoint_exactly_one_wins() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    let web = counter();
    web.run(&bed.n1)?;
    let (mut winners, mut owner) = ([0, 0], 0);
    for round in 0..ROUNDS {
        let nodes = [&bed.n1, &bed.n2];
        let report = web.checkpoint(nodes[owner], &["--stop"])?;
        web.remove(nodes[owner])?;
        let id = report.checkpoint.to_string();
        let results = thread::scope(|scope| {
            let racers = nodes.map(|node| scope.spawn(|| web.restore(node, &id)));
            racers.map(|racer| racer.join().unwrap_or_else(|_| Err(anyhow::anyhow!("panicked"))))
        });
        let running = [web.listed(nodes[0])? == "RUNNING", web.listed(nodes[1])? == "RUNNING"];
        let told: Vec<String> = results.iter().map(|r| format!("{r:?}")).collect();
        ensure!(running[0] != running[1], "round {round}: running {running:?}, told {told:?}");
        ensure!(
            results[0].is_ok() == running[0] && results[1].is_ok() == running[1],
            "round {round}: running {running:?}, told {told:?}"
        );
        owner = usize::from(running[1]);
        winners[owner] += 1;
        web.remove(nodes[1 - owner])?;
    }
    println!("winners: {winners:?}");
    Ok(())
}

#[test]
fn a_point_of_a_running_container_is_copied_and_not_continued() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    let web = counter();
    web.run(&bed.n1)?;
    let id = web.checkpoint(&bed.n1, &[])?.checkpoint.to_string();
    let refused = web.restore(&bed.n2, &id).unwrap_err().to_string();
    let sentence = "web still runs on n1: stop it with `godwit checkpoint --stop`, or copy this point with fork-from";
    ensure!(refused.contains(sentence), "{refused}");
    web.remove(&bed.n2)?;
    web.named("copy").fork(&bed.n2, &id)?;
    web.wait_state(&bed.n1, "running")?;
    web.named("copy").wait_state(&bed.n2, "running")?;
    // The source's lineage goes on: it is still the one that may be checkpointed.
    web.checkpoint(&bed.n1, &["--stop"])?;
    Ok(())
}

#[test]
fn a_container_that_was_deleted_while_the_agent_was_away_can_be_started_again() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    let web = counter();
    web.run(&bed.n1)?;
    web.checkpoint(&bed.n1, &[])?;
    bed.n1.kill_agent()?;
    web.remove(&bed.n1)?;
    let fences = || bed.n1.sh("ls /var/lib/godwit/fences");
    ensure!(fences()?.contains("web"), "the fence waits for the agent: {:?}", fences()?);
    let refused = web.run(&bed.n1).unwrap_err().to_string();
    ensure!(refused.contains("settle"), "{refused}");
    web.remove(&bed.n1)?;
    // The agent leaves a fence alone that somebody may be at work with.
    bed.n1.sh("touch -d '1 minute ago' /var/lib/godwit/fences/*")?;
    bed.n1.start_agent(&AgentOptions::default())?;
    let gone = || fences().is_ok_and(|names| names.is_empty());
    wait::until_true("the fence to go", Duration::from_secs(20), gone)?;
    web.run(&bed.n1)?;
    web.wait_state(&bed.n1, "running")
}
