//! Checkpoints and restores on nodes that see cgroup v2 only: what freezes, kills and finds processes there is not what does on
//! v1. On a machine that has nothing else every other test runs so; this one runs so everywhere.

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::bed::{Bed, Store};
use godwit_e2e::clean;
use godwit_e2e::container::{Container, PROGRESS, SOON};
use godwit_e2e::events::Events;
use godwit_lab::{AgentOptions, CgroupView, Image, LabOptions, Node, wait};
use godwit_types::names;
use godwit_wire::failpoint::VARIABLE;

/// So slow that memory is on its way for as long as a test needs.
const SLOW: &str = "max_bytes_per_second = 2097152\n";

const GROUPS: &str =
    "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro:nosuid:noexec:nodev:relatime";

fn bed(images: &[Image]) -> Result<Bed> {
    let options = LabOptions::for_tests().cgroup(CgroupView::V2);
    Bed::up(&options, Store::File, "", images)
}

fn counter(id: &str) -> Container {
    Container::new(id, Image::Mem, &["counter", "--file", PROGRESS])
}

fn restart_agent(node: &Node, failpoint: Option<&str>) -> Result<()> {
    node.kill_agent()?;
    let env = failpoint.map(|site| (VARIABLE.to_owned(), site.to_owned())).into_iter().collect();
    Ok(node.start_agent(&AgentOptions { env })?)
}

/// Whether every process of the container stands still.
fn is_frozen(node: &Node, container: &Container) -> Result<bool> {
    let events = format!("/sys/fs/cgroup/default/{}/cgroup.events", container.id);
    Ok(node.read_file(&events)?.contains("frozen 1"))
}

#[test]
fn small_programs_move_there_and_back() -> Result<()> {
    let bed = bed(&[Image::Mem])?;
    counter("counter").there_and_back(&bed.n1, &bed.n2).context("a static program")?;
    let plain = Container::new("plain", Image::Mem, &["ccounter", PROGRESS]);
    plain.there_and_back(&bed.n1, &bed.n2).context("a static program in C")?;
    let tree = Container::new("tree", Image::Mem, &["forktree", "--file", PROGRESS]);
    // As containers of Kubernetes see their groups.
    let tree = tree.with(&["--mount", GROUPS]);
    tree.there_and_back(&bed.n1, &bed.n2).context("a tree of processes")?;
    let all = "dontneed,munmap,mremap,fork";
    let words = ["memwriter", "--mib", "64", "--threads", "2", "--disturb", all, "--file"];
    let writer = Container::new("writer", Image::Mem, &[&words[..], &[PROGRESS]].concat());
    writer.there_and_back(&bed.n1, &bed.n2).context("a writer of memory")
}

#[test]
fn a_sealed_container_stays_frozen_until_an_agent_settles_it() -> Result<()> {
    let bed = bed(&[Image::Mem])?;
    let web = counter("web");
    web.run(&bed.n1)?;
    web.wait_beyond(&bed.n1, 3)?;
    restart_agent(&bed.n1, Some("seal.answered"))?;
    ensure!(web.checkpoint(&bed.n1, &["--stop"]).is_err(), "it succeeded without an agent");
    wait::until_true("the agent to die", SOON, || bed.n1.agent_pid().is_none())?;
    let at = web.progress(&bed.n1)?;
    ensure!(is_frozen(&bed.n1, &web)?, "what is sealed waits for the log's word");
    ensure!(web.progress(&bed.n1)? == at, "it stands still");
    restart_agent(&bed.n1, None)?;
    // Everything of it is in the store: the restarted agent writes the stop.
    web.wait_state(&bed.n1, "exited")?;
    ensure!(clean::processes(&bed.n1, "counter")? == 0, "somebody is left");
    let list: serde_json::Value =
        serde_json::from_str(&bed.n2.run(&["godwit", "list", "--output", "json"])?)?;
    let point = list["checkpoints"][0]["id"].as_str().context("a recovery point")?.to_owned();
    web.remove(&bed.n1)?;
    clean::wait(&bed.n1)?;
    web.restore(&bed.n2, &point)?;
    web.wait_beyond(&bed.n2, at)?;
    let refused = web.restore(&bed.n1, &point).unwrap_err().to_string();
    ensure!(refused.contains("runs on n2"), "{refused}");
    web.remove(&bed.n1)?;
    clean::wait(&bed.n1)
}

/// What froze it cannot thaw it any more, as when it ends in the middle of a checkpoint; runc calls it paused.
#[test]
fn a_container_that_ends_while_it_is_frozen_is_deleted() -> Result<()> {
    let bed = bed(&[Image::Mem])?;
    let web = counter("web");
    web.run(&bed.n1)?;
    web.wait_beyond(&bed.n1, 3)?;
    bed.n1.sh("echo 1 >/sys/fs/cgroup/default/web/cgroup.freeze")?;
    wait::until_true("it to be frozen", SOON, || is_frozen(&bed.n1, &web).is_ok_and(|is| is))?;
    bed.n1.sh("kill -KILL $(ctr task ls | awk '$1 == \"web\" {print $2}')")?;
    wait::until_true("its end", SOON, || web.listed(&bed.n1).is_ok_and(|s| s == "STOPPED"))?;
    // Its exit status is the task's own; without the task the container can go.
    bed.n1.exec(&["ctr", "task", "rm", "web"])?;
    bed.n1.ctr(&["container", "rm", "web"])?;
    clean::wait(&bed.n1)
}

#[test]
fn a_copy_lives_beside_a_container_that_runs_on() -> Result<()> {
    let bed = bed(&[Image::Mem])?;
    let web = counter("web");
    web.run(&bed.n1)?;
    let at = web.wait_beyond(&bed.n1, 3)?;
    let point = web.checkpoint(&bed.n1, &[])?.checkpoint.to_string();
    ensure!(!is_frozen(&bed.n1, &web)?, "it goes on");
    web.wait_beyond(&bed.n1, at)?;
    let copy = web.named("copy");
    copy.fork(&bed.n2, &point)?;
    copy.wait_beyond(&bed.n2, at)?;
    copy.remove(&bed.n2)?;
    clean::wait(&bed.n2)?;
    web.remove(&bed.n1)?;
    clean::wait(&bed.n1)
}

#[test]
fn a_container_whose_memory_cannot_come_any_more_is_killed() -> Result<()> {
    let bed = bed(&[Image::Mem])?;
    let words = ["memwriter", "--mib", "256", "--threads", "2", "--file", PROGRESS];
    let writer = Container::new("writer", Image::Mem, &words);
    writer.run(&bed.n1)?;
    writer.wait_beyond(&bed.n1, 1)?;
    let point = writer.checkpoint(&bed.n1, &["--stop"])?.checkpoint.to_string();
    writer.remove(&bed.n1)?;
    let quick = bed.n2.read_file(names::AGENT_CONFIG)?;
    bed.n2.write_file(names::AGENT_CONFIG, format!("{quick}{SLOW}"))?;
    restart_agent(&bed.n2, None)?;
    let events = Events::of(&bed.n2)?;
    writer.restore(&bed.n2, &point)?;
    let pager = bed.n2.sh("pgrep godwit-pager")?;
    bed.n2.run(&["kill", "-KILL", pager.trim()])?;
    let exit = events.wait_for("/tasks/exit", "writer")?;
    ensure!(exit["exit_status"] == 137, "{exit}");
    ensure!(clean::processes(&bed.n2, "memwriter")? == 0, "somebody is left");
    // The same point is continued again, and this time all of it comes.
    bed.n2.write_file(names::AGENT_CONFIG, quick)?;
    restart_agent(&bed.n2, None)?;
    writer.remove(&bed.n2)?;
    clean::wait(&bed.n2)?;
    writer.restore(&bed.n2, &point)?;
    writer.wait_state(&bed.n2, "running")?;
    let now = writer.progress(&bed.n2)?;
    writer.wait_beyond(&bed.n2, now + 2)?;
    writer.remove(&bed.n2)
}
