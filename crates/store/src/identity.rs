//! `godwit.json`: which store this is, and what all its users must agree on. Written once.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::blob::{BlobStore, Key};
use crate::error::StoreError;
use crate::layout::STORE_ID;
use crate::record::{self, Record};

/// T of the design: how long anything may lie unreferenced before it is garbage. Operations give up after half of it.
pub const DEFAULT_HORIZON: Duration = Duration::from_secs(24 * 3600);

/// What `godwit.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The store's id.
    pub id: Ulid,
    /// When it was made.
    pub created: Timestamp,
    /// T in seconds. The same for every user of the store: it is what makes the collection of garbage safe.
    pub horizon_seconds: u64,
}

impl Record for Identity {
    const FORMAT: &'static str = "godwit.store/1";
}

impl Identity {
    /// T.
    #[must_use]
    pub fn horizon(&self) -> Duration {
        Duration::from_secs(self.horizon_seconds)
    }

    /// Reads it, `None` if nothing is there.
    pub(crate) async fn read(store: &dyn BlobStore) -> Result<Option<Self>, StoreError> {
        record::read(store, &Key::made_of(STORE_ID.to_owned())).await
    }

    /// Reads it, or writes it where nothing is there; of several that do so at once, all get the winner's.
    pub(crate) async fn read_or_create(
        store: &dyn BlobStore,
        now: Timestamp,
        horizon: Duration,
    ) -> Result<Self, StoreError> {
        let key = Key::made_of(STORE_ID.to_owned());
        if let Some(found) = record::read(store, &key).await? {
            return Ok(found);
        }
        let horizon_seconds = horizon.as_secs();
        let new = Self { id: Ulid::generate(), created: now, horizon_seconds };
        if record::create(store, &key, &new).await? {
            return Ok(new);
        }
        record::read(store, &key).await?.ok_or(StoreError::Unsettled { key })
    }
}
