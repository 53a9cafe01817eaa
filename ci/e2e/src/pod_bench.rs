//! How soon a restored pod answers, against the same pod from its image and against what Kubernetes has by itself: the kubelet's checkpoint
//! API, an image made of its archive, a pod of that image. Interleaved: ratios within one run, never times by themselves.

mod chain;

use std::time::Instant;

use anyhow::{Result, ensure};
use godwit_lab::{Cluster, Image, LabOptions};
use godwit_types::names;
use serde::Serialize;
use serde_json::json;

use crate::bed::Store;
use crate::bench::median_of;
use crate::demo::millis;
use crate::pods::{Clusters, Handler, Pod};
use crate::redis::{check_fill, connect, fill};
use crate::shop::{self, Running};
use crate::versions::Versions;

use chain::{BASE, Chain};

/// Where pods are restored.
const TARGET: &str = "a2";

/// What is measured.
#[derive(Debug, Clone)]
pub struct PodBench {
    /// Where checkpoints go.
    pub store: Store,
    /// Values in Redis: MiB.
    pub mib: u64,
    /// Rounds; the median of them counts.
    pub rounds: usize,
}

/// One round: milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Round {
    /// From `kubectl apply` of the pod from its image, without any value, to its first correct reply.
    pub cold: f64,
    /// From the request to checkpoint until that is durable; the pod runs on.
    pub durable: f64,
    /// From `kubectl apply` of a pod that asks for it to the first correct reply.
    pub restore: f64,
    /// From the request to the kubelet's API until the image is known to the other node's containerd.
    pub chain_durable: f64,
    /// From `kubectl apply` of a pod of that image to the first correct reply.
    pub chain_restore: f64,
}

/// The medians.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// What was measured.
    pub versions: Versions,
    /// Values in Redis: MiB.
    pub mib: u64,
    /// Each round.
    pub rounds: Vec<Round>,
    /// The median of each value.
    pub median: Round,
}

impl PodBench {
    /// Measures; `say` gets a line for each round.
    ///
    /// # Errors
    /// A step failed.
    pub fn run(&self, say: &mut dyn FnMut(&str)) -> Result<Outcome> {
        let mut clusters = Clusters::with(&LabOptions::new("podbench"), self.store)?;
        let a = &clusters.a;
        let versions = Versions::of(&clusters.lab.node("a1")?)?;
        let chain = Chain::prepare(&clusters, "theirs")?;
        let ours = self.source(a, "ours", redis("ours", Handler::Godwit))?;
        self.source(a, "theirs", redis("theirs", Handler::Runc))?;
        let mut rounds = Vec::new();
        for round in 0..self.rounds {
            let measured = self.round(a, &ours, &chain, round)?;
            say(&format!("round {} of {}: {measured:.0?}", round + 1, self.rounds));
            rounds.push(measured);
        }
        drop(chain);
        clusters.lab.done();
        let median = median(&rounds);
        Ok(Outcome { versions, mib: self.mib, rounds, median })
    }

    fn source<'c>(&self, a: &'c Cluster, name: &str, pod: Pod) -> Result<Running<'c>> {
        a.apply(&pod.on("a1").manifest())?;
        let running = Running::wait(a, name)?;
        fill(&mut connect(running.address)?, self.mib)?;
        Ok(running)
    }

    fn round(&self, a: &Cluster, ours: &Running<'_>, chain: &Chain, round: usize) -> Result<Round> {
        let keys = (self.mib << 20) / (16 << 10);
        let cold = first_reply(a, "cold", &redis("cold", Handler::Runc), 0)?;
        let begun = Instant::now();
        let point = ours.checkpoint()?;
        let durable = millis(begun.elapsed());
        let copy = redis("copy", Handler::Godwit).annotated(names::FORK_FROM, &point);
        let restore = first_reply(a, "copy", &copy, keys)?;
        let begun = Instant::now();
        let image = chain.checkpoint(round)?;
        let chain_durable = millis(begun.elapsed());
        let stock = redis("stock", Handler::Runc).container_with("image", json!(image));
        let chain_restore = first_reply(a, "stock", &stock, keys)?;
        Ok(Round { cold, durable, restore, chain_durable, chain_restore })
    }
}

/// Without a probe: the kubelet's checkpoints fail while a connection is open.
fn redis(name: &str, handler: Handler) -> Pod {
    Pod::new(name, handler, Image::Redis, &[])
        .container_with("image", json!(BASE))
        .with("nodeSelector", json!({"kubernetes.io/hostname": TARGET}))
}

/// From the pod's creation to its first correct reply; afterwards all its values are compared, and it is gone.
fn first_reply(cluster: &Cluster, name: &str, pod: &Pod, keys: u64) -> Result<f64> {
    let begun = Instant::now();
    cluster.apply(&pod.manifest())?;
    let mut client = connect(shop::wait_address(cluster, name)?)?;
    let wrong = check_fill(&mut client, keys.min(1))?;
    let took = begun.elapsed();
    ensure!(wrong.is_empty(), "the first value of {name} is wrong");
    let wrong = check_fill(&mut client, keys)?;
    ensure!(wrong.is_empty(), "{} of {keys} values of {name} are wrong", wrong.len());
    cluster.kubectl(&["delete", "pod", name, "--timeout=180s"])?;
    Ok(millis(took))
}

fn median(rounds: &[Round]) -> Round {
    let of = |get| median_of(rounds, get);
    Round {
        cold: of(|r| r.cold),
        durable: of(|r| r.durable),
        restore: of(|r| r.restore),
        chain_durable: of(|r| r.chain_durable),
        chain_restore: of(|r| r.chain_restore),
    }
}
