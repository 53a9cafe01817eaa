//! The lab itself: that its nodes are what the other end-to-end tests take them for.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use godwit_lab::{CgroupView, Image, Lab, LabOptions, Node, places, wait};

const SOON: Duration = Duration::from_secs(60);

/// The number that the counter in a container has printed last.
fn count(node: &Node, container: &str) -> Result<u64> {
    let text = node.ctr(&["task", "exec", "--exec-id", "look", container, "cat", "/tmp/count"])?;
    text.trim().parse().with_context(|| format!("the counter says {text:?}"))
}

fn start_counter(node: &Node, container: &str) -> Result<()> {
    // No shares: a cgroup2 view without controllers cannot give any.
    let run = ["run", "--detach", "--cpu-shares", "0", Image::Mem.reference(), container];
    node.ctr(&[&run[..], &["counter", "--file", "/tmp/count"]].concat())?;
    Ok(())
}

fn wait_for_count(node: &Node, container: &str, least: u64) -> Result<u64> {
    Ok(wait::until("the counter to count", SOON, || match count(node, container) {
        Ok(number) if number >= least => Ok(number),
        Ok(number) => Err(format!("it is at {number}")),
        Err(error) => Err(error.to_string()),
    })?)
}

#[test]
fn two_nodes_run_containers_and_reach_each_other() -> Result<()> {
    let lab = Lab::up(&LabOptions::for_tests())?;
    for node in lab.nodes()? {
        ensure!(node.ctr(&["version"])?.contains("Server:"), "containerd of {}", node.name());
        node.import(Image::Mem)?;
        start_counter(&node, "counter")?;
        let first = wait_for_count(&node, "counter", 1)?;
        wait_for_count(&node, "counter", first + 2)?;
    }
    let (n1, n2) = (lab.node("n1")?, lab.node("n2")?);
    let mut server = n1.spawn(&["socat", "TCP-LISTEN:7,fork", "SYSTEM:uname -n"])?;
    let address = format!("TCP:{}:7", n1.address());
    let heard = wait::until("n1 to answer n2", SOON, || n2.run(&["socat", "-", &address]))?;
    ensure!(heard == "n1\n", "{heard:?}");
    n1.disconnect()?;
    ensure!(
        n2.run(&["socat", "-T1", "-", &format!("{address},connect-timeout=1")]).is_err(),
        "cut off"
    );
    n1.reconnect()?;
    wait::until("n1 to answer again", SOON, || n2.run(&["socat", "-", &address]))?;
    ensure!(server.child().try_wait()?.is_none(), "the server has ended");
    Ok(())
}

#[test]
fn the_s3_server_refuses_to_create_what_exists() -> Result<()> {
    let lab = Lab::up(&LabOptions::for_tests().nodes(&["n1"]))?;
    let s3 = lab.s3()?;
    s3.make_bucket("first")?;
    ensure!(s3.put_new("first", "a/key", "one")?, "the first PUT creates");
    ensure!(!s3.put_new("first", "a/key", "two")?, "the second PUT is refused");
    ensure!(fs::read_to_string(s3.objects().join("first/a/key"))? == "one");

    // A node reaches it, and its objects outlive it.
    let url = format!("{}/first", s3.endpoint());
    lab.node("n1")?.run(&["curl", "--silent", "--max-time", "30", &url])?;
    s3.kill()?;
    ensure!(s3.put_new("first", "other", "x").is_err(), "nobody answers for a server that is gone");
    s3.start()?;
    ensure!(!s3.put_new("first", "a/key", "three")?, "a restarted server knows its objects");
    Ok(())
}

#[test]
fn a_power_loss_ends_even_frozen_containers_and_keeps_the_disks() -> Result<()> {
    let lab = Lab::up(&LabOptions::for_tests().nodes(&["n1"]))?;
    let node = lab.node("n1")?;
    node.import(Image::Mem)?;
    start_counter(&node, "running")?;
    start_counter(&node, "frozen")?;
    wait_for_count(&node, "frozen", 1)?;
    node.ctr(&["task", "pause", "frozen"])?;
    node.write_file("/var/lib/godwit/kept", "kept")?;
    node.write_file("/run/gone", "gone")?;
    let boot = node.read_file("/proc/sys/kernel/random/boot_id")?;

    node.power_loss()?;
    ensure!(!node.is_up() && node.exec(&["true"]).is_err(), "a node without power runs nothing");
    node.power_on()?;

    ensure!(node.ctr(&["task", "list", "--quiet"])?.is_empty(), "no task outlives its node");
    let containers = node.ctr(&["container", "list", "--quiet"])?;
    ensure!(containers.lines().eq(["frozen", "running"]), "{containers:?}");
    ensure!(node.read_file("/var/lib/godwit/kept")? == "kept");
    ensure!(node.read_file("/run/gone").is_err(), "/run is empty after a boot");
    ensure!(
        node.read_file("/proc/sys/kernel/random/boot_id")? != boot,
        "a boot has an id of its own"
    );
    Ok(())
}

#[test]
fn a_node_with_the_second_version_of_control_groups_runs_and_freezes_containers() -> Result<()> {
    let lab = Lab::up(&LabOptions::for_tests().nodes(&["n1"]).cgroup(CgroupView::V2))?;
    let node = lab.node("n1")?;
    ensure!(node.host_path("/sys/fs/cgroup/cgroup.controllers")?.exists(), "it sees cgroup2");
    node.import(Image::Mem)?;
    start_counter(&node, "counter")?;
    wait_for_count(&node, "counter", 1)?;
    node.ctr(&["task", "pause", "counter"])?;
    ensure!(node.read_file("/sys/fs/cgroup/default/counter/cgroup.freeze")?.trim() == "1");
    node.ctr(&["task", "resume", "counter"])?;
    let before = wait_for_count(&node, "counter", 1)?;
    wait_for_count(&node, "counter", before + 1)?;
    Ok(())
}

#[test]
fn a_lab_takes_over_what_a_killed_run_left_and_leaves_nothing_itself() -> Result<()> {
    let options = LabOptions::for_tests().nodes(&["n1"]);
    let mut killed = Lab::up(&options)?;
    let left = killed.node("n1")?.init_pid()?;
    killed.node("n1")?.write_file("/var/lib/godwit/old", "old")?;
    killed.keep();
    let (name, dir) = (killed.name().to_owned(), places::state().join(killed.name()));
    drop(killed);
    ensure!(Lab::attach(&name)?.node("n1")?.init_pid()? == left, "it is up without an owner");

    let lab = Lab::up(&options)?;
    wait::until_true("the old node to go", SOON, || !Path::new(&format!("/proc/{left}")).exists())?;
    ensure!(lab.node("n1")?.read_file("/var/lib/godwit/old").is_err(), "its disk is gone");
    let init = lab.node("n1")?.init_pid()?;
    drop(lab);
    wait::until_true("the node to be gone", SOON, || {
        !Path::new(&format!("/proc/{init}")).exists()
    })?;
    ensure!(!dir.exists(), "the state is gone");
    ensure!(Lab::attach(&name).is_err(), "the bridge is gone");
    let groups = fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!groups.contains(&dir.display().to_string()), "its mounts are gone");
    Lab::down(&name)?;
    Ok(())
}

#[test]
fn a_command_in_a_node_gives_its_status_and_ends_with_its_caller() -> Result<()> {
    let lab = Lab::up(&LabOptions::for_tests().nodes(&["n1"]))?;
    let node = lab.node("n1")?;
    ensure!(node.exec(&["sh", "-c", "echo out; echo err >&2; exit 7"])?.status.code() == Some(7));
    let failed = node.run(&["sh", "-c", "echo why >&2; exit 1"]).err().context("it failed")?;
    ensure!(failed.to_string().contains("why"), "{failed}");

    let sleeping =
        || node.exec(&["pgrep", "--full", "sleep 12345"]).is_ok_and(|o| o.status.success());
    let sleeper = node.spawn(&["sleep", "12345"])?;
    wait::until_true("the sleeper to start", SOON, sleeping)?;
    drop(sleeper);
    wait::until_true("the sleeper to end", SOON, || !sleeping())?;

    for delay in 0..40 {
        let sleeper = node.spawn(&["sleep", "12345"])?;
        std::thread::sleep(Duration::from_millis(delay));
        drop(sleeper);
    }
    wait::until_true("those that hardly began to end", SOON, || !sleeping())?;
    Ok(())
}
