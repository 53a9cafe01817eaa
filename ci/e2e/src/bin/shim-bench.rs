//! Part of `make bench`: the shim against containerd's own shim for runc.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Parser, Subcommand};
use godwit_e2e::shim_bench::{Memory, Pair, ShimBench, answered};

/// Starts and memory of our shim, in turn with containerd's shim for runc.
#[derive(Parser)]
struct Arguments {
    /// Starts of each shim; medians are shown.
    #[arg(long, default_value_t = 30)]
    rounds: usize,
    /// Containers that run at once when memory is read.
    #[arg(long, default_value_t = 100)]
    pods: usize,
    /// Where the result is written.
    #[arg(long, default_value = "target/bench/shim.json")]
    raw: PathBuf,
    #[command(subcommand)]
    inside: Option<Inside>,
}

/// What the bench has of itself in a node.
#[derive(Subcommand)]
enum Inside {
    /// Start a shim without containerd, and end it; prints the milliseconds until it has answered.
    #[command(hide = true)]
    Answered { shim: String, bundle: PathBuf },
}

fn main() -> Result<()> {
    let Arguments { rounds, pods, raw, inside } = Arguments::parse();
    match inside {
        Some(Inside::Answered { shim, bundle }) => println!("{}", answered(&shim, &bundle)?),
        None => measure(rounds, pods, &raw)?,
    }
    Ok(())
}

fn measure(rounds: usize, pods: usize, raw: &Path) -> Result<()> {
    let outcome = ShimBench { rounds, pods }.run(&mut |line| eprintln!("• {line}"))?;
    std::fs::create_dir_all(raw.parent().unwrap_or(raw))?;
    std::fs::write(raw, serde_json::to_string_pretty(&outcome)?)?;
    println!("\n{}\nmedians of {rounds} starts; memory of {pods} containers", outcome.versions);
    println!("{:36}{:>14}{:>14}{:>8}", "", "godwit", "runc's shim", "ratio");
    let show = |what: &str, unit: &str, pair: Pair<f64>| {
        let (ours, theirs) = (pair.ours, pair.theirs);
        println!("{what:36}{ours:>10.1} {unit}{theirs:>10.1} {unit}{:>8.2}", pair.ratio());
    };
    let memory =
        |of: fn(Memory) -> u64| outcome.memory.clone().map(of).map(|kib| kib as f64 / 1024.0);
    show("ctr run --detach", "ms ", outcome.run);
    show("a shim: executed until answered", "ms ", outcome.answered);
    show("a shim: resident", "MiB", memory(|m| m.resident));
    show("a shim: anonymous", "MiB", memory(|m| m.anonymous));
    show("all shims: PSS", "MiB", memory(|m| m.total_pss));
    println!("{}", raw.display());
    Ok(())
}
