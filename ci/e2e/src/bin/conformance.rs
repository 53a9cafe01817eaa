//! `make conformance`: containerd's own client and CRI tests and `critest` with our shim, compared with its runc shim.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use godwit_e2e::conformance::{Daemon, Known, Verdict, cri, critest, run};

/// Runs tests of others with both shims: containerd's client tests, and critest straight and through the CRI proxy, under containerd's
/// newest version and under the distribution's; containerd's CRI tests under the newest, with ours through the proxy. Ends with 1 if a
/// test passes with runc's shim and not with ours, or if a list of known failures (ci/e2e/conformance/known.txt, critest.txt, cri.txt)
/// is not true.
#[derive(Parser)]
struct Arguments {
    /// Which tests.
    #[arg(long, value_enum, default_value = "all")]
    suite: Suite,
    /// Only tests whose name this regular expression matches.
    #[arg(long)]
    only: Option<String>,
    /// Where all that the tests print is written.
    #[arg(long, default_value = "target/conformance")]
    logs: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// Each.
    All,
    /// containerd's client tests.
    Client,
    /// The tests of container runtimes for Kubernetes.
    Critest,
    /// containerd's CRI tests.
    Cri,
}

fn main() -> Result<ExitCode> {
    let Arguments { suite, only, logs } = Arguments::parse();
    let only = only.as_deref();
    let say = &mut |line: &str| eprintln!("• {line}");
    let mut good = true;
    let wanted = |one: Suite| [one, Suite::All].contains(&suite);
    if wanted(Suite::Client) {
        good &= client(only, &logs, say)?;
    }
    if wanted(Suite::Cri) {
        let verdict = cri::run(only, &Known::of_cri()?, &logs, say)?;
        show("containerd's CRI tests", &verdict);
        good &= verdict.is_good();
    }
    if wanted(Suite::Critest) {
        for daemon in Daemon::ALL {
            let verdict = critest::run(daemon, only, &logs, say)?;
            show(&format!("critest, containerd: {}", daemon.name()), &verdict);
            good &= verdict.is_good();
        }
    }
    println!("\nLogs: {}", logs.display());
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn client(only: Option<&str>, logs: &Path, say: &mut dyn FnMut(&str)) -> Result<bool> {
    let known = Known::of_client()?;
    let mut good = true;
    for daemon in Daemon::ALL {
        let verdict = run(daemon, only, &known, logs, say)?;
        show(&format!("containerd's client tests, containerd: {}", daemon.name()), &verdict);
        good &= verdict.is_good();
    }
    Ok(good)
}

fn show(what: &str, verdict: &Verdict) {
    println!("\n{what}");
    println!("{:4} pass with both shims", verdict.pass.len());
    for (what, names) in [
        ("pass with runc's and not with ours", &verdict.ours_fail),
        ("fail with runc's, and are not known to", &verdict.unknown),
        ("are known to fail, and pass", &verdict.mended),
    ] {
        if !names.is_empty() {
            println!("{:4} {what}:", names.len());
            names.iter().for_each(|name| println!("       {name}"));
        }
    }
}
