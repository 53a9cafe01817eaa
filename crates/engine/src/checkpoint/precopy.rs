//! What is read and stored while the pod still runs, and the memory that is set aside for its freeze.
//!
//! A pod that is given away, or is larger than the budget, is read ahead, and what was read is durable before memory is
//! reserved and before anything is frozen: neither the freeze nor anybody else's checkpoint waits for that upload.

use std::sync::Arc;
use std::time::{Duration, Instant};

use godwit_capture::{Baselines, MemoryStats, Received};
use godwit_image::PackRegistry;
use godwit_store::PackStage;
use godwit_types::Bytes;

use super::CheckpointError;
use super::files::{self, Files};
use super::memory::{Capture, Receiving, look};
use super::parent::Earlier;
use super::work::{Source, Work, freezer};
use crate::blocking::blocking;
use crate::budget::Reservation;
use crate::journal::Journal;

/// Memory that was looked at longer ago is looked at again.
const FRESH: Duration = Duration::from_secs(1);

/// What a pre-copy works with.
pub(super) struct Ahead<'a> {
    pub(super) source: &'a Source,
    pub(super) earlier: Option<&'a Arc<Earlier>>,
    pub(super) packs: &'a Arc<PackRegistry>,
    pub(super) stage: &'a PackStage,
}

/// Its result.
pub(super) struct Ready {
    pub(super) capture: Arc<Capture>,
    pub(super) read: Read,
    /// Held until all of it is stored.
    pub(super) reserved: Reservation,
    /// For the unexpected.
    pub(super) spare: Option<Reservation>,
}

/// What was read while the pod ran.
#[derive(Default)]
pub(super) struct Read {
    /// What is known of its memory, if that was read ahead.
    pub(super) baselines: Option<Arc<Baselines>>,
    /// What of its memory was stored.
    pub(super) stored: MemoryStats,
    /// Its files.
    pub(super) files: Option<Files>,
}

impl Ready {
    /// CRIU is gone: memory that was set aside for the unexpected is given back if it was not needed.
    pub(super) fn give_back(&mut self, received: &Received) {
        self.spare = self.spare.take().filter(|_| received.held().0 > self.capture.need().0);
    }
}

impl Work<'_> {
    /// Reads ahead where that is needed, waits for a share of the budget, and makes the receiver ready.
    pub(super) async fn pre_copy(
        &self,
        ahead: &Ahead<'_>,
        journal: &Journal,
    ) -> Result<(Ready, Receiving), CheckpointError> {
        let mut capture = self.plan(ahead).await?;
        journal.gauge().expect(capture.private().0);
        let mut read = Read { files: self.files(ahead).await?, ..Read::default() };
        let reserved = loop {
            self.read_ahead(ahead, &capture, &mut read).await?;
            let asked = Instant::now();
            let reserved = self.node.budget.reserve(self.need(&capture)).await?;
            if asked.elapsed() < FRESH {
                break reserved;
            }
            capture = self.plan(ahead).await?;
            if self.need(&capture).0 <= reserved.bytes().0 {
                break reserved;
            }
        };
        // A process that forks until it is frozen brings all of its memory once more, for each child.
        let spare = self.node.budget.spare(Bytes(2 * capture.private().0));
        let room = spare.as_ref().map_or(Bytes(0), Reservation::bytes);
        let shared = Arc::clone(&capture);
        let (read, receiving) = blocking(move || {
            let receiving = shared.receive(read.baselines.as_ref(), room)?;
            let files = match read.baselines.is_some() {
                // That took long: what was written meanwhile is read before the freeze, not in it.
                true => read.files.map(Files::rescan).transpose()?,
                false => read.files,
            };
            Ok::<_, CheckpointError>((Read { files, ..read }, receiving))
        })
        .await?;
        journal.gauge().advance(capture.private().0);
        Ok((Ready { capture, read, reserved, spare }, receiving))
    }

    fn for_files(&self) -> Bytes {
        files::share(self.node.budget.total())
    }

    fn need(&self, capture: &Capture) -> Bytes {
        Bytes(capture.need().0 + self.for_files().0)
    }

    /// Looks at the memory and decides how it is captured.
    async fn plan(&self, ahead: &Ahead<'_>) -> Result<Arc<Capture>, CheckpointError> {
        let budget = Bytes(self.node.budget.total().0 - self.for_files().0);
        let gives_away = self.spec.outcome.gives_away();
        let cgroup = freezer(&ahead.source.container)?;
        let (packs, sink) = (Arc::clone(ahead.packs), ahead.stage.sink());
        let stop = self.outside.stop().clone();
        blocking(move || {
            let seen = look(&cgroup, &stop)?;
            Ok(Arc::new(Capture::plan(seen, budget, gives_away, packs, sink, stop)?))
        })
        .await
    }

    /// The first round of its files.
    async fn files(&self, ahead: &Ahead<'_>) -> Result<Option<Files>, CheckpointError> {
        let container = ahead.source.container.clone();
        let cgroup = freezer(&container)?;
        let (earlier, for_files) = (ahead.earlier.cloned(), self.for_files());
        let (packs, sink) = (Arc::clone(ahead.packs), ahead.stage.sink());
        let stop = self.outside.stop().clone();
        blocking(move || {
            let known = earlier.as_ref().and_then(|e| e.files(&container.id));
            Files::scan(&container, cgroup, for_files, known.as_ref(), &packs, sink, stop)
        })
        .await
    }

    /// Reads and stores its memory, if it is to be compared in the freeze and was not read yet.
    async fn read_ahead(
        &self,
        ahead: &Ahead<'_>,
        capture: &Arc<Capture>,
        read: &mut Read,
    ) -> Result<(), CheckpointError> {
        if !capture.pre_reads() || read.baselines.is_some() {
            return Ok(());
        }
        let (capture, earlier) = (Arc::clone(capture), ahead.earlier.cloned());
        let name = ahead.source.container.id.clone();
        let (baselines, stored) = blocking(move || {
            let parent = earlier.as_ref().and_then(|e| e.of(&name));
            Ok::<_, CheckpointError>(capture.pre_read(parent)?)
        })
        .await?;
        (read.baselines, read.stored) = (Some(baselines), stored);
        Ok(ahead.stage.settled().await?)
    }
}
