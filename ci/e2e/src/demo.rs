//! The main job, as a user does it: Redis moves to another node while a client works; then an incremental checkpoint that leaves
//! it running, and a copy of that one; then Redis moves back. Everything is checked; what cannot be proved is an error.

mod baseline;
mod report;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use godwit_lab::{Image, LabOptions, Node, PodNetwork};
use godwit_types::CheckpointReport;
use serde::Serialize;

use crate::bed::{Bed, Store};
use crate::clean;
use crate::container::{BUNDLES, Container};
use crate::fences::Fences;
use crate::redis::load::{Load, Seen};
use crate::redis::{self, PORT, connect};

pub use report::{Chain, Fork, Incremental, Move, Report};

/// What the server's process is called.
const PROCESS: &str = "redis-server";
/// What our processes and CRIU may write to local disks for a move through S3: fences and little else, never memory.
const DISK_LIMIT: u64 = 1 << 20;
/// How long the freeze lasts is measured; a slow machine shall not end it.
const PATIENT: &str = "freeze_deadline = \"1min\"\n";

/// What is shown.
#[derive(Debug, Clone)]
pub struct Demo {
    /// Where checkpoints go.
    pub store: Store,
    /// Values in Redis: MiB.
    pub mib: u64,
    /// Whether the usual chain is measured too.
    pub baseline: bool,
    /// The lab.
    pub lab: LabOptions,
}

impl Demo {
    /// Does it; `say` gets a line before each step.
    ///
    /// # Errors
    /// A step failed, or a proof did.
    pub fn run(&self, say: &mut dyn FnMut(&str)) -> Result<Report> {
        say("starting two nodes with containerd and Godwit");
        let mut bed = Bed::up(&self.lab, self.store, PATIENT, &[Image::Redis])?;
        let report = self.report(&bed, say)?;
        bed.lab.done();
        Ok(report)
    }

    fn report(&self, bed: &Bed, say: &mut dyn FnMut(&str)) -> Result<Report> {
        let networks = [bed.n1.pod_network("redis", 101)?, bed.n2.pod_network("redis", 102)?];
        let [first, second] = [networks[0].address, networks[1].address];
        let redis = Container::new("redis", Image::Redis, &[]).on(&networks[0]);

        say(&format!("Redis on n1: filling {} MiB of random and JSON values", self.mib));
        redis.run(&bed.n1)?;
        let keys = redis::fill(&mut connect(first)?, self.mib)?;
        let config = bed.n1.read_file(&format!("{}/redis/config.json", BUNDLES))?;
        let mut stage = Stage { bed, redis, networks, seen: Seen::default() };

        say("moving it to n2 while a client writes and checks every reply");
        let moved = stage.moves(&bed.n1, &bed.n2, second)?;
        stage.seen.prove(&mut connect(second)?, keys)?;

        say("an incremental checkpoint on n2 that leaves it running, and a copy of it on n1");
        let (incremental, fork) = copying(bed, &stage.redis, keys, second)?;

        say("moving it back to n1 while the client goes on");
        let back = stage.moves(&bed.n2, &bed.n1, first)?;
        let proof = stage.seen.prove(&mut connect(first)?, keys)?;
        if self.store == Store::S3 {
            let written = moved.disk_bytes.max(back.disk_bytes);
            ensure!(written < DISK_LIMIT, "{written} bytes were written to local disks");
        }
        stage.redis.remove(&bed.n1)?;
        clean::wait(&bed.n1)?;

        let chain = match self.baseline {
            true => {
                say("the usual chain: runc checkpoint, tar, zstd, copy, untar, runc restore");
                Some(baseline::run(bed, &config, self.mib)?)
            }
            false => None,
        };
        let store = format!("{:?}", self.store).to_lowercase();
        let redis_mib = self.mib;
        Ok(Report { store, redis_mib, moved, back, proof, incremental, fork, chain })
    }
}

/// Redis on its two nodes, and the client that works with it.
struct Stage<'a> {
    bed: &'a Bed,
    redis: Container,
    networks: [PodNetwork; 2],
    seen: Seen,
}

impl Stage<'_> {
    fn addresses(&self) -> Vec<SocketAddr> {
        self.networks.iter().map(|network| SocketAddr::from((network.address, PORT))).collect()
    }

    /// Moves it under load; afterwards nothing is left where it was, and one copy runs where it is.
    fn moves(&mut self, from: &Node, to: &Node, address: Ipv4Addr) -> Result<Move> {
        let (bed, redis) = (self.bed, &self.redis);
        let before = self.seen.reconnects;
        let load = Load::go_on(self.addresses(), std::mem::take(&mut self.seen));
        load.wait_steady()?;
        let (disk, fences) = (bed.disk_bytes_written()?, Fences::watch(bed)?);
        let begun = Instant::now();
        let checkpoint = redis.checkpoint(from, &["--stop"])?;
        let stopped = Instant::now();
        ensure!(redis.listed(from)? == "STOPPED", "the source runs on after its stop");
        ensure!(clean::processes(from, PROCESS)? == 0, "a process of the source is left");
        redis.restore(to, &checkpoint.checkpoint.to_string())?;
        connect(address)?;
        let first_reply = stopped.elapsed();
        redis.wait_state(to, "running")?;
        let (resident, whole) = (stopped.elapsed(), begun.elapsed());
        let disk = bed.disk_bytes_written()?.checked_sub(disk).context("a process has ended")?;
        let fences = fences.bytes()?;
        load.wait_steady()?;
        let copies = clean::processes(from, PROCESS)? + clean::processes(to, PROCESS)?;
        ensure!(copies == 1, "{copies} copies run");
        self.seen = load.stop();
        let reconnects = self.seen.reconnects - before;
        ensure!(reconnects > 0, "the client never lost its server: it did not work while it moved");
        redis.remove(from)?;
        clean::wait(from)?;
        Ok(Move {
            frozen_ms: checkpoint.frozen_ms,
            downtime_ms: millis(self.seen.longest_gap),
            durable_ms: checkpoint.durable_ms,
            first_reply_ms: millis(first_reply),
            resident_ms: millis(resident),
            whole_ms: millis(whole),
            sizes: checkpoint.sizes,
            disk_bytes: disk,
            fence_bytes: fences,
            requests: checkpoint.requests,
            reconnects,
        })
    }
}

fn copying(
    bed: &Bed,
    redis: &Container,
    keys: u64,
    address: Ipv4Addr,
) -> Result<(Incremental, Fork)> {
    let checkpoint: CheckpointReport = redis.checkpoint(&bed.n2, &[])?;
    let network = bed.n1.pod_network("copy", 103)?;
    let copy = redis.named("copy").with(&["--with-ns", &format!("network:{}", network.path)]);
    let begun = Instant::now();
    copy.fork(&bed.n1, &checkpoint.checkpoint.to_string())?;
    let mut client = connect(network.address)?;
    let first_reply = begun.elapsed();
    let wrong = redis::check_fill(&mut client, keys)?;
    ensure!(wrong.is_empty(), "{} of {keys} values of the copy are wrong", wrong.len());
    // Two lives: what one is told, the other does not know.
    client.call(&[b"SET", b"whoami", b"copy"])?;
    let mut source = connect(address)?;
    let reply = source.call(&[b"GET", b"whoami"])?;
    ensure!(reply == redis::Value::Nil, "the source has what was written to its copy: {reply:?}");
    copy.wait_state(&bed.n1, "running")?;
    copy.remove(&bed.n1)?;
    let incremental = Incremental {
        frozen_ms: checkpoint.frozen_ms,
        durable_ms: checkpoint.durable_ms,
        sizes: checkpoint.sizes,
    };
    Ok((incremental, Fork { first_reply_ms: millis(first_reply), values_checked: keys }))
}

/// Writes a report for programs.
///
/// # Errors
/// It cannot be written.
pub fn save(path: &Path, report: &impl Serialize) -> Result<()> {
    let dir = path.parent().unwrap_or(path);
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    std::fs::write(path, serde_json::to_string_pretty(report)?)
        .with_context(|| format!("writing {}", path.display()))
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
