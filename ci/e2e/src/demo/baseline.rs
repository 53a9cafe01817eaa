//! The usual chain, for comparison: `runc checkpoint`, `tar`, `zstd`, copy, `untar`, `runc restore`.

use std::time::Instant;

use anyhow::{Result, ensure};
use godwit_lab::Image;

use super::{Chain, connect, millis};
use crate::bed::Bed;
use crate::redis;
use crate::runc::Alone;

/// What both nodes see: the way from one to the other.
const SHARED: &str = "/lab/shared/chain.tar.zst";

/// Runs the same Redis by runc alone and moves it that way.
///
/// # Errors
/// A step failed, or a value is wrong afterwards.
pub(super) fn run(bed: &Bed, config: &str, mib: u64) -> Result<Chain> {
    let networks = (bed.n1.pod_network("chain", 104)?, bed.n2.pod_network("chain", 105)?);
    let source = Alone::prepare(&bed.n1, Image::Redis, config, Some(&networks.0))?;
    let target = Alone::prepare(&bed.n2, Image::Redis, config, Some(&networks.1))?;
    source.run()?;
    let keys = redis::fill(&mut connect(networks.0.address)?, mib)?;

    let begun = Instant::now();
    let frozen = source.checkpoint("images")?;
    source.sh(&format!("tar --create images | zstd --quiet --threads=0 -o {SHARED}"))?;
    let archived = begun.elapsed();
    target.sh(&format!(
        "cp {SHARED} chain.tar.zst; zstd --decompress --stdout --quiet chain.tar.zst | tar --extract"
    ))?;
    let asked = Instant::now();
    target.restore("images")?;
    let mut client = connect(networks.1.address)?;
    let (first_reply, downtime) = (asked.elapsed(), begun.elapsed());
    let wrong = redis::check_fill(&mut client, keys)?;
    ensure!(wrong.is_empty(), "{} values are wrong after the usual chain", wrong.len());
    let memory = target.sh("cat images/pages-*.img | wc --bytes")?.trim().parse()?;
    let images = target.bytes("images")?;
    let archive = target.bytes("chain.tar.zst")?;
    source.remove()?;
    target.remove()?;
    Ok(Chain {
        frozen_ms: millis(frozen),
        downtime_ms: millis(downtime),
        archived_ms: millis(archived),
        first_reply_ms: millis(first_reply),
        memory_bytes: memory,
        archive_bytes: archive,
        disk_bytes: 2 * (images + archive),
    })
}
