//! Times of one container of known size, interleaved with the same by runc alone: ratios within one run, never times by themselves.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use godwit_lab::{Image, LabOptions, Node, wait};
use serde::Serialize;

use crate::bed::{Bed, Store};
use crate::container::{BUNDLES, Container, SOON};
use crate::runc::Alone;
use crate::versions::Versions;

/// tmpfs of a node: the fastest place that there is for runc's images.
const TMPFS: &str = "/run/chain-images";
/// Where the program tells that its memory is filled.
const READY: &str = "/ready";

/// What is measured.
#[derive(Debug, Clone)]
pub struct Bench {
    /// Where checkpoints go.
    pub store: Store,
    /// Memory of the container: MiB.
    pub mib: u64,
    /// Rounds; the median of them counts.
    pub rounds: usize,
}

/// One round: milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Round {
    /// Godwit: frozen by a checkpoint that leaves it running, everything changed.
    pub run_frozen: f64,
    /// Godwit: frozen by a checkpoint that stops it.
    pub stop_frozen: f64,
    /// Godwit: from the request to restore until it runs.
    pub restore: f64,
    /// Godwit: from the request to checkpoint until it runs on the other node.
    pub whole: f64,
    /// Godwit: from the request to restore until all memory is there.
    pub resident: f64,
    /// runc: frozen by a checkpoint to tmpfs, by CRIU's own count.
    pub runc_frozen: f64,
    /// runc: the whole checkpoint to tmpfs.
    pub runc_checkpoint: f64,
    /// runc: restore from tmpfs.
    pub runc_restore: f64,
}

/// The medians.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// What was measured.
    pub versions: Versions,
    /// Memory of the container: MiB.
    pub mib: u64,
    /// Each round.
    pub rounds: Vec<Round>,
    /// The median of each value.
    pub median: Round,
}

impl Bench {
    /// Measures; `say` gets a line for each round.
    ///
    /// # Errors
    /// A step failed.
    pub fn run(&self, say: &mut dyn FnMut(&str)) -> Result<Outcome> {
        let settings = "memory_budget = \"6 GiB\"\n";
        let mut bed = Bed::up(&LabOptions::new("bench"), self.store, settings, &[Image::Mem])?;
        let versions = Versions::of(&bed.n1)?;
        let mib = self.mib.to_string();
        let words = ["memwriter", "--mib", &mib, "--write-per-mille", "0", "--pause-ms", "1000"];
        let words: Vec<&str> = words.into_iter().chain(["--file", READY]).collect();
        let mut rounds = Vec::new();
        for round in 0..self.rounds {
            let writer = Container::new(&format!("bench{round}"), Image::Mem, &words);
            let measured = one(&bed, &writer)?;
            say(&format!("round {} of {}: {measured:.0?}", round + 1, self.rounds));
            rounds.push(measured);
        }
        bed.lab.done();
        let median = median(&rounds);
        Ok(Outcome { versions, mib: self.mib, rounds, median })
    }
}

fn one(bed: &Bed, writer: &Container) -> Result<Round> {
    let mut round = Round::default();
    writer.run(&bed.n1)?;
    let bundle = format!("{BUNDLES}/{}", writer.id);
    filled(&bed.n1, &format!("{bundle}/rootfs"))?;
    let config = bed.n1.read_file(&format!("{bundle}/config.json"))?;
    round.run_frozen = writer.checkpoint(&bed.n1, &["--full"])?.frozen_ms;
    let begun = Instant::now();
    let stopped = writer.checkpoint(&bed.n1, &["--stop", "--full"])?;
    let asked = Instant::now();
    writer.restore(&bed.n2, &stopped.checkpoint.to_string())?;
    round.stop_frozen = stopped.frozen_ms;
    (round.restore, round.whole) = (millis(asked), millis(begun));
    writer.wait_state(&bed.n2, "running")?;
    round.resident = millis(asked);
    writer.remove(&bed.n1)?;
    writer.remove(&bed.n2)?;

    let alone = Alone::prepare(&bed.n1, Image::Mem, &config, None)?;
    alone.run()?;
    filled(&bed.n1, "/var/lib/chain/rootfs")?;
    alone.sh(&format!("rm --recursive --force {TMPFS}; mkdir {TMPFS}"))?;
    let begun = Instant::now();
    round.runc_frozen = alone.checkpoint(TMPFS)?.as_secs_f64() * 1e3;
    round.runc_checkpoint = millis(begun);
    let begun = Instant::now();
    alone.restore(TMPFS)?;
    round.runc_restore = millis(begun);
    alone.sh(&format!("rm --recursive {TMPFS}"))?;
    alone.remove()?;
    Ok(round)
}

/// Waits until all memory has been written.
fn filled(node: &Node, rootfs: &str) -> Result<()> {
    let ready = format!("{rootfs}{READY}");
    wait::until("memory to be filled", SOON, || node.read_file(&ready)).context("memwriter")?;
    Ok(())
}

fn millis(since: Instant) -> f64 {
    let time: Duration = since.elapsed();
    time.as_secs_f64() * 1e3
}

/// The median of one value of all rounds.
pub(crate) fn median_of<R>(rounds: &[R], get: fn(&R) -> f64) -> f64 {
    let mut all: Vec<f64> = rounds.iter().map(get).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}

fn median(rounds: &[Round]) -> Round {
    let of = |get| median_of(rounds, get);
    Round {
        run_frozen: of(|r| r.run_frozen),
        stop_frozen: of(|r| r.stop_frozen),
        restore: of(|r| r.restore),
        whole: of(|r| r.whole),
        resident: of(|r| r.resident),
        runc_frozen: of(|r| r.runc_frozen),
        runc_checkpoint: of(|r| r.runc_checkpoint),
        runc_restore: of(|r| r.runc_restore),
    }
}
