//! The task service itself: pause, update, stats, pids, events.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api::{
    ConnectRequest, PauseRequest, PidsRequest, StateRequest, StatsRequest, Status,
    UpdateTaskRequest,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::{cgroups, cgroups_v2};
use godwit_e2e::container::BUNDLES;
use godwit_e2e::events::Events;
use godwit_lab::{CgroupView, wait};

use super::kit::{Bed, SOON, context};

#[test]
fn a_paused_container_stands_still_and_goes_on() -> Result<()> {
    for view in CgroupView::of_machine()? {
        let bed = Bed::with(view)?;
        let count = "i=0; while :; do i=$((i+1)); echo $i > /count.new; mv /count.new /count; done";
        bed.run(&["--detach", "--cpu-shares", "0"], "count", &["bash", "-c", count])?;
        let counted = || {
            let file = bed.node.read_file(&format!("{BUNDLES}/count/rootfs/count"))?;
            file.trim().parse::<u64>().context("a number")
        };
        wait::until("the container to count", SOON, counted)?;
        bed.node.ctr(&["task", "pause", "count"])?;
        ensure!(bed.listed("count")? == "PAUSED");
        let paused = counted()?;
        let exec = bed.node.exec(&["ctr", "task", "exec", "--exec-id", "e", "count", "true"])?;
        ensure!(!exec.status.success(), "nothing is executed in a paused container");
        ensure!(counted()? == paused, "it stands still");
        bed.node.ctr(&["task", "resume", "count"])?;
        wait::until("it to go on", SOON, || match counted() {
            Ok(now) if now > paused => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        // A paused container can be killed.
        bed.node.ctr(&["task", "pause", "count"])?;
        bed.remove("count")?;
        bed.wait_clean()?;
    }
    Ok(())
}

/// What both versions of containerd's metrics tell.
#[derive(Debug)]
struct Numbers {
    limit: u64,
    memory: u64,
    pids: u64,
    cpu: u64,
}

impl Numbers {
    fn of(view: CgroupView, stats: &Any) -> Result<Self> {
        let version = if view == CgroupView::V1 { "v1" } else { "v2" };
        let expected = format!("io.containerd.cgroups.{version}.Metrics");
        ensure!(stats.type_url == expected, "{}", stats.type_url);
        Ok(match view {
            CgroupView::V1 => {
                let told = cgroups::metrics::Metrics::parse_from_bytes(&stats.value)?;
                let (memory, pids) = (&told.memory.usage, told.pids.current);
                let cpu = told.cpu.usage.total;
                Self { limit: memory.limit, memory: memory.usage, pids, cpu }
            }
            CgroupView::V2 => {
                let told = cgroups_v2::metrics::Metrics::parse_from_bytes(&stats.value)?;
                let (memory, pids) = (&told.memory, told.pids.current);
                let cpu = told.cpu.usage_usec;
                Self { limit: memory.usage_limit, memory: memory.usage, pids, cpu }
            }
        })
    }
}

#[test]
fn limits_are_updated_and_numbers_are_told() -> Result<()> {
    let bed = Bed::new()?;
    bed.run(&["--detach", "--memory-limit", "67108864"], "limits", &["sleep", "infinity"])?;
    let task = bed.task("limits")?;
    let numbers = || -> Result<Numbers> {
        let request = StatsRequest { id: "limits".into(), ..Default::default() };
        let stats = task.stats(context(), &request)?.stats.unwrap_or_default();
        Numbers::of(bed.node.cgroup_view(), &stats)
    };
    // runc's own threads are there for a moment longer, until its last step is the program.
    let before = wait::until("its own process to be alone", SOON, || match numbers() {
        Ok(now) if now.pids == 1 => Ok(now),
        other => Err(format!("{other:?}")),
    })?;
    ensure!(before.limit == 64 << 20, "{before:?}");
    ensure!(before.memory > 0 && before.cpu > 0, "{before:?}");
    let resources = br#"{"memory":{"limit":134217728}}"#.to_vec();
    let request = UpdateTaskRequest {
        id: "limits".into(),
        resources: MessageField::some(Any { value: resources, ..Default::default() }),
        ..Default::default()
    };
    task.update(context(), &request)?;
    ensure!(numbers()?.limit == 128 << 20);
    // containerd's own client understands them, too.
    ensure!(bed.node.ctr(&["task", "metrics", "limits"])?.contains("memory"));
    bed.remove("limits")?;
    bed.wait_clean()
}

#[test]
fn queries_are_answered_at_once_and_pids_are_never_empty() -> Result<()> {
    let bed = Bed::new()?;
    bed.sleeper("ask")?;
    let task = bed.task("ask")?;
    let pids = |count: usize| -> Result<()> {
        let request = PidsRequest { id: "ask".into(), ..Default::default() };
        let listed = task.pids(context(), &request)?.processes;
        ensure!(listed.len() == count, "{listed:?}");
        Ok(())
    };
    let began = Instant::now();
    task.connect(context(), &ConnectRequest { id: "ask".into(), ..Default::default() })?;
    task.state(context(), &StateRequest { id: "ask".into(), ..Default::default() })?;
    pids(1)?;
    // Far more than they take; a shim that waits for something takes longer still.
    ensure!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let mut exec =
        bed.node.spawn(&["ctr", "task", "exec", "--exec-id", "e", "ask", "sleep", "infinity"])?;
    wait::until("two processes", SOON, || pids(2))?;
    bed.node.ctr(&["task", "kill", "--exec-id", "e", "--signal", "SIGKILL", "ask"])?;
    ensure!(exec.child().wait()?.code() == Some(137));
    bed.node.ctr(&["task", "kill", "--signal", "SIGKILL", "ask"])?;
    bed.wait_listed("ask", "STOPPED")?;
    pids(1)?;
    ensure!(bed.status("ask")? == Status::STOPPED);
    let pause = PauseRequest { id: "ask".into(), ..Default::default() };
    let refused =
        task.pause(context(), &pause).err().context("a stopped container is not paused")?;
    ensure!(refused.to_string().contains("it has stopped"), "{refused}");
    bed.node.exec(&["ctr", "task", "delete", "ask"])?;
    bed.node.ctr(&["container", "delete", "ask"])?;
    bed.wait_clean()
}

#[test]
fn want_of_memory_is_told_before_the_exit_and_all_events_come_in_order() -> Result<()> {
    let bed = Bed::new()?;
    let events = Events::of(&bed.node)?;
    let eat = "x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo survived";
    let ran = bed.spawn(&["--memory-limit", "33554432"], "eat", &["bash", "-c", eat])?;
    let ran = ran.wait_with_output()?;
    ensure!(!ran.status.success() && !ran.stdout.starts_with(b"survived"), "{ran:?}");
    bed.node.ctr(&["task", "delete", "eat"]).ok();
    bed.node.ctr(&["container", "delete", "eat"])?;
    bed.wait_clean()?;
    let text = events.rest()?.join("\n");
    let topics: Vec<&str> =
        text.split_whitespace().filter(|word| word.starts_with("/tasks/")).collect();
    let expected = ["/tasks/create", "/tasks/start", "/tasks/oom", "/tasks/exit", "/tasks/delete"];
    let mut once = topics.clone();
    once.dedup();
    ensure!(once == expected, "{topics:?}");
    Ok(())
}
