//! Exec: further processes in a container.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Pod;
use crate::container::{Container, read_pid};
use crate::error::{Error, Result};
use crate::events::Event;
use crate::io::{Prepared, Stdio};
use crate::process::{Phase, Process};
use crate::reaper::Exit;
use crate::runc::Streams;
use crate::state::{Refusal, State};

/// How long a process waits to be executed while its container is frozen or restored. Less than the two minutes after
/// which the kubelet gives up, so that our sentence reaches it.
const PATIENCE: Duration = Duration::from_secs(100);
/// Exit status of a process that could not be started.
const NOT_STARTED: u32 = 255;

/// Numbers the files of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// What containerd wants to be executed.
#[derive(Debug, Clone, Default)]
pub struct ExecRequest {
    /// In which container.
    pub container: String,
    /// Id of the process.
    pub exec_id: String,
    /// Its streams.
    pub stdio: Stdio,
    /// An OCI process document (JSON).
    pub document: Vec<u8>,
}

impl Pod {
    /// Makes a process known; [`Pod::start_exec`] runs it.
    ///
    /// # Errors
    /// The id is in use, the document is not JSON, or the container cannot execute processes.
    pub fn exec(&self, request: ExecRequest) -> Result<()> {
        let container = self.container(&request.container)?;
        // Until its end is told, it is known to run; the start will say that it does not.
        let is_ending = container.state() == State::Stopped && container.init().exit().is_none();
        if !is_ending {
            container.state().may_exec().map_err(|refusal| container.refuse(refusal))?;
        }
        if container.state() == State::Created && container.init_pid().is_none() {
            return Err(container.refuse(Refusal::Not(State::Created)));
        }
        if request.exec_id.is_empty() || request.exec_id.contains('/') {
            return Err(Error::Invalid(format!("{:?} is no id for a process", request.exec_id)));
        }
        let document = with_terminal(&request.document, request.stdio.terminal)?;
        let process = Process::with_document(&request.exec_id, request.stdio, document);
        container.add_exec(process)?;
        self.events().publish(Event::exec_added(container.id(), &request.exec_id));
        Ok(())
    }

    /// Runs a process made known before; returns its pid. Waits while the container is frozen or restored.
    ///
    /// # Errors
    /// It cannot be started, or the wait takes too long.
    pub async fn start_exec(self: &Arc<Self>, id: &str, exec_id: &str) -> Result<u32> {
        let container = self.container(id)?;
        let process = container.process(exec_id)?;
        if !process.begin() {
            return Err(Error::Precondition(format!("process {exec_id} was started before")));
        }
        let started = self.run_exec(&container, &process).await;
        if started.is_err() {
            process.set_not_started(Exit::now(NOT_STARTED));
        }
        started
    }

    async fn run_exec(
        self: &Arc<Self>,
        container: &Arc<Container>,
        process: &Arc<Process>,
    ) -> Result<u32> {
        match tokio::time::timeout(PATIENCE, container.wait_to_exec()).await {
            Ok(open) => open?,
            Err(_) => {
                return Err(Error::Unavailable(format!(
                    "container {} has been {} for 100 s; try again",
                    container.id(),
                    container.state()
                )));
            }
        }
        // No await since the check: nobody can close the gate in between.
        container.count_exec(1);
        let started = self.spawn_exec(container, process).await;
        if started.is_err() {
            container.count_exec(-1);
        }
        started
    }

    async fn spawn_exec(
        self: &Arc<Self>,
        container: &Arc<Container>,
        process: &Arc<Process>,
    ) -> Result<u32> {
        let owner = crate::io::Owner { id: process.id().to_owned(), ..container.owner() };
        let (prepared, ends) = Prepared::new(process.stdio(), &owner, self.reaper()).await?;
        let files = Files::write(container, process.document())?;
        let console = prepared.console.as_ref().map(|socket| socket.path().to_owned());
        let streams = Streams { ends, console: console.as_deref() };
        let scope = self.reaper().scope();
        container.runc().exec(&files.document, &files.pid, streams).await?;
        process.set_io(prepared.start().await?);
        let pid = read_pid(&files.pid)?;
        process.set_pid(pid);
        process.set_phase(Phase::Running);
        let child = scope.claim(pid).map_err(Error::io("take over the executed process"))?;
        self.events().publish(Event::exec_started(container.id(), process.id(), pid));
        self.watch_exec(container, process, child);
        Ok(pid)
    }
}

/// The files of one `runc exec`, removed on drop.
struct Files {
    document: PathBuf,
    pid: PathBuf,
}

impl Files {
    fn write(container: &Container, document: &[u8]) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = |suffix: &str| container.bundle().join(format!("exec-{number}.{suffix}"));
        let files = Self { document: path("json"), pid: path("pid") };
        std::fs::write(&files.document, document)
            .map_err(Error::io(format!("write {}", files.document.display())))?;
        Ok(files)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for file in [&self.document, &self.pid] {
            // The bundle may be gone with them.
            let _ = std::fs::remove_file(file);
        }
    }
}

/// The request's word on the terminal wins over the document's.
fn with_terminal(document: &[u8], terminal: bool) -> Result<Vec<u8>> {
    let refuse = |why: &dyn std::fmt::Display| Error::Invalid(format!("process document: {why}"));
    let mut document: serde_json::Value =
        serde_json::from_slice(document).map_err(|why| refuse(&why))?;
    let fields = document.as_object_mut().ok_or_else(|| refuse(&"not an object"))?;
    fields.insert("terminal".into(), terminal.into());
    serde_json::to_vec(&document).map_err(|why| refuse(&why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_decides_about_the_terminal() {
        let document = with_terminal(br#"{"args":["sh"],"terminal":true}"#, false).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&document).unwrap();
        assert_eq!(value["terminal"], false);
        assert_eq!(value["args"][0], "sh");
        assert!(with_terminal(b"[]", false).is_err());
    }
}
