//! What the demo of pods found: as JSON for programs, as a table for people.

use std::fmt;

use serde::Serialize;

use crate::redis::load::Proof;

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `file` or `s3`.
    pub store: String,
    /// Values in Redis: MiB.
    pub redis_mib: u64,
    /// The move from cluster to cluster under load.
    pub moved: Moved,
    /// The same pod, started from its image.
    pub cold: Cold,
    /// What users are told: by the checkpoint of the running pod, by the one at its end, by its restore.
    pub events: [String; 3],
    /// What was proved.
    pub proof: Proof,
}

/// A move, by kubectl's clock.
#[derive(Debug, Clone, Serialize)]
pub struct Moved {
    /// Longest time between two correct replies that the client saw: milliseconds.
    pub downtime_ms: f64,
    /// From `kubectl delete` until the object is gone.
    pub gone_ms: f64,
    /// From `kubectl apply` to the first correct reply.
    pub first_reply_ms: f64,
    /// From `kubectl apply` until the pod is ready.
    pub ready_ms: f64,
    /// The sidecar's number before and after.
    pub beats: [u64; 2],
}

/// A start from the image.
#[derive(Debug, Clone, Serialize)]
pub struct Cold {
    /// From `kubectl apply` to the first correct reply: milliseconds.
    pub first_reply_ms: f64,
    /// From `kubectl apply` until the pod is ready.
    pub ready_ms: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (moved, cold, proof) = (&self.moved, &self.cold, &self.proof);
        let mib = self.redis_mib;
        writeln!(f, "A pod of Redis with {mib} MiB of values and a sidecar, store {}", self.store)?;
        writeln!(f, "{:34}{:>14}{:>18}", "", "cluster A to B", "from its image")?;
        let mut line =
            |name: &str, ours: f64, cold: &str| writeln!(f, "{name:34}{:>14}{cold:>18}", ms(ours));
        line("deleted: object gone after", moved.gone_ms, "-")?;
        line("applied: first correct reply", moved.first_reply_ms, &ms(cold.first_reply_ms))?;
        line("applied: pod ready", moved.ready_ms, &ms(cold.ready_ms))?;
        line("no correct reply for", moved.downtime_ms, "-")?;
        writeln!(f, "\nWhat its users are told:")?;
        for event in &self.events {
            writeln!(f, "  {event}")?;
        }
        let [before, after] = moved.beats;
        writeln!(
            f,
            "\n{} writes were acknowledged meanwhile and {} reads checked: {} are lost; {} values compared.",
            proof.acknowledged_writes, proof.checked_reads, proof.lost_writes, proof.values_checked
        )?;
        writeln!(
            f,
            "The sidecar's connection to Redis went along: it was at {before} before and at {after} after, and was never started again."
        )
    }
}

fn ms(ms: f64) -> String {
    if ms < 10_000.0 { format!("{ms:.0} ms") } else { format!("{:.1} s", ms / 1e3) }
}
