//! A lineage's log in a store, as machines see it.

use async_trait::async_trait;
use godwit_ownership::{Entry, Presence, Put, Read};
use godwit_store::LineageLog;
use godwit_store::{Creation, StoreError, TenantStore};
use godwit_types::{CheckpointId, LineageName, Seq};

use crate::driver::Log;

/// The log of one lineage and the checkpoints of its tenant. One per operation.
#[derive(Debug)]
pub struct StoreLog {
    tenant: TenantStore,
    log: LineageLog,
}

impl StoreLog {
    /// The log of this lineage.
    #[must_use]
    pub fn new(tenant: TenantStore, lineage: &LineageName) -> Self {
        let log = tenant.lineage(lineage);
        Self { tenant, log }
    }
}

fn read<T>(what: &'static str, result: Result<T, StoreError>) -> Read<T> {
    match result {
        Ok(value) => Read::Known(value),
        Err(error) => {
            tracing::warn!(what, error = %error, "the store could not be read");
            Read::Unavailable
        }
    }
}

impl StoreLog {
    /// The newest point that the lineage could be continued from, for who only looks: `None` also while the store does not tell.
    pub(crate) async fn last_point(&self) -> Option<CheckpointId> {
        match self.newest().await {
            Read::Known(newest) => newest?.state.good().first().copied(),
            _ => None,
        }
    }

    /// What is missing is believed only of the store itself: a directory that is not mounted lacks everything. It may be mounted at
    /// any moment, so what was missing is read again once the store was seen.
    async fn certain<T, F>(
        &self,
        is_missing: impl Fn(&T) -> bool,
        read: impl Fn() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let found = read().await?;
        if !is_missing(&found) {
            return Ok(found);
        }
        let store = self.tenant.store();
        if !store.is_there().await? {
            return Err(StoreError::NotAStore { store: store.name().to_owned() });
        }
        read().await
    }
}

#[async_trait]
impl Log for StoreLog {
    async fn newest(&self) -> Read<Option<Box<Entry>>> {
        let newest = self.certain(Option::is_none, || self.log.newest()).await;
        read("newest entry", newest.map(|entry| entry.map(Box::new)))
    }

    async fn slot(&self, seq: Seq) -> Read<Option<Box<Entry>>> {
        let slot = self.certain(Option::is_none, || self.log.slot(seq)).await;
        read("log slot", slot.map(|entry| entry.map(Box::new)))
    }

    async fn put(&self, entry: &Entry) -> Put {
        match self.log.append(entry).await {
            Ok(Creation::Created) => Put::Created,
            Ok(Creation::Exists) => Put::Exists,
            Ok(Creation::Unknown(why)) => {
                tracing::warn!(seq = entry.seq.0, why, "whether a log entry landed is not known");
                Put::Unknown
            }
            // `append` fails only where nothing was written and nothing can land.
            Err(error) => {
                tracing::warn!(seq = entry.seq.0, error = %error, "a log entry was not written");
                Put::NotWritten
            }
        }
    }

    async fn presence(&self, checkpoint: CheckpointId) -> Read<Presence> {
        let is_missing = |presence: &Presence| *presence == Presence::Gone;
        let presence = || self.tenant.presence(checkpoint);
        read("manifest", self.certain(is_missing, presence).await)
    }
}

#[cfg(test)]
mod tests {
    use godwit_store::{Store, StoreConfig};
    use godwit_types::Tenant;

    use super::*;

    #[tokio::test]
    async fn what_is_missing_is_believed_only_of_a_store_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (here, away) = (dir.path().join("store"), dir.path().join("away"));
        let config = StoreConfig::from_url(&format!("file://{}", here.display())).unwrap();
        let store = Store::open(&config).await.unwrap();
        let lineage = LineageName::new("uid/x").unwrap();
        let log = StoreLog::new(store.tenant(&Tenant::new("a").unwrap()), &lineage);
        let checkpoint = CheckpointId::mint();
        std::fs::rename(&here, &away).unwrap();
        for _ in 0..2 {
            assert_eq!(log.newest().await, Read::Unavailable);
            assert_eq!(log.slot(Seq(1)).await, Read::Unavailable);
            assert_eq!(log.presence(checkpoint).await, Read::Unavailable);
            // An agent that does not know it makes another one in its place.
            Store::open(&config).await.unwrap();
        }
        std::fs::remove_dir_all(&here).unwrap();
        std::fs::rename(&away, &here).unwrap();
        assert_eq!(log.newest().await, Read::Known(None));
        assert_eq!(log.slot(Seq(1)).await, Read::Known(None));
        assert_eq!(log.presence(checkpoint).await, Read::Known(Presence::Gone));
    }
}
