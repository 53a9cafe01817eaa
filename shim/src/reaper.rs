//! The one place that waits for children: no exit is missed, none is taken by somebody else.
//!
//! The shim is a child subreaper, so the processes of its containers become its children when runc is gone. Two kinds of
//! children are told apart:
//! * those that the shim starts itself ([`Reaper::spawn`]): known before they can be reaped;
//! * those that runc starts, whose pid is known only when runc has finished and which may be dead by then. They are
//!   claimed from a [`Scope`] that was opened before runc was started and keeps every exit of an unknown pid.
//!
//! Exits of unknown pids outside of all scopes are orphans of containers and are dropped. Never use `tokio::process` or
//! `Child::wait` in this process: a second waiter steals exits.

use std::collections::HashMap;
use std::io;
use std::process::{ChildStdin, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions, WaitStatus, wait, waitid};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code, or 128 + signal.
    pub status: u32,
    /// When the shim saw it.
    pub at: SystemTime,
}

impl Exit {
    /// An exit that is happening now.
    #[must_use]
    pub fn now(status: u32) -> Self {
        Self { status, at: SystemTime::now() }
    }
}

/// Waits for children. Clones share one table.
#[derive(Debug, Clone, Default)]
pub struct Reaper(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    waiting: HashMap<u32, oneshot::Sender<Exit>>,
    scopes: HashMap<u64, Vec<(u32, Exit)>>,
    next_scope: u64,
}

/// A child whose exit will be told once.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    exit: oneshot::Receiver<Exit>,
}

/// While it lives, exits of pids that nobody waits for are kept so that they can be claimed.
#[derive(Debug)]
pub struct Scope {
    reaper: Reaper,
    id: u64,
}

impl Reaper {
    /// A reaper with an empty table. Run [`Reaper::run`] on exactly one task of the process.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reaps on every SIGCHLD, for ever.
    ///
    /// # Errors
    /// The signal cannot be watched.
    pub async fn run(self) -> io::Result<()> {
        let mut signals = signal(SignalKind::child())?;
        loop {
            self.reap();
            if signals.recv().await.is_none() {
                return Ok(());
            }
        }
    }

    /// Starts a child; its exit cannot be missed. The child does not die with the shim unless the command says so.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        // The lock is held so that nobody reaps between the start and the entry in the table, nor while the standard
        // library waits for a child whose exec failed.
        let mut table = self.table();
        let pid = command.spawn()?.id();
        Ok(table.watch(pid))
    }

    /// The same, with the end of its standard input that is ours. The command asks for a pipe.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn_with_input(&self, command: &mut Command) -> io::Result<(Child, ChildStdin)> {
        let mut table = self.table();
        let mut child = command.spawn()?;
        let input = child.stdin.take().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((table.watch(child.id()), input))
    }

    /// Opens a scope; do so before starting the runc that will make the process.
    #[must_use]
    pub fn scope(&self) -> Scope {
        let mut table = self.table();
        let id = table.next_scope;
        table.next_scope += 1;
        table.scopes.insert(id, Vec::new());
        Scope { reaper: self.clone(), id }
    }

    fn reap(&self) {
        let mut table = self.table();
        while let Some((pid, exit)) = next_zombie() {
            table.exited(pid, exit);
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn watch(&mut self, pid: u32) -> Child {
        let (sender, exit) = oneshot::channel();
        self.waiting.insert(pid, sender);
        Child { pid, exit }
    }

    fn exited(&mut self, pid: u32, exit: Exit) {
        match self.waiting.remove(&pid) {
            // A receiver that is gone does not care.
            Some(waiting) => drop(waiting.send(exit)),
            None => self.scopes.values_mut().for_each(|kept| kept.push((pid, exit))),
        }
    }

    fn kept(&self, scope: u64, pid: u32) -> Option<Exit> {
        let kept = self.scopes.get(&scope)?;
        kept.iter().rev().find(|(exited, _)| *exited == pid).map(|(_, exit)| *exit)
    }
}

impl Child {
    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for its end. Dropping the future loses the exit, not the reaping.
    pub async fn wait(self) -> Exit {
        // The table drops a sender only when the pid was watched twice: then its end is unknown.
        self.exit.await.unwrap_or_else(|_| Exit::now(255))
    }
}

impl Scope {
    /// Takes the child `pid`, alive or dead since the scope was opened.
    ///
    /// # Errors
    /// `NotFound` if it is not a child of ours and did not end within the scope.
    pub fn claim(&self, pid: u32) -> io::Result<Child> {
        let mut table = self.reaper.table();
        // A pid that is a child now, running or zombie, is the one meant: a kept exit of the same number is older.
        if is_child(pid) {
            return Ok(table.watch(pid));
        }
        let exit = table.kept(self.id, pid).ok_or(io::ErrorKind::NotFound)?;
        let child = table.watch(pid);
        table.exited(pid, exit);
        Ok(child)
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        self.reaper.table().scopes.remove(&self.id);
    }
}

fn next_zombie() -> Option<(u32, Exit)> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                return Some((pid.as_raw_pid().cast_unsigned(), ended(status)));
            }
            Ok(None) => return None,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

fn ended(status: WaitStatus) -> Exit {
    let signal = || status.terminating_signal().map(|signal| 128 + signal);
    Exit::now(status.exit_status().or_else(signal).map_or(255, i32::cast_unsigned))
}

fn is_child(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(pid), look).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(status: u32) -> Exit {
        Exit::now(status)
    }

    #[tokio::test]
    async fn an_exit_before_the_claim_is_kept_for_the_scope() {
        let reaper = Reaper::new();
        let scope = reaper.scope();
        reaper.table().exited(u32::MAX >> 1, exit(3));
        let child = scope.claim(u32::MAX >> 1).unwrap();
        assert_eq!(child.wait().await.status, 3);
    }

    #[tokio::test]
    async fn the_newest_exit_of_a_reused_pid_is_the_one_claimed() {
        let reaper = Reaper::new();
        let scope = reaper.scope();
        reaper.table().exited(u32::MAX >> 1, exit(3));
        reaper.table().exited(u32::MAX >> 1, exit(4));
        assert_eq!(scope.claim(u32::MAX >> 1).unwrap().wait().await.status, 4);
    }

    #[tokio::test]
    async fn exits_of_unknown_pids_are_dropped_outside_of_scopes() {
        let reaper = Reaper::new();
        reaper.table().exited(u32::MAX >> 1, exit(3));
        assert!(reaper.scope().claim(u32::MAX >> 1).is_err());
        assert!(reaper.table().scopes.is_empty());
    }

    #[tokio::test]
    async fn a_watched_exit_goes_to_its_watcher_and_to_nobody_else() {
        let reaper = Reaper::new();
        let child = reaper.table().watch(7);
        let scope = reaper.scope();
        reaper.table().exited(7, exit(9));
        assert!(reaper.table().kept(scope.id, 7).is_none());
        assert_eq!(child.wait().await.status, 9);
    }
}
