//! Processes known by id *and* start time, so that a recycled id is never taken for one of ours.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use crate::error::{LabError, Result};
use crate::{places, wait};

/// A process that the lab started, as recorded in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// Process id on the host.
    pub(crate) pid: u32,
    /// Start time in clock ticks since boot (field 22 of `/proc/PID/stat`).
    start: u64,
}

impl Recorded {
    /// The running process of this id; `None` when there is none, or only a zombie.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        Self::of_in(Path::new("/proc"), pid)
    }

    /// The same in another mounted proc, by its process ids.
    pub(crate) fn of_in(proc: &Path, pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?;
        // The name may hold spaces and parentheses: fields are counted after the last one.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let (state, threads, start) = (fields.first()?, fields.get(17)?, fields.get(19)?);
        // Of a killed process the first thread may end before the others, which still have its sockets open.
        if matches!(*state, "Z" | "X") && matches!(*threads, "0" | "1") {
            return None;
        }
        Some(Self { pid, start: start.parse().ok()? })
    }

    /// Reads a record; `None` when there is no such file or the process is gone.
    pub(crate) fn load(path: &Path) -> Option<Self> {
        Self::load_in(Path::new("/proc"), path)
    }

    /// The same in another mounted proc, by its process ids.
    pub(crate) fn load_in(proc: &Path, path: &Path) -> Option<Self> {
        let recorded = Self::parse(path)?;
        (Self::of_in(proc, recorded.pid) == Some(recorded)).then_some(recorded)
    }

    fn parse(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let (pid, start) = text.trim().split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, start: start.parse().ok()? })
    }

    /// Writes the record.
    pub(crate) fn store(&self, path: &Path) -> Result<()> {
        places::write(path, format!("{} {}\n", self.pid, self.start))
    }

    /// Whether this very process still runs.
    pub(crate) fn is_alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// Sends a signal, if it still runs.
    pub(crate) fn signal(&self, signal: Signal) {
        let Some(pid) = rustix_pid(self.pid) else { return };
        // The descriptor first, then the check: so the signal reaches who was checked.
        let Ok(fd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return };
        if self.is_alive() {
            let _ = rustix::process::pidfd_send_signal(fd, signal);
        }
    }

    /// Kills it and waits until it is gone.
    pub(crate) fn kill(&self, patience: Duration) -> Result<()> {
        self.signal(Signal::KILL);
        wait::until_true(&format!("process {} to end", self.pid), patience, || !self.is_alive())?;
        self.reap();
        Ok(())
    }

    /// Takes the exit status when it is a child of ours; a zombie would stay as long as we do.
    fn reap(&self) {
        if let Some(pid) = rustix_pid(self.pid) {
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }

    /// The first child of it.
    pub(crate) fn first_child(&self) -> Option<Self> {
        let children = format!("/proc/{0}/task/{0}/children", self.pid);
        let text = fs::read_to_string(children).ok()?;
        Self::of(text.split_whitespace().next()?.parse().ok()?)
    }
}

fn rustix_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// Ends a recorded process, if it still runs, and takes its exit status, if it was our child.
pub(crate) fn end_recorded(path: &Path, patience: Duration) -> Result<()> {
    let Some(recorded) = Recorded::parse(path) else { return Ok(()) };
    if recorded.is_alive() {
        recorded.kill(patience)?;
    }
    recorded.reap();
    places::remove(path)
}

/// Sends SIGKILL to a process id that was just read from a control group of ours.
pub(crate) fn kill_now(pid: u32) {
    if let Some(pid) = rustix_pid(pid) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

/// A started process as record; an error when it is gone already.
pub(crate) fn record(pid: u32, what: &str) -> Result<Recorded> {
    Recorded::of(pid).ok_or_else(|| LabError::Missing {
        what: what.to_owned(),
        hint: "it ended as soon as it was started; see its log".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recycled_id_is_not_taken_for_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let me = Recorded::of(std::process::id()).unwrap();
        me.store(&path).unwrap();
        assert_eq!(Recorded::load(&path), Some(me));
        Recorded { start: me.start + 1, ..me }.store(&path).unwrap();
        assert_eq!(Recorded::load(&path), None);
    }

    #[test]
    #[allow(clippy::zombie_processes, reason = "the code under test waits for it")]
    fn a_killed_child_is_gone_and_reaped() {
        let child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let recorded = Recorded::of(child.id()).unwrap();
        recorded.kill(Duration::from_secs(10)).unwrap();
        assert!(!Path::new(&format!("/proc/{}", child.id())).exists());
    }
}
