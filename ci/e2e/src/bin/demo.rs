//! `make demo`: the main job on this machine, with a report.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use godwit_e2e::bed::Store;
use godwit_e2e::demo::{Demo, save};
use godwit_lab::LabOptions;

/// Moves a Redis under load from one node to another, checks every write, and compares with the usual chain.
#[derive(Parser)]
struct Arguments {
    /// Where checkpoints go: `file` (a directory that both nodes see) or `s3` (a real S3 server on this machine).
    #[arg(long, default_value = "s3")]
    store: Store,
    /// Values in Redis, in MiB.
    #[arg(long, default_value_t = 300)]
    mib: u64,
    /// Where the report is written.
    #[arg(long, default_value = "target/demo/report.json")]
    report: PathBuf,
    /// Leave the usual chain out.
    #[arg(long)]
    no_baseline: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let demo = Demo {
        store: arguments.store,
        mib: arguments.mib,
        baseline: !arguments.no_baseline,
        lab: LabOptions::new("demo"),
    };
    let report = demo.run(&mut |step| eprintln!("• {step}"))?;
    save(&arguments.report, &report)?;
    println!("\n{report}\nReport: {}", arguments.report.display());
    Ok(())
}
