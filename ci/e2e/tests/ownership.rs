//! One owner: what the log permits, seen from outside.

use std::thread;

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::bed::{Bed, Store};
use godwit_e2e::clean;
use godwit_e2e::container::{Container, SOON};
use godwit_e2e::events::Events;
use godwit_lab::{AgentOptions, Image, LabOptions, Node, wait};
use godwit_types::names;

const ROUNDS: usize = 200;
/// A bucket's create-only PUT is raced for, too; what follows is the same.
const S3_ROUNDS: usize = 20;

fn counter() -> Container {
    let script =
        "i=0; while :; do i=$((i+1)); echo $i >/next; mv /next /progress; sleep 0.05; done";
    Container::new("web", Image::Shell, &["sh", "-c", script])
}

#[test]
fn of_two_nodes_that_race_for_a_stopped_checkpoint_exactly_one_wins() -> Result<()> {
    let too_late = race(Store::File, ROUNDS)?;
    ensure!(too_late > 0, "nobody raced at the log in {ROUNDS} rounds");
    Ok(())
}

#[test]
fn of_two_nodes_that_race_for_a_checkpoint_in_s3_exactly_one_wins() -> Result<()> {
    race(Store::S3, S3_ROUNDS).map(drop)
}

/// How many losers lost at the log itself.
fn race(store: Store, rounds: usize) -> Result<usize> {
    let bed = Bed::up(&LabOptions::for_tests(), store, "", &[Image::Shell])?;
    let web = counter();
    web.run(&bed.n1)?;
    let (mut winners, mut owner, mut too_late) = ([0, 0], 0, 0);
    for round in 0..rounds {
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
        // Both had all of it restored, and wrote: the log let one of them in.
        too_late += usize::from(told[1 - owner].contains("somebody else was faster"));
        let (winner, loser) = (nodes[owner], nodes[1 - owner]);
        web.remove(loser)?;
        clean::wait(loser).with_context(|| format!("round {round}"))?;
        ensure!(clean::processes(loser, "sh")? == 0, "round {round}: what lost lives on");
        web.wait_beyond(winner, web.progress(winner)?)?;
    }
    println!("winners: {winners:?}; {too_late} losers lost at the log itself");
    Ok(too_late)
}

#[test]
fn a_point_of_a_running_container_is_copied_and_not_continued() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    let web = counter();
    web.run(&bed.n1)?;
    let id = web.checkpoint(&bed.n1, &[])?.checkpoint.to_string();
    let refused = web.restore(&bed.n2, &id).unwrap_err().to_string();
    let sentence = "web still runs on n1: stop it with `godwit checkpoint --stop`, or copy this point with fork-from; \
                    if n1 is dead, continue it with godwit.dev/force=REASON beside restore-from";
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
    let id = web.checkpoint(&bed.n1, &[])?.checkpoint.to_string();
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
    wait::until_true("the fence to go", SOON, gone)?;
    // Its end, which was wanted, is in the log: its point is free to be copied, and its name to be used.
    let refused = web.restore(&bed.n2, &id).unwrap_err().to_string();
    ensure!(refused.contains("has ended and cannot be continued"), "{refused}");
    web.named("copy").fork(&bed.n2, &id)?;
    web.named("copy").wait_state(&bed.n2, "running")?;
    web.run(&bed.n1)?;
    web.wait_state(&bed.n1, "running")
}

#[test]
fn after_a_reboot_a_container_is_continued_under_its_old_name() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    let script = "read life </proc/sys/kernel/random/uuid; i=0; \
                  while :; do i=$((i+1)); echo $i $life >/progress; sleep 0.05; done";
    let web = Container::new("web", Image::Shell, &["sh", "-c", script]);
    web.run(&bed.n1)?;
    web.wait_beyond(&bed.n1, 0)?;
    let life = life_of(&web, &bed.n1)?;
    let first = web.checkpoint(&bed.n1, &[])?.checkpoint.to_string();
    reboot(&bed.n1, &web)?;
    web.restore(&bed.n1, &first)?;
    ensure!(life_of(&web, &bed.n1)? == life, "it began anew");
    web.wait_state(&bed.n1, "running")?;
    // The same words after another life of it: they ask for a point that is not its latest any more.
    let second = web.checkpoint(&bed.n1, &[])?.checkpoint.to_string();
    reboot(&bed.n1, &web)?;
    let refused = web.restore(&bed.n1, &first).unwrap_err().to_string();
    let sentence = format!("web can only be continued from {second}, not from {first}");
    ensure!(refused.contains(&sentence), "{refused}");
    web.remove(&bed.n1)?;
    // Its death is in the log: no force is needed elsewhere.
    web.restore(&bed.n2, &second)?;
    ensure!(life_of(&web, &bed.n2)? == life, "it began anew");
    Ok(())
}

#[test]
fn a_second_machine_with_the_name_of_a_node_gets_no_say() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    let web = counter();
    web.run(&bed.n1)?;
    let id = web.checkpoint(&bed.n1, &[])?.checkpoint.to_string();
    let own = bed.n2.read_file(names::AGENT_CONFIG)?;
    bed.n2.kill_agent()?;
    bed.n2.write_file(names::AGENT_CONFIG, own.replace("node = \"n2\"", "node = \"n1\""))?;
    let refused = format!("{:#}", bed.n2.start_agent(&AgentOptions::default()).unwrap_err());
    ensure!(refused.contains("the node name \"n1\" belongs to another machine"), "{refused}");
    ensure!(refused.contains("give this machine a `node` of its own"), "{refused}");
    // To the log both would be one place, and its own tasks are dead: nothing else would stop it.
    ensure!(web.restore(&bed.n2, &id).is_err(), "it runs twice");
    web.remove(&bed.n2)?;
    let before = web.progress(&bed.n1)?;
    web.wait_beyond(&bed.n1, before)?;
    // The machine that bears the name keeps it through a reboot, the other one has its own.
    bed.n1.reboot()?;
    bed.n1.start_agent(&AgentOptions::default())?;
    bed.n2.write_file(names::AGENT_CONFIG, own)?;
    bed.n2.start_agent(&AgentOptions::default())?;
    Ok(())
}

#[test]
fn who_is_forced_away_from_a_dead_node_runs_once_also_when_it_comes_back() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    let web = counter();
    web.run(&bed.n1)?;
    let first = web.checkpoint(&bed.n1, &[])?.checkpoint.to_string();
    bed.n1.power_loss()?;
    let refused = web.restore(&bed.n2, &first).unwrap_err().to_string();
    ensure!(refused.contains("if n1 is dead, continue it with godwit.dev/force"), "{refused}");
    web.remove(&bed.n2)?;
    let forced = web.clone().with(&["--annotation", "godwit.dev/force=n1 has no power"]);
    forced.restore(&bed.n2, &first)?;
    web.wait_state(&bed.n2, "running")?;
    // The log keeps why.
    bed.n2.sh("grep -r 'n1 has no power' /lab/shared/store/t/_node/lineages")?;
    // It comes back, and nothing of web with it, neither by itself nor by its old name.
    reboot(&bed.n1, &web)?;
    let refused = web.run(&bed.n1).unwrap_err().to_string();
    ensure!(refused.contains("web was taken over by n2"), "{refused}");
    web.remove(&bed.n1)?;
    runs_only_on(&bed.n2, &bed.n1, &web)?;
    // Nobody was dead: who was taken for it loses its copy when its agent looks.
    let second = web.checkpoint(&bed.n2, &[])?.checkpoint.to_string();
    bed.n2.kill_agent()?;
    forced.restore(&bed.n1, &second)?;
    web.wait_state(&bed.n1, "running")?;
    bed.n2.start_agent(&AgentOptions::default())?;
    runs_only_on(&bed.n1, &bed.n2, &web)?;
    web.remove(&bed.n2)?;
    web.remove(&bed.n1)
}

#[test]
fn a_container_that_the_kernel_kills_for_want_of_memory_is_continued_elsewhere_once() -> Result<()>
{
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    let script = "i=0; while :; do i=$((i+1)); echo $i >/next; mv /next /progress; sleep 0.05
                  if [ -e /eat ]; then x=$(head -c 200000000 /dev/zero | tr '\\0' x); fi; done";
    let web = Container::new("web", Image::Shell, &["bash", "-c", script]);
    let web = web.with(&["--memory-limit", "67108864"]);
    let events = Events::of(&bed.n1)?;
    web.run(&bed.n1)?;
    web.wait_beyond(&bed.n1, 3)?;
    web.checkpoint(&bed.n1, &[])?;
    let point = web.checkpoint(&bed.n1, &[])?.checkpoint.to_string();
    let far = web.wait_beyond(&bed.n1, web.progress(&bed.n1)?)?;
    web.exec(&bed.n1, &["touch", "/eat"])?;
    events.wait_for("/tasks/exit", "web")?;
    let dead = || web.listed(&bed.n1).is_ok_and(|state| state == "STOPPED");
    wait::until_true("web to be killed", SOON, dead)?;
    web.remove(&bed.n1)?;
    clean::wait(&bed.n1)?;
    // Nobody has asked for that end: the log has its death, and where it goes on from.
    let shown = bed.n2.run(&["godwit", "show", &point])?;
    ensure!(shown.contains("now         stopped"), "{shown}");
    web.restore(&bed.n2, &point)?;
    // What it was told after the point has not happened.
    web.exec(&bed.n2, &["test", "!", "-e", "/eat"])?;
    web.wait_beyond(&bed.n2, far)?;
    let refused = web.restore(&bed.n1, &point).unwrap_err().to_string();
    ensure!(refused.contains("runs on n2"), "{refused}");
    web.remove(&bed.n1)?;
    runs_only_on(&bed.n2, &bed.n1, &web)?;
    web.remove(&bed.n2)
}

#[test]
fn annotations_that_there_are_not_are_refused_at_any_start() -> Result<()> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    for (wrong, told) in [
        ("godwit.dev/restore_from=01ARZ3NDEKTSV4RRFFQ69G5FAV", "godwit.dev/restore-from"),
        ("godwit.dev/udp=keep", "no annotation godwit.dev/udp"),
        ("godwit.dev/tcp=kept", "is close or keep"),
        ("godwit.dev/force=haste", "means nothing without godwit.dev/restore-from"),
        ("godwit.dev/restore-from=", "no value"),
    ] {
        let web = counter().with(&["--annotation", wrong]);
        let refused = web.run(&bed.n1).unwrap_err().to_string();
        ensure!(refused.contains(told), "{wrong}: {refused}");
        web.remove(&bed.n1)?;
    }
    counter().run(&bed.n1)
}

/// Waits until `loser` has no live task of it; its winner works on.
fn runs_only_on(winner: &Node, loser: &Node, web: &Container) -> Result<()> {
    let dead =
        || web.listed(loser).is_ok_and(|state| ["ABSENT", "STOPPED"].contains(&state.as_str()));
    wait::until_true(&format!("{} on {} to be dead", web.id, loser.name()), SOON, dead)?;
    let before = web.progress(winner)?;
    web.wait_beyond(winner, before)?;
    ensure!(dead(), "it came back on {}", loser.name());
    Ok(())
}

/// Power loss, and what its administrator does then.
fn reboot(node: &Node, web: &Container) -> Result<()> {
    node.reboot()?;
    node.start_agent(&AgentOptions::default())?;
    node.ctr(&["container", "rm", &web.id])?;
    Ok(())
}

/// What its program has kept in memory since it began.
fn life_of(web: &Container, node: &Node) -> Result<String> {
    let what = format!("{} on {} to tell its life", web.id, node.name());
    let line = || web.progress_line(node).map_err(|error| format!("{error:#}"));
    Ok(wait::until(&what, SOON, || {
        let line = line()?;
        line.split_whitespace().nth(1).map(str::to_owned).ok_or(line)
    })?)
}
