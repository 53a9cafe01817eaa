//! The command line.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use godwit_types::names;

/// Serves the page faults of one hydrating pod. Started by the shim, not by people.
#[derive(Debug, clap::Parser)]
#[command(version)]
pub(crate) struct Args {
    /// Number of the inherited end of the socket pair whose other end the shim has.
    pub(crate) socket: RawFd,
    /// Where an agent serves frames.
    #[arg(long, default_value = names::AGENT_FRAMES_SOCKET)]
    pub(crate) frames: PathBuf,
    /// Seconds for which no frame may arrive while some are wanted: after that the container is given up. For plans that do not say.
    #[arg(long, default_value_t = 300)]
    deadline: u64,
    /// Frames of 128 KiB in shared memory.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(8..=8192))]
    pub(crate) slots: u32,
}

impl Args {
    /// How long no frame may arrive.
    pub(crate) fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline)
    }

    /// Slots that prefetch may use; the others are for threads that wait.
    pub(crate) fn window(&self) -> usize {
        (self.slots - self.slots / 4) as usize
    }
}
