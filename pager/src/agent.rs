//! Frames from an agent, whichever one listens.
//!
//! Two threads: [`link`] connects, again and again, and receives; [`ask`] sends, urgent before prefetch, as slots allow. What is wanted
//! survives the loss of an agent: it is asked for again, of the next one.
//!
//! # The deadline
//! Runs while something is wanted, from the last frame that arrived. When it passes, everything that is wanted has failed for good. It is
//! the one that the plans name, the longest if they differ; else that of the command line.

mod ask;
mod backlog;
mod link;

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use godwit_faults::{Delivery, FrameFailure, FrameSource, Lane, Want};
use godwit_types::Code;

use crate::slots::Notify;
use backlog::Backlog;

/// Where frames come from and how long they may take.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    /// The agent's socket.
    pub(crate) path: PathBuf,
    /// See the module; for plans that name none.
    pub(crate) deadline: Duration,
    /// Slots of each connection.
    pub(crate) slots: u32,
}

/// See the module.
pub(crate) struct Agent {
    terms: Terms,
    backlog: Mutex<Backlog>,
    changed: Condvar,
    delivery: OnceLock<Delivery>,
}

impl Agent {
    pub(crate) fn new(terms: Terms) -> Arc<Self> {
        let (backlog, changed) = (Mutex::default(), Condvar::new());
        let agent = Self { terms, backlog, changed, delivery: OnceLock::new() };
        let agent = Arc::new(agent);
        let (a, b) = (Arc::clone(&agent), Arc::clone(&agent));
        // They end with the process.
        std::thread::spawn(move || a.keep_linked());
        std::thread::spawn(move || b.keep_asking());
        agent
    }

    /// A checkpoint that frames will be wanted of; its number.
    pub(crate) fn add_source(&self, source: Vec<u8>, deadline: Option<Duration>) -> u32 {
        let mut backlog = self.lock();
        backlog.deadline = backlog.deadline.max(deadline);
        backlog.sources.push(source);
        backlog.is_new = true;
        let number = backlog.sources.len() as u32 - 1;
        drop(backlog);
        self.changed.notify_all();
        number
    }

    fn lock(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, want: &Want, code: Code, reason: String) {
        if let Some(delivery) = self.delivery.get() {
            delivery.deliver(want.ticket, Err(FrameFailure { code, reason }));
        }
    }
}

impl FrameSource for Agent {
    fn start(&self, delivery: Delivery) {
        // Called once, by contract.
        let _ = self.delivery.set(delivery);
    }

    fn request(&self, wants: &[Want], lane: Lane) {
        self.lock().add(wants, lane);
        self.changed.notify_all();
    }
}

/// Wakes the asking thread when a slot is free again.
struct Freed(std::sync::Weak<Agent>);

impl std::fmt::Debug for Freed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Freed")
    }
}

impl Notify for Freed {
    fn notify(&self) {
        if let Some(agent) = self.0.upgrade() {
            // With the lock, so that it cannot come between the look for a slot and the wait.
            drop(agent.lock());
            agent.changed.notify_all();
        }
    }
}
