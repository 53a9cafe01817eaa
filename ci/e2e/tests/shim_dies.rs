//! A shim is killed in the middle of a checkpoint or of a restore. Its container dies with it; the log agrees, nothing is left on the
//! node, and the container is continued from its last point, once. Needs programs that were built with the feature `failpoints` of
//! `godwit-wire`, as `make` does.

use anyhow::{Context as _, Result, ensure};
use godwit_e2e::bed::{Bed, Store};
use godwit_e2e::clean;
use godwit_e2e::container::Container;
use godwit_lab::{Image, LabOptions, Node};
use godwit_wire::failpoint::VARIABLE;

/// Where containerd finds the shim, where it is instead, and the site at which those die that start now.
const SHIM: &str = "/usr/local/bin/containerd-shim-godwit-v2";
const REAL: &str = "/usr/local/lib/godwit/containerd-shim-godwit-v2";
const SITE: &str = "/run/failpoint";

/// Sites of the second checkpoint, before the seal: the first one is where it goes on from.
const UNSEALED_SITES: [(&str, &[&str]); 4] = [
    ("shim.CriuStarted.received:2", &["--stop"]),
    ("shim.Frozen.sent:2", &["--stop"]),
    ("shim.Thawed.sent:2", &[]),
    ("shim.Seal.received", &["--stop"]),
];

const SEALED_SITES: [&str; 2] = ["shim.Sealed.sent", "shim.Stopped.received"];

/// Sites of a restore, before its tasks are released and after.
const RESTORE_SITES: [&str; 5] = [
    "shim.Plan.received",
    "restore.held",
    "shim.FenceWritten.sent",
    "restore.release.before",
    "shim.Resumed.sent",
];

fn counter(id: &str) -> Container {
    let script =
        "i=0; while :; do i=$((i+1)); echo $i >/next; mv /next /progress; sleep 0.05; done";
    Container::new(id, Image::Shell, &["sh", "-c", script])
}

fn bed() -> Result<Bed> {
    let bed = Bed::up(&LabOptions::for_tests(), Store::File, "", &[Image::Shell])?;
    for node in [&bed.n1, &bed.n2] {
        node.sh(&format!("mkdir -p $(dirname {REAL}) && mv {SHIM} {REAL}"))?;
        let script = format!(
            "#!/bin/sh\nif [ -e {SITE} ]; then export {VARIABLE}=$(cat {SITE}); fi\nexec {REAL} \"$@\"\n"
        );
        node.write_file(SHIM, script)?;
        node.run(&["chmod", "+x", SHIM])?;
    }
    Ok(bed)
}

/// Does this; the shim that starts meanwhile dies at that site.
fn armed<T>(node: &Node, site: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    node.write_file(SITE, site)?;
    let done = work();
    node.run(&["rm", SITE])?;
    done
}

/// containerd has cleaned up, the log has its death, and nothing of it is left.
fn wait_buried(web: &Container, node: &Node) -> Result<()> {
    web.wait_buried(node)?;
    node.ctr(&["container", "rm", &web.id])?;
    clean::wait(node)
}

/// The newest checkpoint that there is.
fn newest(web: &Container, node: &Node) -> Result<String> {
    let json: serde_json::Value =
        serde_json::from_str(&node.run(&["godwit", "list", "--output", "json"])?)?;
    let all = json["checkpoints"].as_array().context("checkpoints")?;
    let mine = all.iter().find(|c| c["pod"] == web.id.as_str());
    Ok(mine.and_then(|c| c["id"].as_str()).context("no recovery point")?.to_owned())
}

/// It is continued on the first node, and not a second time on the other; then it is taken away.
fn goes_on_once(web: &Container, node: &Node, other: &Node, point: &str) -> Result<()> {
    web.restore(node, point)?;
    web.wait_beyond(node, web.progress(node)?)?;
    ensure!(web.restore(other, point).is_err(), "it runs twice");
    web.remove(other)?;
    web.wait_state(node, "running")?;
    // The log agrees: it is this node's to stop.
    web.checkpoint(node, &["--stop"])?;
    web.remove(node)?;
    clean::wait(node)?;
    clean::wait(other)
}

/// A container whose shim dies at that site of its second checkpoint; its first point.
fn checkpoint_dies(bed: &Bed, web: &Container, site: &str, flags: &[&str]) -> Result<String> {
    armed(&bed.n1, site, || web.run(&bed.n1))?;
    web.wait_beyond(&bed.n1, 0)?;
    let first = web.checkpoint(&bed.n1, &[])?.checkpoint.to_string();
    let told = web.checkpoint(&bed.n1, flags);
    wait_buried(web, &bed.n1).with_context(|| format!("after {told:?}"))?;
    Ok(first)
}

#[test]
fn in_a_checkpoint_before_the_seal() -> Result<()> {
    let bed = bed()?;
    for (n, (site, flags)) in UNSEALED_SITES.iter().enumerate() {
        let web = counter(&format!("web{n}"));
        let dies = || {
            let first = checkpoint_dies(&bed, &web, site, flags)?;
            let point = newest(&web, &bed.n2)?;
            // What left it running may have been stored all the same.
            ensure!(point == first || flags.is_empty(), "{point} is no point: {first} is");
            goes_on_once(&web, &bed.n2, &bed.n1, &point)
        };
        dies().with_context(|| format!("killed at {site}"))?;
    }
    Ok(())
}

#[test]
fn in_a_checkpoint_after_the_seal() -> Result<()> {
    let bed = bed()?;
    for (n, site) in SEALED_SITES.iter().enumerate() {
        let web = counter(&format!("web{n}"));
        let dies = || {
            checkpoint_dies(&bed, &web, site, &["--stop"])?;
            goes_on_once(&web, &bed.n2, &bed.n1, &newest(&web, &bed.n2)?)
        };
        dies().with_context(|| format!("killed at {site}"))?;
    }
    Ok(())
}

#[test]
fn in_a_restore() -> Result<()> {
    let bed = bed()?;
    for (n, site) in RESTORE_SITES.iter().enumerate() {
        let web = counter(&format!("web{n}"));
        let dies = || {
            web.run(&bed.n1)?;
            web.wait_beyond(&bed.n1, 0)?;
            let point = web.checkpoint(&bed.n1, &["--stop"])?.checkpoint.to_string();
            web.remove(&bed.n1)?;
            let told = armed(&bed.n2, site, || Ok(web.restore(&bed.n2, &point)))?;
            wait_buried(&web, &bed.n2).with_context(|| format!("after {told:?}"))?;
            goes_on_once(&web, &bed.n1, &bed.n2, &point)
        };
        dies().with_context(|| format!("killed at {site}"))?;
    }
    Ok(())
}
