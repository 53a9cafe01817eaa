//! The collection of garbage of one tenant: marks what is needed, lists what is not, and deletes much later what is still
//! not needed.
//!
//! ```text
//! sweep n:      mark ─► orphans get tombstones ─► list what is unmarked
//! sweep n + m:  mark ─► orphans decided         ─► delete what is on a list older than T *and* unmarked now
//! ```
//! # Why nothing that is needed goes
//! Needed is what an existing manifest, a young intent (with its parent) or a young pin names. A writer writes its intent and
//! then looks for the parent's tombstone, a reader its pin and then the tombstone: so whoever begins to need something that
//! is unmarked is either seen by the second mark or sees the tombstone, which is older than the list. Operations give up
//! after T/2 and no PUT lands later than T/2 after it was sent, so whatever was begun before the list is marked or dead by
//! the second mark. Intents and pins are read *before* manifests: what a writer removes, it removes after its manifest.
//!
//! "Older than the list" needs care: an orphan is listed, its entry lands after all, and then somebody deletes it. So nothing
//! that a checkpoint names goes before its tombstone is older than T, whatever an old list says.
//!
//! # Tombstones that are taken back
//! By a sweep that finds an entry after its tombstone, or a hold beside that of a deletion that has died (it is older than T), and by a
//! deletion that came too late: all write `withdrawn` over it, which
//! counts as none (`checkpoint/delete.rs` says why it is not removed). A sweep removes it when it is older than T.
//!
//! # Two sweeps at once
//! Are safe: a deletion is by key, keys are never used again, and no step depends on being alone.
//!
//! # Crash
//! At any point: what is on a list stays there. Of one checkpoint the manifest goes first and the tombstone last, so a half
//! deleted one never looks as if it existed.

mod collect;
mod marks;
mod orphans;

use godwit_types::Bytes;
use ulid::Ulid;

use crate::checkpoint::Age;
use crate::error::StoreError;
use crate::store::TenantStore;

/// What one sweep did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Checkpoints that are needed.
    pub kept: usize,
    /// Checkpoints that no entry commits and that are given up.
    pub orphans: usize,
    /// Orphans that a later sweep decides about.
    pub undecided: usize,
    /// Objects that were found unneeded for the first time: a sweep after T may delete them.
    pub listed: usize,
    /// Objects that are on a list that is not old enough yet.
    pub waiting: usize,
    /// Objects that were deleted.
    pub deleted: usize,
    /// Their bytes.
    pub freed: Bytes,
}

/// How a sweep is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SweepOptions {
    /// Only say what would be listed and deleted. Orphans are then counted as undecided.
    pub dry_run: bool,
}

impl TenantStore {
    /// One sweep. Run it now and then (each hour, say); any number may run at once.
    ///
    /// # Errors
    /// The store does not answer; a manifest, intent or tombstone is damaged, so that what it names is not known: then
    /// nothing was deleted (delete that checkpoint by force). [`StoreError::TooOld`] if it took longer than T/2.
    pub async fn sweep(&self, options: SweepOptions) -> Result<SweepReport, StoreError> {
        let age = Age::begin(self);
        let now = match options.dry_run {
            true => self.about_now().await?,
            false => self.store_time().await?,
        };
        let sweep = Sweep { tenant: self, options, id: Ulid::generate(), age, now };
        sweep.run().await
    }
}

/// One sweep at work.
struct Sweep<'a> {
    tenant: &'a TenantStore,
    options: SweepOptions,
    id: Ulid,
    age: Age,
    /// When it began, by the store's clock.
    now: std::time::SystemTime,
}

impl Sweep<'_> {
    async fn run(&self) -> Result<SweepReport, StoreError> {
        let mut report = SweepReport::default();
        let marks = self.mark(&mut report).await?;
        self.collect(&marks, &mut report).await?;
        for id in marks.held.iter().filter(|_| !self.options.dry_run) {
            self.withdraw(*id, "it is held, and whoever deleted it did not look for that").await?;
        }
        for id in marks.withdrawn.iter().filter(|_| !self.options.dry_run) {
            self.tidy_up(*id).await?;
        }
        tracing::info!(tenant = %self.tenant.tenant, ?report, "swept");
        Ok(report)
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
