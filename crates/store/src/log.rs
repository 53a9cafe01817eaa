//! A lineage's log: bytes in and out. What may be appended, and what an outcome means, is `godwit-ownership`'s to decide.
//!
//! # Deadlines
//! Each call ends within [`READ_DEADLINE`] or [`APPEND_DEADLINE`]. A read that does not is an error; an append that does
//! not is [`Creation::Unknown`], for its PUT may still land.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use godwit_ownership::{Entry, MAX_ENTRY};
use godwit_types::{CheckpointId, LineageName, Seq};

use crate::blob::{Creation, Key, get_optional, list_all};
use crate::error::{BlobError, StoreError};
use crate::store::TenantStore;

/// For reading one entry or finding the newest: several tries of the layers below.
pub const READ_DEADLINE: Duration = Duration::from_secs(30);
/// For one PUT of an entry.
pub const APPEND_DEADLINE: Duration = Duration::from_secs(30);
/// An append whose basis was read longer ago than this looks again first: by then old entries may be gone, and a free
/// slot would prove nothing.
const BASIS_LIFETIME: Duration = Duration::from_secs(600);
/// Entries read at once by the audit.
const PARALLEL_READS: usize = 16;

/// The log of one lineage. Keep one per operation: it remembers when the log was last read.
#[derive(Debug)]
pub struct LineageLog {
    tenant: TenantStore,
    name: LineageName,
    /// Milliseconds since boot of the last look at the newest entry; 0 for never.
    looked: AtomicU64,
    /// The newest entry that was read or written. What is in a slot never changes: it is not read again.
    known: Mutex<Option<Entry>>,
}

impl LineageLog {
    pub(crate) fn new(tenant: TenantStore, name: LineageName) -> Self {
        Self { tenant, name, looked: AtomicU64::new(0), known: Mutex::default() }
    }

    /// Whose log it is.
    #[must_use]
    pub fn name(&self) -> &LineageName {
        &self.name
    }

    /// The newest entry, `None` of an empty log: one LIST, and one GET unless it is known already. Its state is the state of the lineage.
    ///
    /// # Errors
    /// The store does not answer in time, or the entry cannot be believed.
    pub async fn newest(&self) -> Result<Option<Entry>, StoreError> {
        let before = self.since_boot();
        let read = async {
            let Some(seq) = self.newest_seq().await? else { return Ok(None) };
            if let Some(known) = self.known(seq) {
                return Ok(Some(known));
            }
            // An entry that was listed exists: entries are never deleted while they are the newest.
            self.get(seq).await?.map(Some).ok_or_else(|| self.vanished(seq))
        };
        let newest = self.within(READ_DEADLINE, "read the log of", read).await?;
        self.looked.store(before, Ordering::Relaxed);
        Ok(newest)
    }

    /// The entry of this slot, `None` where nothing is. **`None` does not mean that a PUT did not happen**: it may
    /// still land.
    ///
    /// # Errors
    /// The store does not answer in time, or the entry cannot be believed.
    pub async fn slot(&self, seq: Seq) -> Result<Option<Entry>, StoreError> {
        self.within(READ_DEADLINE, "read the log of", self.get(seq)).await
    }

    /// Puts an entry into its slot, if nothing is there. Sent once; settling an unknown outcome is the caller's.
    ///
    /// # Errors
    /// Only when it is certain that nothing was written and nothing can land.
    pub async fn append(&self, entry: &Entry) -> Result<Creation, StoreError> {
        let key = self.key(entry.seq);
        let body = entry.encode().map_err(|e| self.unbelievable(&key, e))?;
        if self.is_stale() && self.newest().await?.is_some_and(|newest| newest.seq >= entry.seq) {
            return Ok(Creation::Exists);
        }
        let create = self.tenant.blobs().create(&key, body.into());
        match tokio::time::timeout(APPEND_DEADLINE, create).await {
            Ok(outcome) => {
                let outcome = outcome?;
                if outcome == Creation::Created {
                    self.remember(entry);
                }
                Ok(outcome)
            }
            Err(_) => Ok(Creation::Unknown(format!("no answer within {APPEND_DEADLINE:?}"))),
        }
    }

    /// All entries, oldest first, for the audit ([`godwit_ownership::fold`]).
    ///
    /// # Errors
    /// The store does not answer, or an entry cannot be believed.
    pub async fn read_all(&self) -> Result<Vec<Entry>, StoreError> {
        let listed = list_all(self.tenant.blobs(), &self.prefix()).await?;
        let seqs = listed.iter().rev().filter_map(|l| self.seq_of(&l.key)).collect::<Vec<_>>();
        stream::iter(seqs)
            .map(|seq| async move { self.slot(seq).await?.ok_or_else(|| self.vanished(seq)) })
            .buffered(PARALLEL_READS)
            .try_collect()
            .await
    }

    /// The checkpoints that the log's entries commit, each with the entry's place. Reads the whole log.
    ///
    /// # Errors
    /// As [`LineageLog::read_all`].
    pub async fn commits(&self) -> Result<BTreeMap<CheckpointId, Seq>, StoreError> {
        let all = self.read_all().await?;
        Ok(all.iter().filter_map(|e| Some((e.commits()?, e.seq))).collect())
    }

    /// Whether an entry commits this checkpoint: the newest one often knows, else the whole log is read.
    ///
    /// # Errors
    /// As [`LineageLog::read_all`].
    pub async fn names(&self, checkpoint: CheckpointId) -> Result<bool, StoreError> {
        let Some(newest) = self.newest().await? else { return Ok(false) };
        if newest.state.good().contains(&checkpoint) || newest.commits() == Some(checkpoint) {
            return Ok(true);
        }
        Ok(self.commits().await?.contains_key(&checkpoint))
    }

    async fn newest_seq(&self) -> Result<Option<Seq>, StoreError> {
        let first = self.tenant.blobs().list(&self.prefix(), None, 1).await?.pop();
        let Some(first) = first else { return Ok(None) };
        let stray = || StoreError::Misplaced {
            key: first.key.clone(),
            found: "something that is no entry".to_owned(),
        };
        self.seq_of(&first.key).map(Some).ok_or_else(stray)
    }

    async fn get(&self, seq: Seq) -> Result<Option<Entry>, StoreError> {
        let key = self.key(seq);
        let Some(bytes) = get_optional(self.tenant.blobs(), &key, MAX_ENTRY as u64).await? else {
            return Ok(None);
        };
        let entry = Entry::decode(&bytes).map_err(|e| self.unbelievable(&key, e))?;
        if entry.seq != seq {
            return Err(StoreError::Misplaced { key, found: format!("entry {}", entry.seq) });
        }
        self.remember(&entry);
        Ok(Some(entry))
    }

    fn known(&self, seq: Seq) -> Option<Entry> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().filter(|entry| entry.seq == seq).cloned()
    }

    fn remember(&self, entry: &Entry) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_none_or(|known| known.seq < entry.seq) {
            *known = Some(entry.clone());
        }
    }

    async fn within<T>(
        &self,
        limit: Duration,
        action: &str,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            let store = self.tenant.store.name().to_owned();
            Err(BlobError::Deadline { store, action: format!("{action} {}", self.name), limit }
                .into())
        })
    }

    fn prefix(&self) -> String {
        self.tenant.keys.log(&self.name)
    }

    fn key(&self, seq: Seq) -> Key {
        self.tenant.keys.entry(&self.name, seq)
    }

    fn seq_of(&self, key: &Key) -> Option<Seq> {
        Seq::from_inverted_key(key.last_component()).filter(|seq| self.key(*seq) == *key)
    }

    fn since_boot(&self) -> u64 {
        let ms = self.tenant.store.clock().since_boot().as_millis();
        u64::try_from(ms).unwrap_or(u64::MAX)
    }

    fn is_stale(&self) -> bool {
        let looked = self.looked.load(Ordering::Relaxed);
        let age = Duration::from_millis(self.since_boot().saturating_sub(looked));
        looked == 0 || age > BASIS_LIFETIME
    }

    fn unbelievable(&self, key: &Key, source: godwit_ownership::OwnershipError) -> StoreError {
        StoreError::Log { key: key.to_string(), source }
    }

    fn vanished(&self, seq: Seq) -> StoreError {
        let (store, key) = (self.tenant.store.name().to_owned(), self.key(seq));
        BlobError::NotFound { store, key }.into()
    }
}

#[cfg(test)]
mod tests;
