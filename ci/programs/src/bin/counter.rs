//! `counter`: prints 1, 2, 3, … A restored one goes on where it was captured.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use godwit_programs::progress::Progress;

/// Prints an increasing number, one per line.
#[derive(Parser)]
struct Arguments {
    /// Milliseconds between two numbers.
    #[arg(long, default_value_t = 100)]
    every_ms: u64,
    /// End with success after this number; 0 means never.
    #[arg(long, default_value_t = 0)]
    until: u64,
    #[command(flatten)]
    progress: Progress,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let last = if arguments.until == 0 { u64::MAX } else { arguments.until };
    for number in 1..=last {
        if let Err(error) = arguments.progress.tell(&number.to_string()) {
            eprintln!("counter: telling {number}: {error}");
            return ExitCode::from(4);
        }
        std::thread::sleep(Duration::from_millis(arguments.every_ms));
    }
    ExitCode::SUCCESS
}
