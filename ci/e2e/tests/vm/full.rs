//! What takes minutes in a machine: power loss with a sealed and with a hydrating container, limits under both cgroup drivers, a
//! container that may do little, another release.

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::container::PROGRESS;
use godwit_e2e::release::Release;
use godwit_lab::default_bin_dir;
use godwit_lab::vm::Reboot;

use crate::kit::{Bed, Counter, OTHER};

/// So slow that memory is on its way for as long as a test needs.
const SLOW: &str = "max_bytes_per_second = 1048576";
/// Makes the next agent die at a place, once: nobody starts another one.
const DROP_IN: &str = "/etc/systemd/system/godwit-agent.service.d/test.conf";

fn installed() -> Result<Bed> {
    let bed = Bed::up(&Release::whole(&default_bin_dir()))?;
    bed.install(&[])?;
    Ok(bed)
}

#[test]
#[ignore = "minutes: `make vm-test`"]
fn a_sealed_container_outlives_a_power_loss_as_its_last_checkpoint() -> Result<()> {
    let bed = installed()?;
    let web = Counter::new("web");
    web.run(&bed)?;
    let at = web.wait_beyond(&bed, 3)?;
    let point = web.checkpoint(&bed, &[])?;
    bed.vm.sh(&format!(
        "mkdir -p $(dirname {DROP_IN})
        printf '[Service]\\nRestart=no\\nEnvironment=GODWIT_FAILPOINT=seal.answered\\n' >{DROP_IN}
        systemctl daemon-reload; systemctl restart godwit-agent"
    ))?;
    // systemd is told that it is there when shims can ask it; people can a moment later.
    bed.wait_for("the agent to answer", "godwit status")?;
    let failed = web.checkpoint(&bed, &["--stop"]);
    let failed = failed.err().context("it succeeded without an agent")?;
    bed.wait_for("the agent to die", "! systemctl is-active --quiet godwit-agent")
        .with_context(|| format!("the checkpoint failed: {failed:#}"))?;
    bed.vm.sh(&format!("rm {DROP_IN}; sync"))?;
    bed.vm.reboot(Reboot::PowerLoss)?;

    // Only its shim knew what was to be written: it has never stopped, and its last checkpoint is the one before. The container object
    // is still there, its task is not.
    bed.wait_for("the agent to answer", "godwit status")?;
    let list: serde_json::Value = serde_json::from_str(&bed.vm.sh("godwit list --output json")?)?;
    let ids: Vec<_> = list["checkpoints"].as_array().context("a list")?.iter().collect();
    ensure!(matches!(ids[..], [one] if one["id"] == *point), "{list}");
    bed.vm.run(&["ctr", "container", "rm", "web"])?;
    web.restore(&bed, &point)?;
    web.wait_beyond(&bed, at)?;
    web.remove(&bed)
}

#[test]
#[ignore = "minutes: `make vm-test`"]
fn a_hydrating_container_is_continued_after_a_power_loss() -> Result<()> {
    let bed = installed()?;
    let words = ["memwriter", "--mib", "64", "--file", PROGRESS, "--pause-ms", "100"];
    let writer = Counter::running("writer", &words);
    writer.run(&bed)?;
    writer.wait_beyond(&bed, 1)?;
    let point = writer.checkpoint(&bed, &["--stop"])?;
    writer.remove(&bed)?;
    let slow = format!(
        "cp /etc/godwit/agent.toml /root/quick.toml
        sed -i '/^url = /a {SLOW}' /etc/godwit/agent.toml; systemctl restart godwit-agent"
    );
    bed.vm.sh(&slow)?;
    writer.restore(&bed, &point)?;
    bed.vm.sh("pgrep godwit-pager; cp /root/quick.toml /etc/godwit/agent.toml; sync")?;
    bed.vm.reboot(Reboot::PowerLoss)?;
    ensure!(bed.vm.sh("systemctl is-active godwit-agent")? == "active\n", "the agent is not there");
    bed.vm.run(&["ctr", "container", "rm", "writer"])?;
    writer.restore(&bed, &point)?;
    // It checks every page for ever, and ends as soon as one is not as it left it.
    let now = writer.wait_beyond(&bed, 0)?;
    writer.wait_beyond(&bed, now + 2)?;
    bed.wait_for("all of its memory", "! pgrep godwit-pager")?;
    writer.remove(&bed)
}

#[test]
#[ignore = "minutes: `make vm-test`"]
fn containers_with_limits_move_under_both_cgroup_drivers() -> Result<()> {
    let bed = installed()?;
    bed.vm.sh("printf 'SystemdCgroup = true\\n' >/root/systemd.toml")?;
    // As the kubelet names them.
    let drivers = [
        ("/kubepods/burstable/pod1/web", &[][..]),
        (
            "kubepods-burstable-pod1.slice:cri-containerd:web",
            &["--runtime-config-path", "/root/systemd.toml"],
        ),
    ];
    for (group, more) in drivers {
        let limits =
            ["--memory-limit", "268435456", "--cpu-quota", "50000", "--cpu-period", "100000"];
        let web = Counter::new("web").with(&["--cgroup", group]).with(&limits).with(more);
        web.run(&bed)?;
        let at = web.wait_beyond(&bed, 3)?;
        let limits = has_limits(&bed, &web)?;
        let point = web.checkpoint(&bed, &["--stop"])?;
        web.remove(&bed)?;
        web.restore(&bed, &point)?;
        web.wait_beyond(&bed, at)?;
        ensure!(has_limits(&bed, &web)? == limits, "its group is another one: {limits}");
        web.remove(&bed)?;
    }
    Ok(())
}

/// The group of a container, with the limits that it must have.
fn has_limits(bed: &Bed, web: &Counter) -> Result<String> {
    let look = format!(
        "group=/sys/fs/cgroup$(sed 's/^0:://' /proc/$({})/cgroup); echo $group; cat $group/memory.max $group/cpu.max",
        web.pid_line()
    );
    let told = bed.vm.sh(&look)?;
    ensure!(told.ends_with("268435456\n50000 100000\n"), "{told}");
    Ok(told)
}

/// What containerd gives to containers, which not even root of one needs to count.
const DROPPED: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

#[test]
#[ignore = "minutes: `make vm-test`"]
fn a_container_that_may_do_little_may_do_no_more_after_a_move() -> Result<()> {
    let bed = installed()?;
    let dropped: Vec<&str> = DROPPED.iter().flat_map(|name| ["--cap-drop", *name]).collect();
    // With threads of its own: a filter is each thread's.
    let words = ["memwriter", "--mib", "4", "--threads", "3", "--pause-ms", "100"];
    let words = [&words[..], &["--file", "/dev/shm/progress"]].concat();
    let web = Counter::running("web", &words)
        .with(&["--user", "1000:1000", "--read-only", "--seccomp"])
        .with(&dropped);
    web.run(&bed)?;
    let at = web.wait_beyond(&bed, 1)?;
    let before = rights(&bed, &web)?;
    let strict = [
        "Uid: 1000 1000 1000 1000",
        "Gid: 1000 1000 1000 1000",
        "CapPrm: 0000000000000000",
        "CapBnd: 0000000000000000",
        "NoNewPrivs: 1",
        "Seccomp: 2",
    ];
    for wanted in strict {
        ensure!(before.iter().all(|thread| thread.contains(&format!("{wanted}\n"))), "{before:?}");
    }
    ensure!(before.len() > 3, "{before:?}");
    let point = web.checkpoint(&bed, &["--stop"])?;
    web.remove(&bed)?;
    web.restore(&bed, &point)?;
    web.wait_beyond(&bed, at)?;
    let after = rights(&bed, &web)?;
    ensure!(after == before, "{after:?}; before {before:?}");
    web.remove(&bed)
}

/// What each thread of a container's first process may do.
fn rights(bed: &Bed, of: &Counter) -> Result<Vec<String>> {
    let names = "^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp|Seccomp_filters):";
    let look = format!(
        "for thread in /proc/$({})/task/*; do echo; grep --extended-regexp '{names}' $thread/status; done",
        of.pid_line()
    );
    let said = bed.vm.sh(&look)?;
    let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n";
    let thread = |part: &str| part.lines().map(line).collect::<String>();
    Ok(said.trim().split("\n\n").map(thread).collect())
}

#[test]
#[ignore = "minutes: `make vm-test`"]
fn another_release_is_there_after_a_reboot_and_containers_run_on() -> Result<()> {
    let other = Release::other_than(&default_bin_dir())?;
    let bed = Bed::with_two(&Release::whole(&default_bin_dir()), &other)?;
    let before = bed.snapshot()?;
    bed.vm.sh("echo 'kind: KubeletConfiguration' >/root/kubelet.yaml")?;
    bed.install(&["--kubelet-config", "/root/kubelet.yaml"])?;
    let web = Counter::new("web");
    web.run(&bed)?;
    let at = web.wait_beyond(&bed, 3)?;
    let current = || Ok::<_, anyhow::Error>(bed.vm.sh("readlink /opt/godwit/current")?);
    let first = current()?;
    bed.install_from(OTHER, &[])?;
    ensure!(current()? != first, "still {first}");
    // The agent of the new release speaks with the shim of the old one.
    let running = bed
        .vm
        .sh("readlink /proc/$(systemctl show --value --property MainPID godwit-agent)/exe")?;
    ensure!(running.starts_with(current()?.trim()), "the agent runs {running}");
    // The proxy of the new one has taken over: a reload, no restart.
    let proxy = bed.vm.sh("systemctl show --value --property NRestarts godwit-cri-proxy
        readlink /proc/$(systemctl show --value --property MainPID godwit-cri-proxy)/exe")?;
    ensure!(proxy.starts_with(&format!("0\n{}", current()?.trim())), "the proxy runs {proxy}");
    let at = web.wait_beyond(&bed, at)?;
    let point = web.checkpoint(&bed, &["--stop"])?;
    web.remove(&bed)?;

    bed.vm.reboot(Reboot::Orderly)?;
    let running = bed.vm.sh("systemctl is-active godwit-agent containerd; godwit status")?;
    ensure!(running.starts_with("active\nactive\n"), "{running}");
    web.restore(&bed, &point)?;
    web.wait_beyond(&bed, at)?;
    bed.install(&[])?;
    ensure!(current()? == first, "not taken back");
    let now = web.wait_beyond(&bed, at)?;
    web.wait_beyond(&bed, now)?;
    web.remove(&bed)?;
    bed.install(&["--revert"])?;
    bed.is_as(&before)?;
    bed.runs_plain_containers()
}
