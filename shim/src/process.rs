//! One process that containerd knows: the init process of a container, or one executed in it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::io::{Io, Stdio};
use crate::reaper::Exit;

/// A process of a container.
#[derive(Debug)]
pub struct Process {
    id: String,
    stdio: Stdio,
    document: Vec<u8>,
    inner: Mutex<Inner>,
    exit: watch::Sender<Option<Exit>>,
}

#[derive(Debug, Default)]
struct Inner {
    phase: Phase,
    pid: Option<u32>,
    io: Option<Arc<Io>>,
    stdin_closed: bool,
    exit_while_starting: Option<Exit>,
}

/// How far a process is. For init processes the container's state says more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Phase {
    /// Known, not started.
    #[default]
    Added,
    /// Start is under way.
    Starting,
    /// Started.
    Running,
    /// Over.
    Stopped,
    /// Could not be started: it stays known as one that was not, as with containerd's own shim.
    NotStarted,
}

impl Process {
    /// A process that has not been started.
    #[must_use]
    pub fn new(id: impl Into<String>, stdio: Stdio) -> Arc<Self> {
        Self::with_document(id, stdio, Vec::new())
    }

    /// A process to execute, described by an OCI process document.
    #[must_use]
    pub fn with_document(id: impl Into<String>, stdio: Stdio, document: Vec<u8>) -> Arc<Self> {
        let (exit, _) = watch::channel(None);
        Arc::new(Self { id: id.into(), stdio, document, inner: Mutex::default(), exit })
    }

    /// Its OCI process document (JSON); empty for an init process, whose is in the bundle.
    #[must_use]
    pub fn document(&self) -> &[u8] {
        &self.document
    }

    /// Goes from `Added` to `Starting`; false if it was started before.
    #[must_use]
    pub fn begin(&self) -> bool {
        let mut inner = self.inner();
        let fresh = inner.phase == Phase::Added;
        if fresh {
            inner.phase = Phase::Starting;
        }
        fresh
    }

    /// The exec id; for an init process the container's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What containerd asked for.
    #[must_use]
    pub fn stdio(&self) -> &Stdio {
        &self.stdio
    }

    /// Pid in the shim's namespace, once there is one; it stays after the end.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.inner().pid
    }

    /// Sets the pid.
    pub fn set_pid(&self, pid: u32) {
        self.inner().pid = Some(pid);
    }

    /// Forgets the pid: it was that of a process that never became this one (`criu` of a restore that failed).
    pub fn clear_pid(&self) {
        self.inner().pid = None;
    }

    /// How far it is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.inner().phase
    }

    /// Sets how far it is.
    pub fn set_phase(&self, phase: Phase) {
        self.inner().phase = phase;
    }

    /// Its streams, once they are copied.
    #[must_use]
    pub fn io(&self) -> Option<Arc<Io>> {
        self.inner().io.clone()
    }

    /// Hands over its streams. A CloseIO that came before takes effect now.
    pub fn set_io(&self, io: Io) {
        let mut inner = self.inner();
        if inner.stdin_closed {
            io.close_stdin();
        }
        inner.io = Some(Arc::new(io));
    }

    /// Takes its streams away, to finish them.
    #[must_use]
    pub fn take_io(&self) -> Option<Arc<Io>> {
        self.inner().io.take()
    }

    /// Closes its stdin, now or as soon as there is one.
    pub fn close_stdin(&self) {
        let mut inner = self.inner();
        inner.stdin_closed = true;
        if let Some(io) = &inner.io {
            io.close_stdin();
        }
    }

    /// How it ended, if it did.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Records its end and wakes everyone who waits for it. The first end counts.
    pub fn set_exit(&self, exit: Exit) {
        self.end(Phase::Stopped, exit);
    }

    /// Records that it could not be started, and wakes everyone who waits for its end.
    pub fn set_not_started(&self, exit: Exit) {
        self.end(Phase::NotStarted, exit);
    }

    fn end(&self, phase: Phase, exit: Exit) {
        self.set_phase(phase);
        if let Some(io) = self.io() {
            io.exited();
        }
        self.exit.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert(exit);
            first
        });
    }

    /// Waits for its end.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.subscribe();
        loop {
            if let Some(exit) = *exit.borrow_and_update() {
                return exit;
            }
            // The sender lives in `self`.
            if exit.changed().await.is_err() {
                return Exit::now(255);
            }
        }
    }

    /// If Start is under way, keeps the exit until [`Process::started`] and returns true: its event must not overtake
    /// the one of the start.
    #[must_use]
    pub fn hold_exit(&self, exit: Exit) -> bool {
        let mut inner = self.inner();
        let starting = inner.phase == Phase::Starting;
        if starting {
            inner.exit_while_starting = Some(exit);
        }
        starting
    }

    /// Start has ended and its event is queued: returns an exit that came meanwhile, to be handled now.
    #[must_use]
    pub fn started(&self, phase: Phase) -> Option<Exit> {
        let mut inner = self.inner();
        inner.phase = phase;
        inner.exit_while_starting.take()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_exit_counts_and_wakes_everyone() {
        let process = Process::new("c", Stdio::default());
        process.set_exit(Exit::now(3));
        process.set_exit(Exit::now(4));
        assert_eq!(process.wait().await.status, 3);
        assert_eq!(process.wait().await.status, 3);
    }

    #[test]
    fn an_exit_during_the_start_is_kept_until_the_start_is_told() {
        let process = Process::new("c", Stdio::default());
        assert!(!process.hold_exit(Exit::now(1)));
        process.set_phase(Phase::Starting);
        assert!(process.hold_exit(Exit::now(2)));
        assert_eq!(process.exit(), None);
        assert_eq!(process.started(Phase::Running).map(|exit| exit.status), Some(2));
    }
}
