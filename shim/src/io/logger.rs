//! A logging program (`binary://`): gets the output of a process as descriptors 3 and 4 and says on 5 that it is ready.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process};
use tracing::warn;

use super::Owner;
use super::fd::AsyncPipe;
use crate::error::{Error, Result};
use crate::reaper::{Child, Exit, Reaper};
use crate::sys;

/// How long a logger may take to say that it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a logger may take to end by itself when its input has ended.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it may take after SIGTERM.
const TERM_TIMEOUT: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The program.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
}

/// A running logging program.
#[derive(Debug)]
pub struct Logger {
    child: Child,
}

impl Logger {
    /// Starts it and waits until it is ready. Returns the writing ends for stdout and stderr.
    ///
    /// # Errors
    /// It cannot be started or is not ready in time.
    pub async fn start(
        program: &Program,
        owner: &Owner,
        reaper: &Reaper,
    ) -> Result<(Self, [AsyncPipe; 2])> {
        let (out_read, out_write) = pipe()?;
        let (err_read, err_write) = pipe()?;
        let (ready_read, ready_write) = pipe()?;
        let mut command = Command::new(&program.path);
        command.args(&program.args).env_clear();
        command.env("CONTAINER_ID", &owner.id).env("CONTAINER_NAMESPACE", &owner.namespace);
        let attempt = format!("start logger {}", program.path.display());
        sys::pass_from_3(&mut command, &[out_read, err_read, ready_write])
            .map_err(Error::io(attempt.clone()))?;
        let child = reaper.spawn(&mut command).map_err(Error::io(attempt))?;
        // The command's copies of its ends go with it.
        drop(command);
        let logger = Self { child };
        logger.ready(AsyncPipe::new(ready_read)?, program).await?;
        Ok((logger, [AsyncPipe::new(out_write)?, AsyncPipe::new(err_write)?]))
    }

    /// Waits for its end after its input was closed; helps by SIGTERM, then by SIGKILL.
    pub async fn end(self) {
        let pid = self.child.pid();
        let mut exit = std::pin::pin!(self.child.wait());
        for (patience, signal) in [(END_TIMEOUT, Signal::TERM), (TERM_TIMEOUT, Signal::KILL)] {
            if let Ok(Exit { .. }) = tokio::time::timeout(patience, &mut exit).await {
                return;
            }
            warn!(pid, ?signal, "a logger did not end with its input");
            send(pid, signal);
        }
        exit.await;
    }

    async fn ready(&self, pipe: AsyncPipe, program: &Program) -> Result<()> {
        // A byte, or the end of the pipe: both mean ready.
        let told = tokio::time::timeout(READY_TIMEOUT, pipe.read(&mut [0; 1])).await;
        let attempt = format!("wait for logger {}", program.path.display());
        match told {
            Ok(read) => read.map(|_| ()).map_err(Error::io(attempt)),
            Err(_) => {
                send(self.child.pid(), Signal::KILL);
                Err(Error::Cancelled(format!("{attempt}: not ready within 30 s")))
            }
        }
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).map_err(Error::io("make a pipe"))
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}
