//! Part of `make bench`: restored pods against pods from their images and against the kubelet's checkpoint API.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use godwit_e2e::bed::Store;
use godwit_e2e::demo::save;
use godwit_e2e::pod_bench::PodBench;

/// How soon a restored pod with Redis answers, in turn with the same pod from its image, and with what Kubernetes has by itself.
#[derive(Parser)]
struct Arguments {
    /// Where checkpoints go: `file` or `s3`.
    #[arg(long, default_value = "s3")]
    store: Store,
    /// Values in Redis, in MiB.
    #[arg(long, default_value_t = 64)]
    mib: u64,
    /// Rounds; medians are shown.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Where all rounds are written.
    #[arg(long, default_value = "target/bench/pods.json")]
    raw: PathBuf,
}

fn main() -> Result<()> {
    let Arguments { store, mib, rounds, raw } = Arguments::parse();
    let outcome = PodBench { store, mib, rounds }.run(&mut |line| eprintln!("• {line}"))?;
    save(&raw, &outcome)?;
    let median = outcome.median;
    println!(
        "\n{}\nRedis with {mib} MiB of values, medians of {rounds} rounds, store {store:?}",
        outcome.versions
    );
    println!("{:44}{:>10}{:>12}{:>8}", "", "godwit", "other", "ratio");
    let (whole, chain) =
        (median.durable + median.restore, median.chain_durable + median.chain_restore);
    for (what, ours, theirs) in [
        ("first reply, against a start from the image", median.restore, median.cold),
        ("first reply, against the kubelet's chain", median.restore, median.chain_restore),
        ("checkpoint there, against the chain", median.durable, median.chain_durable),
        ("both, against the chain", whole, chain),
    ] {
        println!("{what:44}{ours:>7.0} ms{theirs:>9.0} ms{:>8.2}", ours / theirs);
    }
    println!("All rounds: {}", raw.display());
    Ok(())
}
