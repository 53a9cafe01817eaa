//! The usual chain, for comparison: `runc checkpoint`, `tar`, `zstd`, copy, `untar`, `runc restore`.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use godwit_lab::{Image, Node};
use serde_json::{Value, json};

use super::{Chain, connect, millis};
use crate::bed::Bed;
use crate::redis;

/// Where containerd keeps bundles.
pub(super) const BUNDLES: &str = "/run/containerd/io.containerd.runtime.v2.task/default";
/// On the node's disk.
const PLACE: &str = "/var/lib/chain";
/// What both nodes see: the way from one to the other.
const SHARED: &str = "/lab/shared/chain.tar.zst";

/// Runs the same Redis by runc alone and moves it that way.
///
/// # Errors
/// A step failed, or a value is wrong afterwards.
pub(super) fn run(bed: &Bed, config: &str, mib: u64) -> Result<Chain> {
    let networks = (bed.n1.pod_network("chain", 104)?, bed.n2.pod_network("chain", 105)?);
    for node in [&bed.n1, &bed.n2] {
        bundle(node, config)?;
    }
    sh(&bed.n1, "runc --root /run/chain run --detach --bundle . chain </dev/null >/dev/null 2>&1")?;
    let keys = redis::fill(&mut connect(networks.0.address)?, mib)?;

    let begun = Instant::now();
    sh(&bed.n1, "runc --root /run/chain checkpoint --image-path images chain")?;
    let frozen = begun.elapsed();
    sh(&bed.n1, &format!("tar --create images | zstd --quiet --threads=0 -o {SHARED}"))?;
    sh(
        &bed.n2,
        &format!(
            "cp {SHARED} chain.tar.zst; zstd --decompress --stdout --quiet chain.tar.zst | tar --extract"
        ),
    )?;
    sh(
        &bed.n2,
        "runc --root /run/chain restore --detach --bundle . --image-path images chain </dev/null >/dev/null 2>&1",
    )?;
    let mut client = connect(networks.1.address)?;
    let downtime = begun.elapsed();
    let wrong = redis::check_fill(&mut client, keys)?;
    ensure!(wrong.is_empty(), "{} values are wrong after the usual chain", wrong.len());
    let images = bytes(&bed.n2, "images")?;
    let archive = bytes(&bed.n2, "chain.tar.zst")?;
    for node in [&bed.n1, &bed.n2] {
        sh(node, "runc --root /run/chain delete --force chain; umount rootfs")?;
    }
    Ok(Chain {
        frozen_ms: millis(frozen),
        downtime_ms: millis(downtime),
        archive_bytes: archive,
        disk_bytes: 2 * (images + archive),
    })
}

/// A bundle with the image's files and the spec of the container that Godwit has moved.
fn bundle(node: &Node, config: &str) -> Result<()> {
    let mut config: Value = serde_json::from_str(config)?;
    config["linux"]["cgroupsPath"] = json!("/chain/redis");
    let namespaces = config["linux"]["namespaces"].as_array_mut().context("namespaces")?;
    for namespace in namespaces.iter_mut().filter(|n| n["type"] == "network") {
        namespace["path"] = json!("/run/netns/chain");
    }
    node.sh(&format!("mkdir -p {PLACE}/rootfs {PLACE}/images"))?;
    node.ctr(&["image", "mount", "--rw", Image::Redis.reference(), &format!("{PLACE}/rootfs")])?;
    config["root"]["path"] = json!("rootfs");
    node.write_file(&format!("{PLACE}/config.json"), config.to_string())?;
    Ok(())
}

fn sh(node: &Node, line: &str) -> Result<String> {
    Ok(node.sh(&format!("cd {PLACE}; {line}"))?)
}

/// What a file or directory takes.
fn bytes(node: &Node, path: &str) -> Result<u64> {
    let text = sh(node, &format!("du --summarize --block-size=1 {path} | cut --fields=1"))?;
    text.trim().parse().with_context(|| format!("du said {text:?}"))
}
