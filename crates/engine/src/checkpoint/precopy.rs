//! What is read and stored while the pod still runs, and the memory that is set aside for its freeze.
//!
//! Memory is set aside first: it may be waited for, and what was read before would be old then. A pod that is given away, or is larger
//! than the budget, is read ahead, and what was read is durable before anything is frozen.

use std::sync::Arc;
use std::time::{Duration, Instant};

use godwit_capture::{Baselines, CaptureError, MemoryStats};
use godwit_image::PackRegistry;
use godwit_store::PackStage;
use godwit_types::Bytes;

use super::CheckpointError;
use super::dump::Dumped;
use super::files::{self, Files, Stores};
use super::memory::{Capture, Receiving, Seen, look};
use super::parent::Earlier;
use super::shared::{self, Shared};
use super::source::Source;
use super::work::Work;
use crate::blocking::blocking;
use crate::budget::Reservation;
use crate::journal::Journal;

/// Memory that was looked at longer ago is looked at again.
const FRESH: Duration = Duration::from_secs(1);
/// Deleted files that are open go into the head: CRIU's copy on tmpfs, or the encoder's two, beside ours.
const COPIES: u64 = 3;
/// What capturing the smallest container takes.
const LEAST: u64 = 64 << 20;

/// What a pre-copy works with.
pub(super) struct Ahead<'a> {
    pub(super) sources: &'a [Source],
    pub(super) earlier: Option<&'a Arc<Earlier>>,
    pub(super) packs: &'a Arc<PackRegistry>,
    pub(super) stage: &'a PackStage,
}

/// Its result, for one container.
pub(super) struct Ready {
    pub(super) capture: Arc<Capture>,
    pub(super) read: Read,
    pub(super) receiving: Receiving,
}

/// What is held of the node's budget, for the whole pod.
pub(super) struct Held {
    /// Until all of it is stored.
    pub(super) reserved: Share,
    /// For deleted files that are open: until the head is stored.
    pub(super) images: Option<Reservation>,
    /// For the unexpected.
    pub(super) spare: Option<Reservation>,
}

/// A share of the budget, and what was taken beside it.
pub(super) type Share = (Reservation, Option<Reservation>);

/// What a look at the pod says.
struct Planned {
    /// How each container is captured.
    captures: Vec<Arc<Capture>>,
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

impl Held {
    /// CRIU is gone: memory that was set aside for the unexpected is given back if no container needed it.
    pub(super) fn give_back<'d>(
        &mut self,
        mut all: impl Iterator<Item = (&'d Capture, &'d Dumped)>,
    ) {
        let needed = all.any(|(capture, dumped)| dumped.received.held().0 > capture.need().0);
        self.spare = self.spare.take().filter(|_| needed);
    }
}

impl Work<'_> {
    /// Waits for a share of the budget, reads ahead where that is needed, and makes the receivers ready.
    pub(super) async fn pre_copy(
        &self,
        ahead: &Ahead<'_>,
        journal: &Journal,
    ) -> Result<(Vec<Ready>, Vec<Shared>, Held), CheckpointError> {
        let (Planned { captures, images }, mut reserved) = self.reserve(ahead).await?;
        let images = Some(images).filter(|images| images.0 > 0);
        let images = images.and_then(|images| reserved.0.split(images));
        let private = captures.iter().map(|capture| capture.private().0).sum();
        journal.gauge().expect(private);
        let mut read = Vec::with_capacity(captures.len());
        for (source, capture) in ahead.sources.iter().zip(&captures) {
            read.push(self.read(ahead, source, capture).await?);
        }
        let mut shared = self.read_shared(ahead).await?;
        if read.iter().any(|read| read.baselines.is_some()) {
            // That took long: what was written meanwhile is read before the freeze, not in it.
            ahead.stage.settled().await?;
            (read, shared) = blocking(move || {
                let read = read.into_iter().map(Read::rescan).collect::<Result<_, _>>()?;
                let shared = shared.into_iter().map(Shared::rescan).collect::<Result<_, _>>()?;
                Ok((read, shared))
            })
            .await?;
            ahead.stage.settled().await?;
        }
        // A process that forks until it is frozen brings all of its memory once more, for each child.
        let spare = self.node.budget.spare(Bytes(2 * private));
        let room = spare.as_ref().map_or(Bytes(0), Reservation::bytes);
        let mut ready = Vec::with_capacity(captures.len());
        for (capture, read) in captures.into_iter().zip(read) {
            let (shared, baselines) = (Arc::clone(&capture), read.baselines.clone());
            let room = part(room, capture.private().0, private);
            let receiving = blocking(move || Ok(shared.receive(baselines.as_ref(), room)?)).await?;
            ready.push(Ready { capture, read, receiving });
        }
        journal.gauge().advance(private);
        Ok((ready, shared, Held { reserved, images, spare }))
    }

    /// The first round of the directories that are the pod's alone.
    async fn read_shared(&self, ahead: &Ahead<'_>) -> Result<Vec<Shared>, CheckpointError> {
        let places = shared::places(ahead.sources);
        let budget = self.for_each(ahead);
        let (packs, earlier) = (Arc::clone(ahead.packs), ahead.earlier.cloned());
        let (sink, stop) = (ahead.stage.sink(), self.outside.stop().clone());
        blocking(move || {
            let scan = |place| {
                let stores = Stores { packs: &packs, sink: Arc::clone(&sink), stop: stop.clone() };
                Shared::scan(place, budget, earlier.as_deref(), stores)
            };
            places.into_iter().map(scan).collect()
        })
        .await
    }

    /// Of what files get, the part of each container and of each directory that they share.
    fn for_each(&self, ahead: &Ahead<'_>) -> Bytes {
        let all = ahead.sources.len() + shared::places(ahead.sources).len();
        part(self.for_files(), 1, all as u64)
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
        let memory: u64 = planned.captures.iter().map(|capture| capture.need().0).sum();
        Bytes(memory + self.for_files().0 + planned.images.0)
    }

    /// Looks at the memory and decides how it is captured: of the budget each container has what it needs at least, and of the rest a part
    /// by its size.
    async fn plan(&self, ahead: &Ahead<'_>) -> Result<Planned, CheckpointError> {
        let budget = self.node.budget.total().0 - self.for_files().0;
        let gives_away = self.spec.outcome.gives_away();
        let cgroups: Vec<_> =
            ahead.sources.iter().map(Source::freezer).collect::<Result<_, _>>()?;
        let (packs, sink) = (Arc::clone(ahead.packs), ahead.stage.sink());
        let stop = self.outside.stop().clone();
        blocking(move || {
            let seen: Vec<Seen> =
                cgroups.iter().map(|cgroup| look(cgroup, &stop)).collect::<Result<_, _>>()?;
            let deleted: u64 = seen.iter().map(|seen| seen.deleted_files().0).sum();
            let images = Bytes(deleted.saturating_mul(COPIES));
            let budget = Bytes(budget.saturating_sub(images.0));
            let wants: Vec<_> = seen
                .iter()
                .map(|seen| Want { least: seen.least(gives_away).0, weight: weight(seen) })
                .collect();
            let parts = parts(budget, &wants)?;
            let plan = |(seen, budget): (Seen, Bytes)| {
                let (packs, sink, stop) = (Arc::clone(&packs), Arc::clone(&sink), stop.clone());
                Capture::plan(seen, budget, gives_away, packs, sink, stop).map(Arc::new)
            };
            let captures = seen.into_iter().zip(parts).map(plan).collect::<Result<_, _>>()?;
            Ok(Planned { captures, images })
        })
        .await
    }

    /// The first round of a container's files, and its memory, if that is to be compared in the freeze.
    async fn read(
        &self,
        ahead: &Ahead<'_>,
        source: &Source,
        capture: &Arc<Capture>,
    ) -> Result<Read, CheckpointError> {
        let (name, container) = (source.name.clone(), source.container.clone());
        let (capture, earlier) = (Arc::clone(capture), ahead.earlier.cloned());
        let (packs, sink) = (Arc::clone(ahead.packs), ahead.stage.sink());
        let for_files = self.for_each(ahead);
        let stop = self.outside.stop().clone();
        blocking(move || {
            let known = earlier.as_ref().and_then(|e| e.files(&name));
            let known = known.as_ref();
            let files = Files::scan(&container, for_files, known, &packs, sink, stop)?;
            let parent = earlier.as_ref().and_then(|e| e.of(&name));
            let (baselines, stored) = match capture.pre_reads() {
                true => capture.pre_read(parent).map(|(known, stored)| (Some(known), stored))?,
                false => (None, MemoryStats::default()),
            };
            Ok::<_, CheckpointError>(Read { baselines, stored, files })
        })
        .await
    }
}

/// What a container's part of the budget is measured by: its memory, and what the smallest needs.
fn weight(seen: &Seen) -> u64 {
    LEAST.saturating_add(seen.private.0).saturating_add(seen.shared.0)
}

/// What a container needs of the budget.
#[derive(Debug, Clone, Copy)]
struct Want {
    least: u64,
    weight: u64,
}

/// The parts of a budget: what each needs at least, then the rest by their weights.
///
/// # Errors
/// [`CaptureError::TooBigForBudget`] with what all of them need.
fn parts(budget: Bytes, wants: &[Want]) -> Result<Vec<Bytes>, CaptureError> {
    let total = |of: fn(&Want) -> u64| wants.iter().map(of).fold(0, u64::saturating_add);
    let (least, weights) = (total(|want| want.least), total(|want| want.weight));
    let rest = budget.0.checked_sub(least).map(Bytes);
    let rest = rest.ok_or(CaptureError::TooBigForBudget { need: Bytes(least), have: budget })?;
    let of = |want: &Want| Bytes(want.least + part(rest, want.weight, weights).0);
    Ok(wants.iter().map(of).collect())
}

/// `share` of `all`, of these bytes.
fn part(bytes: Bytes, share: u64, all: u64) -> Bytes {
    let part = u128::from(bytes.0) * u128::from(share) / u128::from(all.max(1));
    Bytes(u64::try_from(part).unwrap_or(bytes.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_budget_are_not_more_than_all_of_it() {
        let whole = Bytes(1000);
        let parts = [1, 2, 4].map(|share| part(whole, share, 7).0);
        assert_eq!(parts, [142, 285, 571]);
        assert_eq!(part(Bytes(u64::MAX), 7, 7), Bytes(u64::MAX));
        assert_eq!(part(whole, 0, 0), Bytes(0));
    }

    #[test]
    fn who_has_much_to_share_gets_its_least_before_the_rest_is_parted() {
        // Shared memory counts in full, private memory by a quarter: by size alone the small one would get too little.
        let wants = [Want { least: 700, weight: 100 }, Want { least: 100, weight: 900 }];
        let all = parts(Bytes(1000), &wants).unwrap();
        assert_eq!(all, [Bytes(720), Bytes(280)]);
        assert_eq!(parts(Bytes(800), &wants).unwrap(), [Bytes(700), Bytes(100)]);
        assert_eq!(parts(Bytes(1000), &wants[..1]).unwrap(), [Bytes(1000)]);
        let refused = parts(Bytes(799), &wants).unwrap_err();
        let CaptureError::TooBigForBudget { need, have } = refused else { panic!("{refused}") };
        assert_eq!((need, have), (Bytes(800), Bytes(799)));
    }
}
