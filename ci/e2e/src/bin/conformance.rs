//! `make conformance`: containerd's own client tests with our shim, compared with its runc shim.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use godwit_e2e::conformance::{Daemon, Known, Verdict, run};

/// Runs containerd's client tests with both shims, under its own version and under the distribution's. Ends with 1 if a test passes
/// with runc's shim and not with ours, or if ci/e2e/conformance/known.txt is not true.
#[derive(Parser)]
struct Arguments {
    /// Only tests whose name this regular expression matches.
    #[arg(long)]
    only: Option<String>,
    /// Where all that the tests print is written.
    #[arg(long, default_value = "target/conformance")]
    logs: PathBuf,
}

fn main() -> Result<ExitCode> {
    let Arguments { only, logs } = Arguments::parse();
    let known = Known::of_repository()?;
    let mut good = true;
    for daemon in Daemon::ALL {
        let say = &mut |line: &str| eprintln!("• {line}");
        let verdict = run(daemon, only.as_deref(), &known, &logs, say)?;
        show(daemon, &verdict);
        good &= verdict.is_good();
    }
    println!("\nLogs: {}", logs.display());
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(daemon: Daemon, verdict: &Verdict) {
    println!("\ncontainerd: {}", daemon.name());
    println!("{:4} pass with both shims", verdict.pass.len());
    for (what, names) in [
        ("pass with runc's and not with ours", &verdict.ours_fail),
        ("fail with runc's, and are not known to", &verdict.unknown),
        ("are known to fail, and pass", &verdict.mended),
    ] {
        if !names.is_empty() {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            println!("{:4} {what}: {}", names.len(), names.join(", "));
        }
    }
}
