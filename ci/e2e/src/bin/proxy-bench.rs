//! Part of `make bench`: what the CRI proxy adds to kubelet's calls.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use godwit_e2e::proxy_bench::ProxyBench;

/// Calls of the CRI through the proxy, in turn with the same calls straight at containerd.
#[derive(Parser)]
struct Arguments {
    /// Calls of the quickest kind; fewer of the others.
    #[arg(long, default_value_t = 5000)]
    calls: usize,
    /// Where the result is written.
    #[arg(long, default_value = "target/bench/proxy.json")]
    raw: PathBuf,
}

fn main() -> Result<()> {
    let Arguments { calls, raw } = Arguments::parse();
    let outcome = ProxyBench { calls }.run(&mut |line| eprintln!("• {line}"))?;
    std::fs::create_dir_all(raw.parent().unwrap_or(&raw))?;
    std::fs::write(&raw, serde_json::to_string_pretty(&outcome)?)?;
    println!("\n{}, µs, median and 99th of 100", outcome.runtime);
    println!("{:24}{:>16}{:>16}{:>16}{:>8}", "", "containerd", "through proxy", "added", "ratio");
    for row in &outcome.rows {
        let show = |(median, high): (f64, f64)| format!("{median:.0} / {high:.0}");
        println!(
            "{:24}{:>16}{:>16}{:>16}{:>8.2}",
            row.what,
            show(row.direct),
            show(row.proxied),
            show(row.added()),
            row.ratio()
        );
    }
    let (own, resident) = outcome.memory;
    println!("proxy's memory: {own} KiB of its own, {resident} KiB resident\n{}", raw.display());
    Ok(())
}
