//! Two clusters that continue the same pod at the same time: one of them does.

use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use godwit_e2e::clean;
use godwit_e2e::container::SOON;
use godwit_e2e::pods::{Clusters, Handler, Pod, delete, event, event_says, events, number};
use godwit_lab::{Cluster, Image, wait};
use godwit_types::names;
use serde_json::Value;

const NAME: &str = "raced";
const OBJECT: &str = "pod/raced";
const WORDS: [&str; 5] = ["counter", "--every-ms", "20", "--file", "/count"];

fn pod(node: &str) -> Pod {
    Pod::new(NAME, Handler::Godwit, Image::Mem, &WORDS)
        .on(node)
        .annotated(names::CHECKPOINT_ON_STOP, "true")
        .with("terminationGracePeriodSeconds", 60.into())
}

fn count(cluster: &Cluster) -> Result<u64> {
    number(cluster, NAME, None, "/count")
}

/// What the kubelet says of its only container: `running`, or what it waits for.
fn state(cluster: &Cluster) -> Result<String> {
    let found = cluster.get(&["pod", NAME])?;
    let state = &found["status"]["containerStatuses"][0]["state"];
    Ok(match (&state["running"], &state["waiting"]["reason"]) {
        (Value::Object(_), _) => "running".to_owned(),
        (_, Value::String(reason)) => reason.clone(),
        _ => state.to_string(),
    })
}

/// The cluster that runs it, and the one that does not and was told why.
fn decided<'c>(a: &'c Cluster, b: &'c Cluster) -> Result<(&'c Cluster, &'c Cluster)> {
    let refused = ["RunContainerError", "CrashLoopBackOff", "CreateContainerError"];
    Ok(wait::until("one of the clusters to run it", SOON, || {
        let states = [a, b].map(|cluster| state(cluster).unwrap_or_default());
        match states.each_ref().map(String::as_str) {
            ["running", other] if refused.contains(&other) => Ok((a, b)),
            [other, "running"] if refused.contains(&other) => Ok((b, a)),
            _ => Err(format!("{states:?}\n{}\n{}", events(a), events(b))),
        }
    })?)
}

fn uid(cluster: &Cluster) -> Result<String> {
    let found = cluster.get(&["pod", NAME])?;
    Ok(found["metadata"]["uid"].as_str().context("a pod")?.to_owned())
}

/// Races until each has been decided; how often each of them has won.
fn race(rounds: u32) -> Result<()> {
    let clusters = Clusters::up()?;
    let (a, b) = (&clusters.a, &clusters.b);
    a.apply(&pod("a1").manifest())?;
    a.wait_for(&[OBJECT], "condition=Ready")?;
    let (mut runs, mut won) = (a, [0, 0]);
    for round in 0..rounds {
        let (last, before) = (count(runs)?, uid(runs)?);
        delete(runs, OBJECT)?;
        let note = event(runs, &before, "CheckpointCompleted")?;
        let id = note.split_whitespace().nth(1).with_context(|| note.clone())?;
        let continued = |node| pod(node).annotated(names::RESTORE_FROM, id).manifest();
        thread::scope(|scope| -> Result<()> {
            let other = scope.spawn(|| b.apply(&continued("b1")));
            a.apply(&continued("a2"))?;
            match other.join() {
                Ok(applied) => Ok(applied?),
                Err(_) => bail!("a panic"),
            }
        })?;
        let (winner, loser) = decided(a, b).with_context(|| format!("round {round}"))?;
        let now = count(winner)?;
        ensure!(now >= last, "round {round}: {now} after {last}: {}", events(winner));
        clean::only(clusters.workers(), "counter", 1).with_context(|| format!("round {round}"))?;
        // It came too late, or in the middle.
        let why = ["still runs on", "somebody else was faster"];
        event_says(loser, &uid(loser)?, "RestoreFailed", &why)?;
        delete(loser, OBJECT)?;
        won[usize::from(std::ptr::eq(winner, b))] += 1;
        runs = winner;
    }
    println!("{won:?} rounds were won by each cluster");
    delete(runs, OBJECT)?;
    clusters.leave()
}

#[test]
fn one_of_two_clusters_that_continue_a_pod_at_once_runs_it() -> Result<()> {
    race(4)
}

#[test]
#[ignore = "twenty minutes: `make test-full`"]
fn one_of_two_clusters_runs_a_pod_in_a_hundred_races() -> Result<()> {
    race(100)
}
