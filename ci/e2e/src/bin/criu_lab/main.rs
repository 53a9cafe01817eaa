//! Dump and restore without containerd, shim and agent: this program plays the shim, inside a lab node, around the real
//! runc, CRIU and relay. `ci/e2e/tests/criu.rs` runs its scenarios.
//!
//! It is its own workload too: a program with threads, children, pipes, sockets, files and memory that checks itself.

mod bundle;
mod dump;
mod freezer;
mod pages;
mod restore;
mod scenarios;
mod streams;
mod workload;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
enum Arguments {
    /// The program inside the container.
    Workload,
    /// A child of the workload.
    Child,
    /// Runs one scenario in this node.
    Scenario {
        /// Its name.
        name: String,
        /// The relay, under the name `criu` in a directory of its own.
        #[arg(long)]
        relay: std::path::PathBuf,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse() {
        Arguments::Workload => workload::run(),
        Arguments::Child => workload::child(),
        Arguments::Scenario { name, relay } => scenarios::run(&name, &relay),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("criu_lab: {error:?}");
            ExitCode::FAILURE
        }
    }
}
