//! Kill: always allowed, never waits behind another request for the container.

use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};

use super::Pod;
use crate::container::Container;
use crate::error::{Error, Result};
use crate::process::Process;
use crate::reaper::Exit;
use crate::state::{Refusal, State};

/// SIGKILL's number.
const KILL: u32 = 9;
/// What a shell adds to the signal that ended a process.
const SIGNALLED: u32 = 128;
/// Signals by which somebody wants a container to end: SIGINT, SIGQUIT, SIGKILL, SIGTERM.
const ENDING: [u32; 4] = [2, 3, KILL, 15];

impl Pod {
    /// Sends a signal to the init process (empty `exec_id`), to all processes of the container, or to an executed one.
    ///
    /// While an operation holds the container: SIGKILL before the seal gives the operation up, then kills. Sealed or
    /// moved, any signal kills everyone without executing another instruction of theirs.
    ///
    /// # Errors
    /// `NotFound` if the process is over.
    pub async fn kill(
        self: &Arc<Self>,
        id: &str,
        exec_id: &str,
        signal: u32,
        all: bool,
    ) -> Result<()> {
        let container = self.container(id)?;
        let process = container.process(exec_id)?;
        if process.exit().is_some() {
            return Err(Error::NotFound(format!("process {} already finished", process.id())));
        }
        if exec_id.is_empty() {
            self.kill_init(&container, signal, all).await
        } else {
            kill_exec(&process, signal)
        }
    }

    async fn kill_init(
        self: &Arc<Self>,
        container: &Arc<Container>,
        signal: u32,
        all: bool,
    ) -> Result<()> {
        match container.state() {
            State::Creating => {
                return Err(Error::Precondition(format!(
                    "container {} is being created",
                    container.id()
                )));
            }
            State::Sealed | State::Moved => return kill_held(container),
            // Nothing has run here yet: giving up loses nothing, and Start says so.
            State::Restoring if ENDING.contains(&signal) => {
                self.hooks().abort(self, container).await?;
                // Start answers now.
                let _turn = container.turn().await;
                self.end_unstarted(container, signal).await;
                return Ok(());
            }
            State::Created if ENDING.contains(&signal) && container.init_pid().is_none() => {
                self.end_unstarted(container, signal).await;
                return Ok(());
            }
            State::Restoring => return Err(container.refuse(Refusal::Restoring)),
            State::Checkpointing | State::Frozen | State::Hydrating if signal == KILL => {
                self.hooks().abort(self, container).await?;
                if matches!(container.state(), State::Sealed | State::Moved) {
                    // Too late to give up: sealed meanwhile. runc would thaw it first.
                    return kill_held(container);
                }
            }
            _ => {}
        }
        if container.init_pid().is_none() {
            // A restore without a process: there is nothing to kill any more.
            return Err(Error::NotFound(format!("container {} has no process", container.id())));
        }
        container.runc().kill(signal, all).await?;
        if signal == KILL {
            container.note_killed();
        }
        Ok(())
    }

    /// A restore that has no process (not started, refused, given up) ends as if it had: whoever waits for its end is told.
    async fn end_unstarted(self: &Arc<Self>, container: &Arc<Container>, signal: u32) {
        if container.state() == State::Created && container.init_pid().is_none() {
            self.init_exited(container, Exit::now(SIGNALLED + signal)).await;
        }
    }
}

fn kill_held(container: &Container) -> Result<()> {
    let Some(cgroup) = container.cgroup() else {
        return Err(Error::NotFound(format!("container {} has no process", container.id())));
    };
    cgroup.kill().map_err(Error::io(format!("kill everyone in container {}", container.id())))?;
    container.note_killed();
    Ok(())
}

fn kill_exec(process: &Process, signal: u32) -> Result<()> {
    let pid = process.pid().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    let pid =
        pid.ok_or_else(|| Error::Precondition(format!("process {} is not started", process.id())))?;
    let signal = i32::try_from(signal).ok().and_then(Signal::from_named_raw);
    let signal = signal.ok_or_else(|| Error::Invalid("no such signal".into()))?;
    match kill_process(pid, signal) {
        Err(rustix::io::Errno::SRCH) => {
            Err(Error::NotFound(format!("process {} already finished", process.id())))
        }
        other => other.map_err(Error::io(format!("send a signal to process {}", process.id()))),
    }
}
