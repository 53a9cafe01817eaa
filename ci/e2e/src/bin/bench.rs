//! `make bench`: times of one container against runc alone, as ratios.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use godwit_e2e::bed::Store;
use godwit_e2e::bench::{Bench, Round};

/// Checkpoints, restores and moves a container, interleaved with `runc checkpoint` and `runc restore` on tmpfs.
#[derive(Parser)]
struct Arguments {
    /// Where checkpoints go: `file` or `s3`.
    #[arg(long, default_value = "file")]
    store: Store,
    /// Memory of the container, in MiB.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// Rounds; medians are shown.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Where all rounds are written.
    #[arg(long, default_value = "target/bench/move.json")]
    raw: PathBuf,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let Arguments { store, mib, rounds, raw } = arguments;
    let outcome = Bench { store, mib, rounds }.run(&mut |line| eprintln!("• {line}"))?;
    std::fs::create_dir_all(raw.parent().unwrap_or(&raw))?;
    std::fs::write(&raw, serde_json::to_string_pretty(&outcome)?)?;
    let Round { run_frozen, stop_frozen, restore, whole, resident, .. } = outcome.median;
    let Round { runc_frozen, runc_checkpoint, runc_restore, .. } = outcome.median;
    println!("\n{}\n{mib} MiB, medians of {rounds} rounds, store {store:?}", outcome.versions);
    println!("{:42}{:>10}{:>12}{:>8}", "", "godwit", "runc, tmpfs", "ratio");
    for (what, ours, theirs) in [
        ("frozen, left running", run_frozen, runc_frozen),
        ("frozen, stopped", stop_frozen, runc_frozen),
        ("frozen, stopped, against all of runc's", stop_frozen, runc_checkpoint),
        ("restore until it runs", restore, runc_restore),
        ("whole move until it runs", whole, runc_checkpoint + runc_restore),
        ("restore until all memory is there", resident, runc_restore),
    ] {
        println!("{what:42}{ours:>7.0} ms{theirs:>9.0} ms{:>8.2}", ours / theirs);
    }
    println!("All rounds: {}", raw.display());
    Ok(())
}
