//! `godwit-pager`: serves the page faults of one hydrating container. A child of the shim; gone when the container is hydrated.
//!
//! Owns the container's userfaultfds and page maps, reads their events, knows no store. Its failure domain is the container's: it never
//! outlives its tasks with descriptors closed, and they never outlive it unhydrated (the shim sees to that; the reverse is [`doom`]).

mod agent;
mod args;
mod control;
mod doom;
mod error;
mod plan;
mod pod;
mod slots;
mod sys;
mod tell;

use std::process::ExitCode;

use clap::Parser;

/// The shim's log. It may be full, or gone: then lines are lost, and no thread ends by that.
struct Log;

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = std::io::stderr().write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn main() -> ExitCode {
    let args = args::Args::parse();
    tracing_subscriber::fmt().with_writer(|| Log).with_ansi(false).init();
    // A thread that is gone would leave its part of the work undone and everybody waiting: then rather all of us, and the shim acts.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::abort();
    }));
    sys::outlive_signals();
    sys::harden();
    match control::run(&args) {
        Ok(end) => end.exit_code(),
        Err(error) => {
            tracing::error!("{:#}", anyhow::Error::from(error));
            ExitCode::FAILURE
        }
    }
}
