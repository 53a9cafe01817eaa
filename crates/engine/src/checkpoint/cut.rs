//! One consistent cut of a pod: every container's CRIU session, side by side.
//! Blocking; run on threads that may.
//!
//! All sessions are brought to where the tasks are dumped and held before any of them is told to let go: a connection between two
//! containers is silent at both ends until both ends are known.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use godwit_capture::Received;
use godwit_files::Frozen;

use super::CheckpointError;
use super::dump::{Dump, Dumped, Ender};
use super::files::{self, Files};
use super::shared::{Shared, SharedFrozen};

/// What was taken.
#[derive(Debug)]
pub(super) struct Taken {
    /// Of each container, in order: the pages that arrived.
    pub(super) received: Vec<Received>,
    /// And its files.
    pub(super) files: Vec<Option<Frozen>>,
    /// Directories that they share.
    pub(super) shared: Vec<SharedFrozen>,
}

/// The sessions of a pod.
#[derive(Debug)]
pub(super) struct Cut(Vec<Dump>);

/// Ends all sessions from outside while they are busy.
#[derive(Debug)]
pub(super) struct Enders(Vec<Ender>);

impl Enders {
    /// See [`Ender::end`].
    pub(super) fn end(&self) {
        self.0.iter().for_each(Ender::end);
    }
}

impl Cut {
    /// Of sessions that are warm.
    pub(super) fn new(dumps: Vec<Dump>) -> Self {
        Self(dumps)
    }

    /// What ends it from outside.
    pub(super) fn ender(&self) -> Enders {
        Enders(self.0.iter().map(Dump::ender).collect())
    }

    /// Frozen: dumps every container, and waits until all of it is here. The tasks are held.
    ///
    /// # Errors
    /// The first that failed; all sessions are over.
    pub(super) fn take(
        &mut self,
        deadline: Instant,
        files: Vec<Option<Files>>,
        shared: Vec<Shared>,
    ) -> Result<Taken, CheckpointError> {
        let files = Mutex::new(files.into_iter().map(Some).collect::<Vec<_>>());
        let of = |number: usize| {
            let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
            files.get_mut(number).and_then(Option::take).flatten()
        };
        let taken = self.side_by_side(|number, dump| dump.dump(deadline, of(number)))?;
        let (received, files) = taken.into_iter().unzip();
        // Only now every CRIU has made its names for deleted files that are open.
        match self.shared(shared) {
            Ok(shared) => Ok(Taken { received, files, shared }),
            Err(error) => {
                self.0.iter_mut().for_each(Dump::abort);
                Err(error)
            }
        }
    }

    /// Reads the directories that they share; what is mapped of them is looked at once for all.
    fn shared(&self, shared: Vec<Shared>) -> Result<Vec<SharedFrozen>, CheckpointError> {
        if shared.is_empty() {
            return Ok(Vec::new());
        }
        let mapped = files::mapped(self.0.iter().map(Dump::freezer))?;
        shared.into_iter().map(|one| one.freeze(&mapped)).collect()
    }

    /// Frozen: gives every session its verdict and waits for its CRIU's exit. The pod is frozen by its cgroups again.
    ///
    /// # Errors
    /// The first that failed; all sessions are over.
    pub(super) fn keep(&mut self) -> Result<(), CheckpointError> {
        self.side_by_side(|_, dump| dump.keep()).map(drop)
    }

    /// Reads what was written, container by container.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub(super) fn collect(self, received: Vec<Received>) -> Result<Vec<Dumped>, CheckpointError> {
        let sessions = self.0.into_iter().zip(received);
        sessions.map(|(dump, received)| dump.collect(received)).collect()
    }

    /// Does the same with all of them at once. One that fails ends the others.
    fn side_by_side<T: Send>(
        &mut self,
        work: impl Fn(usize, &mut Dump) -> Result<T, CheckpointError> + Sync,
    ) -> Result<Vec<T>, CheckpointError> {
        if let [only] = self.0.as_mut_slice() {
            return work(0, only).map(|done| vec![done]);
        }
        let (enders, first) = (self.ender(), Mutex::new(None));
        let fails = |error| {
            let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
            if first.is_none() {
                *first = Some(error);
                enders.end();
            }
        };
        let one = |(number, dump)| work(number, dump).map_err(&fails).ok();
        let done: Vec<Option<T>> = std::thread::scope(|scope| {
            let one = &one;
            let threads: Vec<_> =
                self.0.iter_mut().enumerate().map(|each| scope.spawn(move || one(each))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_default()).collect()
        });
        if let Some(error) = first.into_inner().unwrap_or_else(PoisonError::into_inner) {
            // Those that failed have ended by themselves.
            let others = self.0.iter_mut().zip(&done).filter(|(_, done)| done.is_some());
            others.for_each(|(dump, _)| dump.abort());
            return Err(error);
        }
        let done: Option<Vec<T>> = done.into_iter().collect();
        done.ok_or(CheckpointError::Order(super::Step::Task))
    }
}
