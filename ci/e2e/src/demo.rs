//! The main job, as a user does it: Redis moves to another node while a client works; then an incremental checkpoint that leaves
//! it running, and a copy of that one. Everything is checked; what cannot be proved is an error.

mod baseline;
mod report;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use godwit_lab::{Image, LabOptions, Node, PodNetwork, wait};
use godwit_types::CheckpointReport;

use crate::bed::{Bed, Store};
use crate::container::{BUNDLES, Container, SOON};
use crate::redis::{self, Client, Load, Seen};

pub use report::{Chain, Fork, Incremental, Move, Proof, Report};

const PORT: u16 = 6379;
/// The client works for this long before and after the move.
const WARM: Duration = Duration::from_secs(2);

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
        let bed = Bed::up(&self.lab, self.store, "", &[Image::Redis])?;
        let networks = (bed.n1.pod_network("redis", 101)?, bed.n2.pod_network("redis", 102)?);
        let redis = Container::new("redis", Image::Redis, &[]).on(&networks.0);

        say(&format!("Redis on n1: filling {} MiB of random and JSON values", self.mib));
        redis.run(&bed.n1)?;
        let keys = redis::fill(&mut connect(networks.0.address)?, self.mib)?;
        let config = bed.n1.read_file(&format!("{}/redis/config.json", BUNDLES))?;

        say("moving it to n2 while a client writes and checks every reply");
        let (moved, seen) = moving(&bed, &redis, &networks)?;
        let mut client = connect(networks.1.address)?;
        let proof = prove(&mut client, &seen, keys)?;

        say("an incremental checkpoint on n2 that leaves it running, and a copy of it on n1");
        let (incremental, fork) = copying(&bed, &redis, keys, networks.1.address)?;

        let chain = match self.baseline {
            true => {
                say("the usual chain: runc checkpoint, tar, zstd, copy, untar, runc restore");
                redis.remove(&bed.n2)?;
                Some(baseline::run(&bed, &config, self.mib)?)
            }
            false => None,
        };
        Ok(Report {
            store: format!("{:?}", self.store).to_lowercase(),
            redis_mib: self.mib,
            moved,
            proof,
            incremental,
            fork,
            chain,
        })
    }
}

/// A server's client, once the server answers.
///
/// # Errors
/// It does not in time.
pub fn connect(address: Ipv4Addr) -> Result<Client> {
    let address = SocketAddr::from((address, PORT));
    Ok(wait::until("Redis to answer", SOON, || {
        let mut client = Client::connect(address)?;
        client.call(&[b"PING"])?;
        Ok::<_, std::io::Error>(client)
    })?)
}

fn moving(
    bed: &Bed,
    redis: &Container,
    networks: &(PodNetwork, PodNetwork),
) -> Result<(Move, Seen)> {
    let both = [networks.0.address, networks.1.address];
    let load = Load::start(both.map(|ip| SocketAddr::from((ip, PORT))).to_vec());
    std::thread::sleep(WARM);
    let disk = bed.disk_bytes_written()?;
    let begun = Instant::now();
    let checkpoint = redis.checkpoint(&bed.n1, &["--stop"])?;
    let stopped = Instant::now();
    ensure!(redis.listed(&bed.n1)? == "STOPPED", "the source runs on after its stop");
    redis.restore(&bed.n2, &checkpoint.checkpoint.to_string())?;
    connect(networks.1.address)?;
    let first_reply = stopped.elapsed();
    redis.wait_state(&bed.n2, "running")?;
    let resident = stopped.elapsed();
    let whole = begun.elapsed();
    let disk = bed.disk_bytes_written()? - disk;
    std::thread::sleep(WARM);
    let seen = load.stop();
    redis.remove(&bed.n1)?;
    clean(&bed.n1)?;
    let moved = Move {
        frozen_ms: checkpoint.frozen_ms,
        downtime_ms: millis(seen.longest_gap),
        durable_ms: checkpoint.durable_ms,
        first_reply_ms: millis(first_reply),
        resident_ms: millis(resident),
        whole_ms: millis(whole),
        sizes: checkpoint.sizes,
        disk_bytes: disk,
        requests: checkpoint.requests,
    };
    Ok((moved, seen))
}

/// Every acknowledged write is there, and no reply was ever wrong.
fn prove(client: &mut Client, seen: &Seen, keys: u64) -> Result<Proof> {
    ensure!(seen.wrong.is_empty(), "wrong replies: {:?}", seen.wrong);
    let lost = seen.lost(client)?;
    ensure!(lost.is_empty(), "lost writes: {lost:?}");
    let wrong = redis::check_fill(client, keys)?;
    ensure!(wrong.is_empty(), "{} of {keys} values are wrong", wrong.len());
    Ok(Proof {
        acknowledged_writes: seen.writes,
        checked_reads: seen.reads,
        lost_writes: 0,
        values_checked: keys,
    })
}

/// The node has nothing of the container any more.
fn clean(node: &Node) -> Result<()> {
    let left = format!(
        "pgrep --list-full 'containerd-shim|criu|godwit-pager' || true
        find /run/godwit/shims {BUNDLES} -mindepth 1"
    );
    wait::until(&format!("nothing to be left on {}", node.name()), SOON, || {
        match node.sh(&left) {
            Ok(left) if left.is_empty() => Ok(()),
            Ok(left) => Err(left),
            Err(error) => Err(error.to_string()),
        }
    })?;
    Ok(())
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

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
