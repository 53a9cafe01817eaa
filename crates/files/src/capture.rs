//! Capturing a writable layer: rounds while the container runs, and what changed since in the freeze.
//!
//! # What is right
//! What [`Frozen::finish`] gives is the layer at the instant of the freeze. A round reads files that may change under it;
//! nothing it found is believed in the freeze unless inode, size and both times are the same *and* the last change was two
//! ticks of the clock before the round began (a change within the same tick leaves the time as it is). All other files, and
//! those with a writable shared mapping, are read again in the freeze; of them only the parts with another digest are kept.
//! # Failure, cancellation
//! The layer is only read, so nothing has to be undone. Packs that were accepted by the sink belong to a checkpoint that
//! will not exist.

mod baseline;
mod contents;
mod read;
mod walk;

use std::sync::Arc;

use godwit_image::{PackRegistry, PackSink};
use godwit_types::Bytes;

use self::baseline::{Baseline, Places};
use self::contents::Contents;
pub(crate) use self::read::cut;
use self::walk::Walk;
use crate::{Entry, FileIndex, FilesError, Halt, MappedFiles, Upper};

/// One writable layer and where its contents go. Blocking.
#[derive(Debug)]
pub struct Layer {
    upper: Upper,
    packs: Arc<PackRegistry>,
    sink: Arc<dyn PackSink>,
    halt: Halt,
}

/// Numbers of a capture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileStats {
    /// Names in the layer.
    pub names: u64,
    /// Bytes of all files, without holes.
    pub contents: Bytes,
    /// Bytes that were read while the container ran.
    pub read: Bytes,
    /// Bytes that were read in the freeze.
    pub read_frozen: Bytes,
    /// Of these, bytes that had changed.
    pub changed_frozen: Bytes,
    /// Of these, bytes that did not fit the budget and were stored in the freeze.
    pub stored_frozen: Bytes,
    /// Bytes that this capture added to packs, after compression.
    pub stored: Bytes,
}

/// A round that was made while the container ran. Dropping it gives the capture up.
#[derive(Debug)]
pub struct Scan {
    index: FileIndex,
    places: Places,
    contents: Contents,
}

/// The layer as it is in the freeze; contents that changed are in memory.
#[derive(Debug)]
pub struct Frozen {
    index: FileIndex,
    contents: Contents,
    /// What the round had found: given back after the thaw, because that takes time too.
    _before: Vec<Entry>,
}

/// A captured layer. All its packs have been accepted by the sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// What it holds.
    pub index: FileIndex,
    /// Numbers.
    pub stats: FileStats,
}

impl Layer {
    /// A layer whose contents become packs of `packs`, handed to `sink`. `packs` begins with the packs of the parent whose
    /// index [`Layer::scan`] gets.
    #[must_use]
    pub fn new(
        upper: Upper,
        packs: Arc<PackRegistry>,
        sink: Arc<dyn PackSink>,
        halt: Halt,
    ) -> Self {
        Self { upper, packs, sink, halt }
    }

    /// The first round, while the container runs. Contents that `parent` has are neither stored again nor, where it saw
    /// this same upper directory, read.
    ///
    /// # Errors
    /// [`FilesError`].
    pub fn scan(&self, parent: Option<&FileIndex>) -> Result<Scan, FilesError> {
        let places = Places::of(parent, &self.upper.instance());
        let frames = parent.map(|p| p.frames.clone()).unwrap_or_default();
        let contents = Contents::new(&self.packs, Arc::clone(&self.sink), frames)?;
        self.round(parent.map_or(&[], |p| &p.entries), &places, contents)
    }

    /// A further round: makes the freeze shorter where the one before took long.
    ///
    /// # Errors
    /// [`FilesError`].
    pub fn rescan(&self, scan: Scan) -> Result<Scan, FilesError> {
        self.round(&scan.index.entries, &scan.places, scan.contents)
    }

    /// Hands all that was stored so far to the sink: whoever waits for the sink then waits for nothing of it in the freeze.
    ///
    /// # Errors
    /// The sink refused it.
    pub fn hand_on(&self, scan: &mut Scan) -> Result<(), FilesError> {
        scan.contents.hand_on()
    }

    fn round(
        &self,
        before: &[Entry],
        places: &Places,
        mut contents: Contents,
    ) -> Result<Scan, FilesError> {
        let (instance, baseline) = (self.upper.instance(), Baseline::of(before, places));
        let since = walk::before_round();
        self.upper.sync()?;
        let entries = Walk::new(&self.upper, &baseline, &mut contents, &self.halt, since).run()?;
        let index = FileIndex { instance, frames: Vec::new(), entries };
        let places = Places::of(Some(&index), &instance);
        Ok(Scan { index, places, contents })
    }

    /// The rest, in the freeze, after CRIU's dump (it makes names of its own for files that have lost theirs). Up to
    /// `budget` bytes are kept in memory, which the caller has reserved; what is more is stored at once, at the speed of
    /// the sink.
    ///
    /// # Errors
    /// [`FilesError::Changed`] if the layer is written to all the same.
    pub fn freeze(
        &self,
        scan: Scan,
        mapped: &MappedFiles,
        budget: Bytes,
    ) -> Result<Frozen, FilesError> {
        let Scan { mut index, places, mut contents } = scan;
        let baseline = Baseline::of(&index.entries, &places);
        contents.enter_freeze(budget.0);
        let since = walk::before_round();
        let walk = Walk::new(&self.upper, &baseline, &mut contents, &self.halt, since);
        let entries = walk.frozen(mapped).run()?;
        let before = std::mem::replace(&mut index.entries, entries);
        Ok(Frozen { index, contents, _before: before })
    }
}

impl Frozen {
    /// Stores what was kept. The container may run.
    ///
    /// # Errors
    /// Packs cannot be handed on.
    pub fn finish(self) -> Result<Captured, FilesError> {
        let Self { mut index, contents, .. } = self;
        let (frames, mut stats) = contents.finish()?;
        contents::keep_used(&mut index, &frames)?;
        stats.names = index.entries.len() as u64;
        stats.contents = Bytes(index.bytes());
        Ok(Captured { index, stats })
    }
}

#[cfg(test)]
mod tests;
