//! What the shim is told.
//!
//! A child's descriptor is sent by the event loop itself, because the child waits for it; everything else goes through an outbox, because
//! nobody who tells it may wait.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use godwit_faults::{FaultsError, Finished, GroupId, Handed, Observer, Totals};
use godwit_types::Code;
use godwit_wire::pager::{
    Fatal, Finished as WireFinished, Forked, FromPager, FromPagerBody, Hydrated, Progress, ToPager,
    Totals as WireTotals,
};
use godwit_wire::{Refusal, Socket, WireError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::sentence;

pub(crate) type ShimSocket = Socket<FromPager, ToPager>;

/// See the module.
pub(crate) struct Teller {
    socket: Arc<ShimSocket>,
    outbox: Mutex<Sender<FromPagerBody>>,
    names: Mutex<HashMap<GroupId, String>>,
    hydrated: Mutex<HashSet<GroupId>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Teller {
    /// Starts the outbox. The socket is non-blocking.
    pub(crate) fn new(socket: Arc<ShimSocket>) -> Arc<Self> {
        let (outbox, messages) = channel();
        let sending = Arc::clone(&socket);
        std::thread::spawn(move || send_all(&sending, &messages));
        let (names, hydrated) = (Mutex::default(), Mutex::default());
        Arc::new(Self { socket, outbox: Mutex::new(outbox), names, hydrated })
    }

    /// What a group is called.
    pub(crate) fn name(&self, group: GroupId, container: String) {
        locked(&self.names).insert(group, container);
    }

    /// Whether the shim was told that a group is hydrated.
    pub(crate) fn is_hydrated(&self, group: GroupId) -> bool {
        locked(&self.hydrated).contains(&group)
    }

    /// Puts a message into the outbox.
    pub(crate) fn say(&self, message: impl Into<FromPagerBody>) {
        // Only a shim that is gone hears nothing.
        let _ = locked(&self.outbox).send(message.into());
    }

    /// The memory of a container cannot be completed.
    pub(crate) fn say_fatal(&self, container: String, code: Code, reason: String) {
        tracing::error!(container, reason, "memory cannot be completed");
        self.say(Fatal { container, why: Some(Refusal::new(code, reason)) });
    }

    /// How far a group is.
    pub(crate) fn say_progress(&self, group: GroupId, totals: Totals) {
        self.say(Progress { container: self.name_of(group), totals: Some(wire_totals(totals)) });
    }

    fn name_of(&self, group: GroupId) -> String {
        locked(&self.names).get(&group).cloned().unwrap_or_default()
    }
}

impl Observer for Teller {
    fn forked(&self, parent: u64, child: u64, uffd: BorrowedFd<'_>) -> Handed {
        let message = Forked { parent, descriptor: child };
        match self.socket.send(message, &[uffd]) {
            Ok(()) => Handed::Kept,
            // A full queue is tried again. A shim that is gone will never keep it; then the tasks are killed.
            Err(_) => Handed::Busy,
        }
    }

    fn finished(&self, descriptor: u64, _why: Finished) {
        self.say(WireFinished { descriptor });
    }

    fn hydrated(&self, group: GroupId, totals: Totals) {
        locked(&self.hydrated).insert(group);
        let container = self.name_of(group);
        tracing::info!(container, placed = totals.placed, faults = totals.faults, "hydrated");
        self.say(Hydrated { container, totals: Some(wire_totals(totals)) });
    }

    fn fatal(&self, group: Option<GroupId>, error: &FaultsError) {
        let container = group.map(|g| self.name_of(g)).unwrap_or_default();
        self.say_fatal(container, error.code(), sentence(error));
    }
}

/// Sends until the shim is gone.
fn send_all(socket: &ShimSocket, messages: &Receiver<FromPagerBody>) {
    for message in messages {
        loop {
            match socket.send(message.clone(), &[]) {
                Err(WireError::Io { source, .. })
                    if source.kind() == std::io::ErrorKind::WouldBlock =>
                {
                    wait_writable(socket);
                }
                Err(WireError::Closed) => return,
                Err(error) => break tracing::error!(%error, "telling the shim"),
                Ok(()) => break,
            }
        }
    }
}

fn wait_writable(socket: &ShimSocket) {
    let wait = Timespec::try_from(Duration::from_millis(100)).ok();
    // Whatever it says, the next thing is to try again.
    let _ = poll(&mut [PollFd::new(&socket.as_fd(), PollFlags::OUT)], wait.as_ref());
}

fn wire_totals(totals: Totals) -> WireTotals {
    WireTotals {
        pages: totals.pages,
        placed: totals.placed,
        missing: totals.missing,
        faults: totals.faults,
        zero_faults: totals.zero_faults,
        urgent_frames: totals.urgent_frames,
        forks: totals.forks,
        millis: totals.elapsed.as_millis() as u64,
    }
}
