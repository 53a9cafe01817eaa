//! The shim against containerd's own shim for runc: in turn, on one node, in one run.

mod bootstrap;
mod memory;

use std::time::Instant;

use anyhow::{Result, bail};
use godwit_lab::{Image, InstallOptions, Lab, LabOptions, Node, StoreChoice, default_bin_dir};
use serde::Serialize;

use crate::container::RUNTIME;
use crate::versions::Versions;
use bootstrap::Bootstrap;
pub use bootstrap::answered;
pub use memory::Memory;

/// containerd's own.
const RUNC: &str = "io.containerd.runc.v2";
/// Rounds that only warm up.
const WARM: usize = 2;

/// What is measured.
#[derive(Debug, Clone)]
pub struct ShimBench {
    /// Starts of each shim; medians count.
    pub rounds: usize,
    /// Containers that run at once, each with a shim of its own.
    pub pods: usize,
}

/// A value of ours, and of containerd's shim for runc.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Pair<T> {
    /// Godwit's.
    pub ours: T,
    /// runc's.
    pub theirs: T,
}

impl Pair<f64> {
    /// Ours by theirs.
    #[must_use]
    pub fn ratio(self) -> f64 {
        self.ours / self.theirs
    }
}

impl<T> Pair<T> {
    /// The same of what each is made into.
    pub fn map<U>(self, make: impl Fn(T) -> U) -> Pair<U> {
        Pair { ours: make(self.ours), theirs: make(self.theirs) }
    }

    fn of(mut make: impl FnMut(&'static str) -> Result<T>) -> Result<Self> {
        Ok(Self { ours: make(RUNTIME)?, theirs: make(RUNC)? })
    }
}

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// What was measured.
    pub versions: Versions,
    /// `ctr run --detach`, milliseconds, median.
    pub run: Pair<f64>,
    /// From a shim's execution until it has answered a call, milliseconds, median.
    pub answered: Pair<f64>,
    /// Of the shims of as many containers.
    pub memory: Pair<Memory>,
}

impl ShimBench {
    /// Measures; `say` gets a line for each step.
    ///
    /// # Errors
    /// A step failed.
    pub fn run(&self, say: &mut dyn FnMut(&str)) -> Result<Outcome> {
        let mut lab = Lab::up(&LabOptions::new("bench").nodes(&["n1"]))?;
        let node = lab.node("n1")?;
        let store = StoreChoice::Directory("/lab/shared/store".to_owned());
        node.install(&InstallOptions {
            bin_dir: default_bin_dir(),
            store,
            settings: String::new(),
        })?;
        node.import(Image::Shell)?;
        let versions = Versions::of(&node)?;
        let run = self.in_turn(|round, runtime| {
            let id = format!("run{round}");
            let begun = Instant::now();
            run(&node, runtime, &id)?;
            let took = millis(begun);
            remove(&node, &id)?;
            Ok(took)
        })?;
        say(&format!("ctr run: {:.2}", run.ratio()));
        let bootstrap = Bootstrap::prepare(&node)?;
        let answered = self.in_turn(|round, runtime| bootstrap.answered(runtime, round))?;
        say(&format!("a shim answers: {:.2}", answered.ratio()));
        let memory = Pair::of(|runtime| self.memory(&node, runtime))?;
        say(&format!("memory: {:.2}", memory.clone().map(|m| m.total_pss as f64).ratio()));
        lab.done();
        Ok(Outcome { versions, run, answered, memory })
    }

    /// Medians of rounds, one of ours and one of theirs in turn.
    fn in_turn(&self, mut measure: impl FnMut(usize, &str) -> Result<f64>) -> Result<Pair<f64>> {
        let (mut ours, mut theirs) = (vec![], vec![]);
        for round in 0..WARM + self.rounds {
            for (runtime, times) in [(RUNTIME, &mut ours), (RUNC, &mut theirs)] {
                let took = measure(round, runtime)?;
                if round >= WARM {
                    times.push(took);
                }
            }
        }
        Ok(Pair { ours: median(ours), theirs: median(theirs) })
    }

    fn memory(&self, node: &Node, runtime: &str) -> Result<Memory> {
        let ids: Vec<String> = (0..self.pods).map(|n| format!("memory{n}")).collect();
        for id in &ids {
            run(node, runtime, id)?;
        }
        let memory = Memory::of_shims(node)?;
        if memory.shims != self.pods {
            bail!("{} shims serve {} containers", memory.shims, self.pods);
        }
        ids.iter().try_for_each(|id| remove(node, id))?;
        Ok(memory)
    }
}

fn run(node: &Node, runtime: &str, id: &str) -> Result<()> {
    let image = Image::Shell.reference();
    let words = ["run", "--detach", "--runtime", runtime, image, id, "sleep", "infinity"];
    Ok(node.ctr(&words).map(drop)?)
}

fn remove(node: &Node, id: &str) -> Result<()> {
    node.ctr(&["task", "rm", "--force", id])?;
    Ok(node.ctr(&["container", "rm", id]).map(drop)?)
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}
