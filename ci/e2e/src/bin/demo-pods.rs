//! `make demo-pods`: the main job for pods on this machine, with a report.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use godwit_e2e::bed::Store;
use godwit_e2e::demo::save;
use godwit_e2e::pod_demo::PodDemo;
use godwit_lab::LabOptions;

/// Moves a pod of Redis and a sidecar under load from one Kubernetes cluster to another, and checks every write.
#[derive(Parser)]
struct Arguments {
    /// Where checkpoints go: `file` (a directory that all nodes see) or `s3` (a real S3 server on this machine).
    #[arg(long, default_value = "s3")]
    store: Store,
    /// Values in Redis, in MiB.
    #[arg(long, default_value_t = 300)]
    mib: u64,
    /// Where the report is written.
    #[arg(long, default_value = "target/demo/pods.json")]
    report: PathBuf,
}

fn main() -> Result<()> {
    let Arguments { store, mib, report: path } = Arguments::parse();
    let demo = PodDemo { store, mib, lab: LabOptions::new("demopods") };
    let report = demo.run(&mut |step| eprintln!("• {step}"))?;
    save(&path, &report)?;
    println!("\n{report}\nReport: {}", path.display());
    Ok(())
}
