//! A store, opened: backend, wrappers, identity, clock; and one tenant's part of it.

use std::sync::Arc;
use std::time::Duration;

use godwit_types::{LineageName, Tenant};
use jiff::{SignedDuration, Timestamp};

use crate::blob::file::FileStore;
use crate::blob::memory::MemoryStore;
use crate::blob::s3::S3Store;
use crate::blob::{BlobStore, SharedStore};
use crate::clock::{Clock, SystemClock};
use crate::config::StoreConfig;
use crate::error::StoreError;
use crate::identity::{DEFAULT_HORIZON, Identity};
use crate::layout::TenantKeys;
use crate::log::LineageLog;
use crate::probe::{self, Speed};
use crate::wrap::{Counts, Limit, Limits, Meter, Retry, RetryPolicy, Unproved};

/// An opened store. Cheap to clone; all clones share connections, limits and counters.
#[derive(Debug, Clone)]
pub struct Store {
    blobs: SharedStore,
    counts: Arc<Counts>,
    clock: Arc<dyn Clock>,
    identity: Arc<Identity>,
}

/// What the opener is going to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read only: nothing is changed, and the backend is believed. Where the store takes writes, an object that tells its time may be
    /// written.
    Read,
    /// Everything, in a store that exists; the backend is probed.
    Write,
    /// Everything: the store is made where it does not exist.
    Create,
}

impl Store {
    /// Opens the store that `config` names, for reading and writing, and makes it where it does not exist.
    ///
    /// # Errors
    /// The configuration cannot be used, the backend does not answer, or it lies ([`StoreError::Unsound`]).
    pub async fn open(config: &StoreConfig) -> Result<Self, StoreError> {
        Self::open_for(config, Access::Create).await
    }

    /// Opens the store that `config` names.
    ///
    /// # Errors
    /// As [`Store::open`]; [`StoreError::NotAStore`] where there is none and it may not be made.
    pub async fn open_for(config: &StoreConfig, access: Access) -> Result<Self, StoreError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (counts, limits) = (Arc::new(Counts::default()), config.limits());
        let metered = Meter::new(backend(config, access).await?, Arc::clone(&counts));
        let limited: SharedStore = Arc::new(Limit::new(Arc::new(metered), limits));
        let blobs: SharedStore = Arc::new(Retry::new(limited, RetryPolicy::default()));
        let horizon = config.horizon_seconds.map_or(DEFAULT_HORIZON, Duration::from_secs);
        Self::identified(blobs, access, counts, clock, horizon).await
    }

    /// A store over any blobs and any clock, without wrappers: for tests and for embedding.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn over(
        blobs: SharedStore,
        clock: Arc<dyn Clock>,
        horizon: Duration,
    ) -> Result<Self, StoreError> {
        Self::identified(blobs, Access::Create, Arc::default(), clock, horizon).await
    }

    async fn identified(
        blobs: SharedStore,
        access: Access,
        counts: Arc<Counts>,
        clock: Arc<dyn Clock>,
        horizon: Duration,
    ) -> Result<Self, StoreError> {
        let (identity, tried) = identify(&blobs, access, &*clock, horizon).await?;
        let blobs: SharedStore = match tried {
            Tried::Sound => blobs,
            Tried::ReadOnly => Arc::new(Unproved::new(blobs)),
        };
        Ok(Self { blobs, counts, clock, identity: Arc::new(identity) })
    }

    /// A clone whose requests are counted by themselves, for the report of one operation. What the wrappers below
    /// repeat is counted once.
    #[must_use]
    pub fn metered(&self) -> (Self, Arc<Counts>) {
        let counts = Arc::new(Counts::default());
        let blobs = Arc::new(Meter::new(Arc::clone(&self.blobs), Arc::clone(&counts)));
        (Self { blobs, ..self.clone() }, counts)
    }

    /// The store's URL, without secrets.
    #[must_use]
    pub fn name(&self) -> &str {
        self.blobs.name()
    }

    /// What `godwit.json` says.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether this very store is there now. What a directory lacks is missing only if so: it may not be mounted.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn is_there(&self) -> Result<bool, StoreError> {
        let found = Identity::read(&*self.blobs).await?;
        Ok(found.is_some_and(|found| found.id == self.identity.id))
    }

    /// Tries the backend as when it is opened, and removes what that wrote. Gives by how much the store's clock is ahead of ours, as
    /// exact as it tells its time: mostly to a second.
    ///
    /// # Errors
    /// It does not answer, or does not do what is needed ([`StoreError::Unsound`]).
    pub async fn prove(&self) -> Result<SignedDuration, StoreError> {
        probe::run(&*self.blobs).await?;
        probe::ahead(&*self.blobs, &*self.clock).await
    }

    /// How fast one stream into it and out of it is, beside what else is under way and within the configured limits: 4 MiB are written,
    /// read and removed. `None`: it failed, or took longer than each may.
    pub async fn speed(&self, each: Duration) -> Option<Speed> {
        probe::speed(&*self.blobs, each).await
    }

    /// What was sent and received since the store was opened.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The blobs themselves.
    #[must_use]
    pub fn blobs(&self) -> &SharedStore {
        &self.blobs
    }

    /// The part of one tenant.
    #[must_use]
    pub fn tenant(&self, tenant: &Tenant) -> TenantStore {
        let keys = Arc::new(TenantKeys::new(tenant));
        TenantStore { store: self.clone(), tenant: tenant.clone(), keys }
    }

    /// The tenants that have anything in the store. One LIST for each.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn tenants(&self) -> Result<Vec<Tenant>, StoreError> {
        let mut found: Vec<Tenant> = Vec::new();
        let mut after = None;
        while let Some(first) = self.blobs.list("t/", after.as_ref(), 1).await?.pop() {
            let name = first.key.as_str().split('/').nth(1).unwrap_or_default();
            // `0` follows `/`: behind everything of this tenant.
            after = Some(crate::Key::new(format!("t/{name}0"))?);
            found.extend(Tenant::new(name));
        }
        Ok(found)
    }

    /// The clocks by which its rules are kept.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(crate) fn horizon(&self) -> Duration {
        self.identity.horizon()
    }

    /// The time of day, for people who read what we write.
    pub(crate) fn timestamp(&self) -> Timestamp {
        timestamp(&*self.clock)
    }
}

fn timestamp(clock: &dyn Clock) -> Timestamp {
    Timestamp::try_from(clock.now()).unwrap_or(Timestamp::UNIX_EPOCH)
}

async fn backend(config: &StoreConfig, access: Access) -> Result<SharedStore, StoreError> {
    Ok(match config.url.scheme() {
        "memory" => Arc::new(MemoryStore::new()),
        "file" => Arc::new(FileStore::open(&config.directory()?, access)?),
        "s3" => {
            let bucket = S3Store::open(config).await?;
            if access != Access::Read {
                bucket.refuse_expiry().await?;
            }
            Arc::new(bucket)
        }
        other => {
            return Err(StoreError::Config(format!(
                "{other}:// is no store: use s3://bucket/prefix or file:///directory"
            )));
        }
    })
}

/// What the start probe found out.
enum Tried {
    /// Enough for what the opener is going to do.
    Sound,
    /// The store takes no writes now: nothing is known of what it does with them.
    ReadOnly,
}

async fn identify(
    blobs: &SharedStore,
    access: Access,
    clock: &dyn Clock,
    horizon: Duration,
) -> Result<(Identity, Tried), StoreError> {
    if access == Access::Create {
        probe::run(&**blobs).await?;
        let identity = Identity::read_or_create(&**blobs, timestamp(clock), horizon).await?;
        return Ok((identity, Tried::Sound));
    }
    let store = || blobs.name().to_owned();
    let found = Identity::read(&**blobs).await?;
    let found = found.ok_or_else(|| StoreError::NotAStore { store: store() })?;
    let tried = match access {
        Access::Write => readable(probe::run(&**blobs).await)?,
        Access::Read | Access::Create => Tried::Sound,
    };
    Ok((found, tried))
}

/// A store that exists and takes no writes now can be read, which is what containers whose memory is on its way need. Whoever writes is
/// told by the write, before which the store is probed again ([`Unproved`]).
fn readable(probed: Result<(), StoreError>) -> Result<Tried, StoreError> {
    match probed {
        Ok(()) => Ok(Tried::Sound),
        Err(why) if why.takes_no_writes() => {
            tracing::warn!(error = %why, "the store can only be read");
            Ok(Tried::ReadOnly)
        }
        Err(other) => Err(other),
    }
}

/// One tenant's lineages and checkpoints. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TenantStore {
    pub(crate) store: Store,
    pub(crate) tenant: Tenant,
    pub(crate) keys: Arc<TenantKeys>,
}

impl TenantStore {
    /// Whose it is.
    #[must_use]
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// The store that it is a part of.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The log of one lineage.
    #[must_use]
    pub fn lineage(&self, name: &LineageName) -> LineageLog {
        LineageLog::new(self.clone(), name.clone())
    }

    /// The lineages that have a log. One LIST for each.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn lineages(&self) -> Result<Vec<LineageName>, StoreError> {
        let mut found: Vec<LineageName> = Vec::new();
        let (prefix, mut after) = (self.keys.lineages(), None);
        while let Some(first) = self.blobs().list(&prefix, after.as_ref(), 1).await?.pop() {
            let name = self.keys.parse_lineage(&first.key);
            // What is no lineage of ours is passed over key by key.
            after = Some(name.as_ref().map_or(first.key, |name| self.keys.behind_log(name)));
            found.extend(name);
        }
        Ok(found)
    }

    pub(crate) fn blobs(&self) -> &dyn BlobStore {
        &*self.store.blobs
    }
}

impl StoreConfig {
    fn limits(&self) -> Limits {
        let default = Limits::default();
        Limits {
            requests: self.max_requests.unwrap_or(default.requests),
            bytes_per_second: self.max_bytes_per_second,
        }
    }
}

#[cfg(test)]
mod tests;
