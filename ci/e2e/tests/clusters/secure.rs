//! Pods that may do little: what a security context takes from a container it has not after a move either.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::container::SOON;
use godwit_e2e::pods::{Clusters, Handler, Life, Pod};
use godwit_lab::{Cluster, Image, Node, Service, wait};
use godwit_types::names;
use serde_json::json;

const NAME: &str = "strict";
const COUNT: &str = "/data/count";
/// Not root.
const OTHER: u32 = 1000;
/// With threads of its own: a filter is each thread's.
const THREADS: [&str; 9] =
    ["memwriter", "--mib", "4", "--threads", "3", "--pause-ms", "50", "--file", "/data/threads"];
/// What `/proc/PID/status` says of what a thread may do.
const RIGHTS: [&str; 11] = [
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
];

/// As which user and group it runs: as nobody of note, where CRIU may read the limits of such a process. Without CAP_SYS_RESOURCE, which
/// some machines give to nobody, it may not; then the move of such a container is proved in a virtual machine alone (`vm/full.rs`).
fn ordinary_user(node: &Node) -> Result<u32> {
    const CAP_SYS_RESOURCE: u32 = 24;
    let agent = node.pid_of(Service::Agent).context("its agent")?;
    let status = node.run(&["cat", &format!("/proc/{agent}/status")])?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = u64::from_str_radix(effective.context("a line")?.trim(), 16)?;
    Ok(if effective & (1 << CAP_SYS_RESOURCE) == 0 { 0 } else { OTHER })
}

/// As the restricted level of the pod security standards wants it, and with a read-only root.
fn strict(user: u32) -> Pod {
    let rights = json!({
        "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
    });
    let container = |name: &str, command: &[&str]| {
        json!({
            "name": name, "image": Image::Mem.reference(), "imagePullPolicy": "Never",
            "command": command, "securityContext": rights,
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        })
    };
    let count = ["counter", "--every-ms", "20", "--file", COUNT];
    Pod::new(NAME, Handler::Godwit, Image::Mem, &[])
        .that_keeps()
        .with(
            "securityContext",
            json!({
                "runAsUser": user, "runAsGroup": user, "fsGroup": 2000,
                "seccompProfile": {"type": "RuntimeDefault"},
            }),
        )
        .with("volumes", json!([{"name": "data", "emptyDir": {}}]))
        .with("containers", json!([container("main", &count), container("threads", &THREADS)]))
}

/// What each thread of the first process of a container may do.
fn rights(pod: &Life<'_>, container: &str) -> Result<Vec<BTreeMap<String, String>>> {
    let said = pod.exec_in(container, &["sh", "-c", "cat /proc/1/task/*/status"])?;
    let mut threads = Vec::new();
    for line in said.lines() {
        let (name, value) = line.split_once(':').with_context(|| said.clone())?;
        if name == "Name" {
            threads.push(BTreeMap::new());
        }
        if RIGHTS.contains(&name) {
            let thread = threads.last_mut().context("a name comes first")?;
            let words: Vec<&str> = value.split_whitespace().collect();
            thread.insert(name.to_owned(), words.join(" "));
        }
    }
    ensure!(threads.iter().all(|thread| thread.len() == RIGHTS.len()), "{said}");
    Ok(threads)
}

/// What its security context says it may do, and no file of its image can be written.
fn is_strict(pod: &Life<'_>, user: u32) -> Result<[Vec<BTreeMap<String, String>>; 2]> {
    let found = [rights(pod, "main")?, rights(pod, "threads")?];
    ensure!(found[0].len() == 1 && found[1].len() > 3, "{found:?}");
    for thread in found.iter().flatten() {
        let is = |name: &str, value: &str| thread.get(name).is_some_and(|found| found == value);
        let four = vec![user.to_string(); 4].join(" ");
        ensure!(is("Uid", &four) && is("Gid", &four), "{thread:?}");
        ensure!(is("Groups", &format!("{user} 2000")) && is("NoNewPrivs", "1"), "{thread:?}");
        let without = |name: &&str| is(name, "0000000000000000");
        ensure!(RIGHTS.iter().filter(|name| name.starts_with("Cap")).all(without), "{thread:?}");
        ensure!(is("Seccomp", "2") && is("Seccomp_filters", "1"), "{thread:?}");
    }
    for container in ["main", "threads"] {
        let written = pod.exec_in(container, &["sh", "-c", "echo x >/tmp/x"]);
        let said = written.err().context("its root can be written")?.to_string();
        ensure!(said.contains("Read-only file system"), "{said}");
    }
    let of_files = pod.exec(&["stat", "--format=%u:%g", COUNT])?;
    ensure!(of_files.trim() == format!("{user}:2000"), "{of_files}");
    Ok(found)
}

#[test]
fn a_pod_that_may_do_little_may_do_no_more_after_a_move() -> Result<()> {
    let clusters = Clusters::up()?;
    let (a, b) = (&clusters.a, &clusters.b);
    let user = ordinary_user(&clusters.lab.node("a1")?)?;
    let strict = || strict(user);
    if user != OTHER {
        another_user_is_refused_by_name(a)?;
    }
    let first = Life::begin(a, &strict().on("a1").manifest(), NAME)?;
    let last = first.goes_beyond(COUNT, 20)?;
    let before = is_strict(&first, user)?;
    first.stop()?;

    let second = Life::begin(a, &strict().on("a2").manifest(), NAME)?;
    second.went_on(COUNT, last)?;
    let after = is_strict(&second, user)?;
    ensure!(after == before, "{after:?}; before {before:?}");
    let last = second.number(COUNT)?;
    let point = second.stop()?;

    let named = strict().annotated(names::RESTORE_FROM, &point);
    let third = Life::begin(b, &named.manifest(), NAME)?;
    third.went_on(COUNT, last)?;
    let after = is_strict(&third, user)?;
    ensure!(after == before, "{after:?}; before {before:?}");
    third.stop()?;
    clusters.leave()
}

/// Where CRIU may not read its limits.
fn another_user_is_refused_by_name(cluster: &Cluster) -> Result<()> {
    let pod = Life::begin(cluster, &strict(OTHER).manifest(), NAME)?;
    is_strict(&pod, OTHER)?;
    let said = eligible(&pod)?;
    ensure!(said.contains("lacks CAP_SYS_RESOURCE"), "{said}");
    pod.delete(&format!("pod/{NAME}"))?;
    let failed = pod.event("CheckpointFailed")?;
    ensure!(failed.contains("lacks CAP_SYS_RESOURCE"), "{failed}");
    Ok(())
}

/// What its agent says of a pod that was just made.
fn eligible(pod: &Life<'_>) -> Result<String> {
    Ok(wait::until("whether it is eligible", SOON, || {
        let said = pod.annotation(names::ELIGIBLE).map_err(|error| format!("{error:#}"))?;
        said.ok_or_else(|| "nothing is said".to_owned())
    })?)
}

#[test]
fn a_pod_with_users_of_its_own_runs_and_is_told_that_it_cannot_be_checkpointed() -> Result<()> {
    const WHY: &str = "the container has a user namespace (hostUsers: false)";
    let clusters = Clusters::up()?;
    let a = &clusters.a;
    let words = ["counter", "--every-ms", "20", "--file", "/count"];
    let pod = Pod::new("own-users", Handler::Godwit, Image::Mem, &words);
    let pod = Life::begin(a, &pod.with("hostUsers", json!(false)).manifest(), "own-users")?;
    let map = pod.exec(&["cat", "/proc/1/uid_map"])?;
    let map: Vec<&str> = map.split_whitespace().collect();
    ensure!(map.len() == 3 && map[0] == "0" && map[1] != "0", "{map:?}");
    let eligible = eligible(&pod)?;
    ensure!(eligible.contains(WHY), "{eligible}");
    pod.ask_for_checkpoint()?;
    let failed = pod.event("CheckpointFailed")?;
    ensure!(failed.contains(WHY), "{failed}");
    ensure!(pod.annotation(names::LAST_CHECKPOINT)?.is_none(), "{failed}");
    let now = pod.number("/count")?;
    pod.goes_beyond("/count", now)?;
    pod.delete("pod/own-users")?;
    clusters.leave()
}
