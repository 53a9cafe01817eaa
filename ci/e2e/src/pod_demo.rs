//! The main job for pods, as a user does it with kubectl: a pod with Redis and a sidecar is checkpointed while it runs, is deleted in one
//! cluster and created in another, and goes on there, while a client works. Everything is checked; what cannot be proved is an error.

mod report;

use std::time::Instant;

use anyhow::{Result, ensure};
use godwit_lab::LabOptions;
use godwit_types::names;

use crate::bed::Store;
use crate::demo::millis;
use crate::pods::{Clusters, event};
use crate::redis::load::Load;
use crate::redis::{connect, fill};
use crate::shop::{self, Running};

pub use report::{Cold, Moved, Report};

const NAME: &str = "shop";

/// What is shown.
#[derive(Debug, Clone)]
pub struct PodDemo {
    /// Where checkpoints go.
    pub store: Store,
    /// Values in Redis: MiB.
    pub mib: u64,
    /// The lab.
    pub lab: LabOptions,
}

impl PodDemo {
    /// Does it; `say` gets a line before each step.
    ///
    /// # Errors
    /// A step failed, or a proof did.
    pub fn run(&self, say: &mut dyn FnMut(&str)) -> Result<Report> {
        say("starting clusters A (two nodes) and B (one), and installing Godwit on every node");
        let mut clusters = Clusters::with(&self.lab, self.store)?;
        let report = self.report(&clusters, say)?;
        clusters.lab.done();
        Ok(report)
    }

    fn report(&self, clusters: &Clusters, say: &mut dyn FnMut(&str)) -> Result<Report> {
        let (a, b) = (&clusters.a, &clusters.b);
        let pod = shop::pod(NAME).annotated(names::CHECKPOINT_ON_STOP, "true").manifest();
        say("cluster A: kubectl apply: a pod with Redis and a sidecar that counts in it");
        a.apply(&pod)?;
        let source = Running::wait(a, NAME)?;
        say(&format!(
            "filling {} MiB of random and JSON values; a client writes and checks every reply",
            self.mib
        ));
        let keys = fill(&mut connect(source.address)?, self.mib)?;
        let load = Load::start(vec![source.redis()]);
        load.wait_steady()?;

        say("kubectl annotate pod shop godwit.dev/checkpoint=now");
        source.checkpoint()?;
        let while_running = event(a, &source.uid, "CheckpointCompleted")?;
        load.wait_steady()?;
        let beats = source.beats()?;

        say("cluster A: kubectl delete pod shop; cluster B: kubectl apply");
        let begun = Instant::now();
        a.kubectl(&["delete", "pod", NAME, "--timeout=180s"])?;
        let gone = begun.elapsed();
        let stopped = event(a, &source.uid, "CheckpointCompleted")?;
        let applied = Instant::now();
        b.apply(&pod)?;
        let address = shop::wait_address(b, NAME)?;
        connect(address)?;
        let first_reply = applied.elapsed();
        load.follow((address, crate::redis::PORT).into());
        let target = Running::wait(b, NAME)?;
        let ready = applied.elapsed();
        load.wait_steady()?;
        let seen = load.stop();
        ensure!(seen.reconnects > 0, "the client never lost its server: it did not work meanwhile");

        say("checking every value, every acknowledged write, and the sidecar");
        let proof = seen.prove(&mut connect(target.address)?, keys)?;
        let now = target.goes_on(beats)?;
        let continued = event(b, &target.uid, "RestoreSucceeded")?;
        b.kubectl(&["delete", "pod", NAME, "--timeout=180s"])?;

        say("for comparison: the same pod, started from its image");
        let cold = cold(clusters)?;
        Ok(Report {
            store: format!("{:?}", self.store).to_lowercase(),
            redis_mib: self.mib,
            moved: Moved {
                downtime_ms: millis(seen.longest_gap),
                gone_ms: millis(gone),
                first_reply_ms: millis(first_reply),
                ready_ms: millis(ready),
                beats: [beats, now],
            },
            cold,
            events: [while_running, stopped, continued],
            proof,
        })
    }
}

/// The same pod without its memory.
fn cold(clusters: &Clusters) -> Result<Cold> {
    const COLD: &str = "cold";
    let b = &clusters.b;
    let begun = Instant::now();
    b.apply(&shop::pod(COLD).manifest())?;
    connect(shop::wait_address(b, COLD)?)?;
    let first_reply = begun.elapsed();
    Running::wait(b, COLD)?;
    let ready = begun.elapsed();
    b.kubectl(&["delete", "pod", COLD, "--timeout=180s"])?;
    Ok(Cold { first_reply_ms: millis(first_reply), ready_ms: millis(ready) })
}
