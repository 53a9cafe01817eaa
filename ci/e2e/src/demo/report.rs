//! What the demo found: as JSON for programs, as a table for people.

use std::fmt;

use godwit_types::Sizes;
use serde::Serialize;

use crate::redis::load::Proof;

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `file` or `s3`.
    pub store: String,
    /// Values in Redis: MiB.
    pub redis_mib: u64,
    /// The move under load.
    pub moved: Move,
    /// The move back, under the same load, from what was stored after the incremental checkpoint.
    pub back: Move,
    /// What was proved after both, and after the first alone too.
    pub proof: Proof,
    /// The incremental checkpoint that left it running.
    pub incremental: Incremental,
    /// The copy of that.
    pub fork: Fork,
    /// The usual chain in the same run.
    pub chain: Option<Chain>,
}

/// A move from node to node.
#[derive(Debug, Clone, Serialize)]
pub struct Move {
    /// From the freeze until only the store was waited for: milliseconds.
    pub frozen_ms: f64,
    /// Longest time between two correct replies that the client saw.
    pub downtime_ms: f64,
    /// From the request to the commit.
    pub durable_ms: f64,
    /// From the request to restore to the first correct reply.
    pub first_reply_ms: f64,
    /// From the request to restore until all memory was there.
    pub resident_ms: f64,
    /// From the request to checkpoint until all memory was there.
    pub whole_ms: f64,
    /// Bytes of the checkpoint.
    pub sizes: Sizes,
    /// Written to local disks by our processes and CRIU on both nodes.
    pub disk_bytes: u64,
    /// Of that, fences: who may run a pod is on disk before it is in the log.
    pub fence_bytes: u64,
    /// Requests to the store for the checkpoint.
    pub requests: u64,
    /// How often the client lost its connection.
    pub reconnects: u64,
}

/// A checkpoint that leaves the container running.
#[derive(Debug, Clone, Serialize)]
pub struct Incremental {
    /// From the freeze to the thaw: milliseconds.
    pub frozen_ms: f64,
    /// From the request to the commit.
    pub durable_ms: f64,
    /// Bytes.
    pub sizes: Sizes,
}

/// A copy of a checkpoint.
#[derive(Debug, Clone, Serialize)]
pub struct Fork {
    /// From the request to the first correct reply: milliseconds.
    pub first_reply_ms: f64,
    /// Values that were read back and compared.
    pub values_checked: u64,
}

/// The usual chain.
#[derive(Debug, Clone, Serialize)]
pub struct Chain {
    /// For how long CRIU held the processes, by its own count, until they were dead: milliseconds.
    pub frozen_ms: f64,
    /// From the request to checkpoint to the first correct reply.
    pub downtime_ms: f64,
    /// From the request to checkpoint until the archive is where both nodes see it; nobody waits for a disk.
    pub archived_ms: f64,
    /// From the start of `runc restore` to the first correct reply; all memory is there before it.
    pub first_reply_ms: f64,
    /// CRIU's images of memory. It does not look for zeros.
    pub memory_bytes: u64,
    /// What was copied.
    pub archive_bytes: u64,
    /// Images and archives on both nodes' disks.
    pub disk_bytes: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (moved, back, proof) = (&self.moved, &self.back, &self.proof);
        writeln!(f, "Redis with {} MiB of values, store {}", self.redis_mib, self.store)?;
        writeln!(f, "{:34}{:>14}{:>18}", "", "godwit", "runc, tar, copy")?;
        let chain = |get: fn(&Chain) -> String| self.chain.as_ref().map_or("-".to_owned(), get);
        let mut line = |name: &str, ours: String, theirs: String| {
            writeln!(f, "{name:34}{ours:>14}{theirs:>18}")
        };
        line("frozen for memory and CRIU", ms(moved.frozen_ms), chain(|c| ms(c.frozen_ms)))?;
        line("no correct reply for", ms(moved.downtime_ms), chain(|c| ms(c.downtime_ms)))?;
        let first_reply = chain(|c| ms(c.first_reply_ms));
        line("restore: first correct reply", ms(moved.first_reply_ms), first_reply.clone())?;
        line("restore: all memory there", ms(moved.resident_ms), first_reply)?;
        line("checkpoint stored after", ms(moved.durable_ms), chain(|c| ms(c.archived_ms)))?;
        line("memory", moved.sizes.memory.to_string(), chain(|c| bytes(c.memory_bytes)))?;
        line("  of it zero, not stored", moved.sizes.zero.to_string(), "-".to_owned())?;
        line("stored", moved.sizes.stored.to_string(), chain(|c| bytes(c.archive_bytes)))?;
        line("uploaded", moved.sizes.uploaded.to_string(), chain(|c| bytes(c.archive_bytes)))?;
        line("written to local disks", bytes(moved.disk_bytes), chain(|c| bytes(c.disk_bytes)))?;
        line("  of it fences", bytes(moved.fence_bytes), chain(|_| bytes(0)))?;
        writeln!(
            f,
            "\nMoved back: frozen {}, no correct reply for {}, all memory there after {}.",
            ms(back.frozen_ms),
            ms(back.downtime_ms),
            ms(back.resident_ms)
        )?;
        writeln!(
            f,
            "{} writes were acknowledged during the moves and {} reads checked: {} are lost; {} values compared.",
            proof.acknowledged_writes, proof.checked_reads, proof.lost_writes, proof.values_checked
        )?;
        let Incremental { frozen_ms, durable_ms, sizes } = &self.incremental;
        writeln!(
            f,
            "Incremental checkpoint, left running: frozen {}, durable after {}, {} of {} stored.",
            ms(*frozen_ms),
            ms(*durable_ms),
            sizes.stored,
            sizes.memory
        )?;
        let Fork { first_reply_ms, values_checked } = &self.fork;
        let first = ms(*first_reply_ms);
        writeln!(
            f,
            "Copy of it: first correct reply after {first}, {values_checked} values compared."
        )
    }
}

fn ms(ms: f64) -> String {
    if ms < 10_000.0 { format!("{ms:.0} ms") } else { format!("{:.1} s", ms / 1e3) }
}

fn bytes(bytes: u64) -> String {
    godwit_types::Bytes(bytes).to_string()
}
