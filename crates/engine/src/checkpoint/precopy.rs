//! What is read and stored while the pod still runs, and the memory that is set aside for its freeze.
//!
//! Memory is set aside first: it may be waited for, and what was read before would be old then. A pod that is given away, or is larger
//! than the budget, is read ahead, and what was read is durable before anything is frozen.

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
/// Deleted files that are open go into the head: CRIU's copy on tmpfs, or the encoder's two, beside ours.
const COPIES: u64 = 3;

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
    pub(super) reserved: Share,
    /// For deleted files that are open: held until the head is stored.
    pub(super) images: Option<Reservation>,
    /// For the unexpected.
    pub(super) spare: Option<Reservation>,
}

/// A share of the budget, and what was taken beside it.
pub(super) type Share = (Reservation, Option<Reservation>);

/// What a look at the container says.
struct Planned {
    capture: Arc<Capture>,
    /// See [`COPIES`].
    images: Bytes,
}

/// What was read while the pod ran.
pub(super) struct Read {
    /// What is known of its memory, if that was read ahead.
    pub(super) baselines: Option<Arc<Baselines>>,
    /// What of its memory was stored.
    pub(super) stored: MemoryStats,
    /// Its files.
    pub(super) files: Option<Files>,
}

impl Read {
    /// A further round of its files, handed on to the store.
    fn rescan(self) -> Result<Self, CheckpointError> {
        let files = self.files.map(Files::rescan).transpose()?;
        Ok(Self { files, ..self })
    }
}

impl Ready {
    /// CRIU is gone: memory that was set aside for the unexpected is given back if it was not needed.
    pub(super) fn give_back(&mut self, received: &Received) {
        self.spare = self.spare.take().filter(|_| received.held().0 > self.capture.need().0);
    }
}

impl Work<'_> {
    /// Waits for a share of the budget, reads ahead where that is needed, and makes the receiver ready.
    pub(super) async fn pre_copy(
        &self,
        ahead: &Ahead<'_>,
        journal: &Journal,
    ) -> Result<(Ready, Receiving), CheckpointError> {
        let (Planned { capture, images }, mut reserved) = self.reserve(ahead).await?;
        let images = Some(images).filter(|images| images.0 > 0);
        let images = images.and_then(|images| reserved.0.split(images));
        journal.gauge().expect(capture.private().0);
        let mut read = self.read(ahead, &capture).await?;
        if read.baselines.is_some() {
            // That took long: what was written meanwhile is read before the freeze, not in it.
            ahead.stage.settled().await?;
            read = blocking(move || read.rescan()).await?;
            ahead.stage.settled().await?;
        }
        // A process that forks until it is frozen brings all of its memory once more, for each child.
        let spare = self.node.budget.spare(Bytes(2 * capture.private().0));
        let room = spare.as_ref().map_or(Bytes(0), Reservation::bytes);
        let (shared, baselines) = (Arc::clone(&capture), read.baselines.clone());
        let receiving = blocking(move || Ok(shared.receive(baselines.as_ref(), room)?)).await?;
        journal.gauge().advance(capture.private().0);
        Ok((Ready { capture, read, reserved, images, spare }, receiving))
    }

    /// Looks at the memory and waits for its share of the budget. What grew while it waited is taken beside it, if it is free; else
    /// all of it is asked for again.
    async fn reserve(&self, ahead: &Ahead<'_>) -> Result<(Planned, Share), CheckpointError> {
        let budget = &self.node.budget;
        let mut planned = self.plan(ahead).await?;
        loop {
            let asked = Instant::now();
            let reserved = budget.reserve(self.need(&planned)).await?;
            if asked.elapsed() < FRESH {
                return Ok((planned, (reserved, None)));
            }
            planned = self.plan(ahead).await?;
            let grown = Bytes(self.need(&planned).0.saturating_sub(reserved.bytes().0));
            if grown.0 == 0 {
                return Ok((planned, (reserved, None)));
            }
            if let Some(more) = budget.reserve_now(grown) {
                return Ok((planned, (reserved, Some(more))));
            }
        }
    }

    fn for_files(&self) -> Bytes {
        files::share(self.node.budget.total())
    }

    fn need(&self, planned: &Planned) -> Bytes {
        Bytes(planned.capture.need().0 + self.for_files().0 + planned.images.0)
    }

    /// Looks at the memory and decides how it is captured.
    async fn plan(&self, ahead: &Ahead<'_>) -> Result<Planned, CheckpointError> {
        let budget = self.node.budget.total().0 - self.for_files().0;
        let gives_away = self.spec.outcome.gives_away();
        let cgroup = freezer(&ahead.source.container)?;
        let (packs, sink) = (Arc::clone(ahead.packs), ahead.stage.sink());
        let stop = self.outside.stop().clone();
        blocking(move || {
            let seen = look(&cgroup, &stop)?;
            let images = Bytes(seen.deleted_files().0.saturating_mul(COPIES));
            let budget = Bytes(budget.saturating_sub(images.0));
            let capture = Capture::plan(seen, budget, gives_away, packs, sink, stop)?;
            Ok(Planned { capture: Arc::new(capture), images })
        })
        .await
    }

    /// The first round of its files, and its memory, if that is to be compared in the freeze.
    async fn read(
        &self,
        ahead: &Ahead<'_>,
        capture: &Arc<Capture>,
    ) -> Result<Read, CheckpointError> {
        let container = ahead.source.container.clone();
        let cgroup = freezer(&container)?;
        let (capture, earlier) = (Arc::clone(capture), ahead.earlier.cloned());
        let (packs, sink) = (Arc::clone(ahead.packs), ahead.stage.sink());
        let (for_files, stop) = (self.for_files(), self.outside.stop().clone());
        blocking(move || {
            let name = &container.id;
            let known = earlier.as_ref().and_then(|e| e.files(name));
            let known = known.as_ref();
            let files = Files::scan(&container, cgroup, for_files, known, &packs, sink, stop)?;
            let parent = earlier.as_ref().and_then(|e| e.of(name));
            let (baselines, stored) = match capture.pre_reads() {
                true => capture.pre_read(parent).map(|(known, stored)| (Some(known), stored))?,
                false => (None, MemoryStats::default()),
            };
            Ok::<_, CheckpointError>(Read { baselines, stored, files })
        })
        .await
    }
}
