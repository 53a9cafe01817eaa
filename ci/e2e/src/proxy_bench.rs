//! Times of the CRI's calls through the proxy against the same calls straight at containerd: in turn, on one node, in one run.

use std::cell::Cell;
use std::time::Instant;

use anyhow::{Result, ensure};
use godwit_lab::{Image, InstallOptions, Lab, LabOptions, StoreChoice, default_bin_dir};
use godwit_types::names;
use serde::Serialize;

use crate::cri::{self, Cri};
use crate::proxy::Proxy;

/// Containers of the node.
const CONTAINERS: usize = 100;
/// What each carries in an annotation for the long list: together a MiB.
const NOTE: usize = (1 << 20) / CONTAINERS;

/// What is measured.
#[derive(Debug, Clone)]
pub struct ProxyBench {
    /// Calls of each kind that take some 100 µs; of slower ones a tenth or less.
    pub calls: usize,
}

/// One kind of call: microseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What was called.
    pub what: String,
    /// Straight at containerd: median and 99th of 100.
    pub direct: (f64, f64),
    /// Through the proxy.
    pub proxied: (f64, f64),
}

impl Row {
    /// What the proxy adds to the median and to the 99th of 100.
    #[must_use]
    pub fn added(&self) -> (f64, f64) {
        (self.proxied.0 - self.direct.0, self.proxied.1 - self.direct.1)
    }

    /// Through the proxy by straight: medians.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.proxied.0 / self.direct.0
    }
}

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The runtime, by its own word.
    pub runtime: String,
    /// Each kind of call.
    pub rows: Vec<Row>,
    /// Of the proxy at the end: its own memory and all that is resident, KiB.
    pub memory: (u64, u64),
}

struct Pair {
    direct: Cri,
    proxied: Cri,
}

impl ProxyBench {
    /// Measures; `say` gets a line for each kind.
    ///
    /// # Errors
    /// A step failed.
    pub fn run(&self, say: &mut dyn FnMut(&str)) -> Result<Outcome> {
        let mut lab = Lab::up(&LabOptions::new("bench").nodes(&["n1"]))?;
        let node = lab.node("n1")?;
        let store = StoreChoice::Directory("/lab/shared/store".to_owned());
        // The proxy asks an agent before some calls.
        let (bin_dir, settings) = (default_bin_dir(), String::new());
        node.install(&InstallOptions { bin_dir, store, settings })?;
        cri::prepare(&node, Image::Shell)?;
        let proxy = Proxy::start(&node)?;
        let pair = Pair {
            direct: Cri::on(&node, names::CONTAINERD_SOCKET)?,
            proxied: Cri::on(&node, names::CRI_SOCKET)?,
        };
        let version = pair.proxied.version()?;
        let mut rows = vec![];
        let mut row = |what: &str, calls: usize, call: &dyn Fn(&Cri) -> Result<()>| -> Result<()> {
            let row = pair.measure(what, calls, call)?;
            say(&format!("{what}: {:+.0} µs, {:.2}", row.added().0, row.ratio()));
            rows.push(row);
            Ok(())
        };
        row("Version", self.calls, &|cri| cri.version().map(drop))?;
        let pod = pair.proxied.run_pod("few")?;
        let first = fill(&pair.proxied, &pod, "")?;
        row("ListContainers, 100", self.calls / 10, &|cri| listed(cri, CONTAINERS))?;
        pair.proxied.start(&first)?;
        row("ExecSync", self.calls / 5, &|cri| executed(cri, &first))?;
        pair.proxied.remove_pod(&pod)?;
        let pod = pair.proxied.run_pod("fat")?;
        fill(&pair.proxied, &pod, &"x".repeat(NOTE))?;
        row("ListContainers, 1 MiB", self.calls / 10, &|cri| listed(cri, CONTAINERS))?;
        pair.proxied.remove_pod(&pod)?;
        let lives = Cell::new(0);
        for (what, handler) in
            [("A pod's life, runc", ""), ("A pod's life, godwit", names::RUNTIME_HANDLER)]
        {
            let life = |cri: &Cri| lived(cri, handler, lives.replace(lives.get() + 1));
            row(what, self.calls / 100, &life)?;
        }
        let memory = proxy.memory()?;
        lab.done();
        let runtime = format!("{} {}", version.runtime_name, version.runtime_version);
        Ok(Outcome { runtime, rows, memory })
    }
}

/// Makes all containers; returns the first one's id.
fn fill(cri: &Cri, pod: &cri::Pod, note: &str) -> Result<String> {
    let mut first = None;
    for i in 0..CONTAINERS {
        let id = cri.create(pod, &format!("c{i}"), Image::Shell, note)?;
        first.get_or_insert(id);
    }
    Ok(first.unwrap_or_default())
}

fn listed(cri: &Cri, expected: usize) -> Result<()> {
    let found = cri.containers()?.len();
    ensure!(found == expected, "{found} containers instead of {expected}");
    Ok(())
}

fn executed(cri: &Cri, container: &str) -> Result<()> {
    let ended = cri.exec(container, &["true"])?;
    ensure!(ended.exit_code == 0, "{ended:?}");
    Ok(())
}

/// A pod with a container, from its sandbox until nothing of it is left.
fn lived(cri: &Cri, handler: &str, number: u32) -> Result<()> {
    let pod = cri.run_pod_by(&format!("life{number}"), handler)?;
    let container = cri.create(&pod, "c", Image::Shell, "")?;
    cri.start(&container)?;
    cri.remove_pod(&pod)
}

impl Pair {
    fn measure(&self, what: &str, calls: usize, call: &dyn Fn(&Cri) -> Result<()>) -> Result<Row> {
        let (mut direct, mut proxied) = (vec![], vec![]);
        for round in 0..calls + calls / 10 {
            let mut ways = [(&self.direct, &mut direct), (&self.proxied, &mut proxied)];
            // What the call before has left to be cleared up is in each one's way alike.
            if round % 2 == 1 {
                ways.reverse();
            }
            for (cri, times) in ways {
                let begun = Instant::now();
                call(cri)?;
                // The first ones warm up.
                if round >= calls / 10 {
                    times.push(begun.elapsed().as_secs_f64() * 1e6);
                }
            }
        }
        Ok(Row { what: what.to_owned(), direct: quantiles(direct), proxied: quantiles(proxied) })
    }
}

/// The median and the 99th of 100.
fn quantiles(mut times: Vec<f64>) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
    (at(50), at(99))
}
