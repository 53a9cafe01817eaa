//! State, Pids and the like: from memory or from the kernel's small files, never behind a request that takes its time.

use std::sync::Arc;

use super::Pod;
use crate::container::Container;
use crate::error::{Error, Result};
use crate::io::Stdio;
use crate::process::Phase;
use crate::reaper::Exit;
use crate::state::State;
use containerd_shim_protos::protobuf::well_known_types::any::Any;

/// What containerd's API knows of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessState {
    /// Exec id, or the container's.
    pub id: String,
    /// The container's bundle.
    pub bundle: String,
    /// Its pid; 0 while there is none.
    pub pid: u32,
    /// The container's state; `Created`, `Running` or `Stopped` for an executed process, unless the container is paused.
    pub state: State,
    /// Its streams.
    pub stdio: Stdio,
    /// How it ended.
    pub exit: Option<Exit>,
}

/// A process in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its pid.
    pub pid: u32,
    /// The exec id, if it is one that containerd has executed.
    pub exec_id: Option<String>,
}

impl Pod {
    /// The state of a process.
    ///
    /// # Errors
    /// There is none of this id.
    pub fn process_state(&self, id: &str, exec_id: &str) -> Result<ProcessState> {
        let container = self.container(id)?;
        let process = container.process(exec_id)?;
        let exit = process.exit();
        let of_container = container.state();
        let state = match (exit, process.phase()) {
            (_, Phase::NotStarted) => State::Created,
            (Some(_), _) => State::Stopped,
            // Its exit is being told: processes executed in it come first.
            _ if exec_id.is_empty() && of_container == State::Stopped => State::Running,
            // Held, and told as started.
            (None, Phase::Running) if of_container == State::Restoring => State::Running,
            _ if exec_id.is_empty() && container.tell_as_running() => State::Running,
            _ if exec_id.is_empty() => of_container,
            _ if matches!(of_container, State::Paused | State::Pausing) => of_container,
            (None, Phase::Added | Phase::Starting) => State::Created,
            (None, Phase::Running | Phase::Stopped) => State::Running,
        };
        let stand_in = container.stand_in().filter(|_| exec_id.is_empty());
        Ok(ProcessState {
            id: process.id().to_owned(),
            bundle: container.bundle().display().to_string(),
            pid: process.pid().or(stand_in).unwrap_or_default(),
            state,
            stdio: process.stdio().clone(),
            exit,
        })
    }

    /// The processes in a container. Never empty: while it has none (before a restore, after its end) this process
    /// stands for it, because containerd takes an empty answer for a shim that was forgotten, and removes it.
    ///
    /// # Errors
    /// There is no such container.
    pub fn pids(&self, id: &str) -> Result<Vec<Listed>> {
        let container = self.container(id)?;
        let mut pids = container.cgroup().map(|cgroup| cgroup.pids()).unwrap_or_default();
        pids.extend(container.init_pid());
        if pids.is_empty() {
            pids.insert(std::process::id());
        }
        let execs = container.execs();
        let exec_id = |pid: u32| {
            let exec = execs.iter().find(|exec| exec.pid() == Some(pid) && exec.exit().is_none());
            exec.map(|exec| exec.id().to_owned())
        };
        Ok(pids.into_iter().map(|pid| Listed { pid, exec_id: exec_id(pid) }).collect())
    }

    /// The numbers of a container's cgroup.
    ///
    /// # Errors
    /// It has none (yet).
    pub fn stats(&self, id: &str) -> Result<Any> {
        let cgroup = self.container(id)?.cgroup();
        let cgroup =
            cgroup.ok_or_else(|| Error::NotFound(format!("container {id} has no cgroup yet")))?;
        Ok(cgroup.stats())
    }

    /// Pid of a container's init process, or what stands for it; 0 while there is none, or no such container.
    #[must_use]
    pub fn task_pid(&self, id: &str) -> u32 {
        let pid = |container: Arc<Container>| container.init().pid().or(container.stand_in());
        self.container(id).ok().and_then(pid).unwrap_or_default()
    }

    /// Waits for the end of a process.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn wait(&self, id: &str, exec_id: &str) -> Result<Exit> {
        let process = self.container(id)?.process(exec_id)?;
        Ok(process.wait().await)
    }

    /// Changes the size of a process's terminal; without one nothing happens.
    ///
    /// # Errors
    /// There is none of this id.
    pub fn resize(&self, id: &str, exec_id: &str, columns: u16, rows: u16) -> Result<()> {
        let process = self.container(id)?.process(exec_id)?;
        process.io().map_or(Ok(()), |io| io.resize(columns, rows))
    }

    /// Ends a process's stdin, now or as soon as it is started.
    ///
    /// # Errors
    /// There is none of this id.
    pub fn close_stdin(&self, id: &str, exec_id: &str) -> Result<()> {
        self.container(id)?.process(exec_id)?.close_stdin();
        Ok(())
    }
}
