//! A store that took no writes when it was opened, so that nothing is known of what it does with them.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::OnceCell;

use crate::blob::{BlobStore, Creation, Key, Listed, SharedStore};
use crate::error::{BlobError, StoreError};
use crate::probe;

/// Reads pass. Before anything is written the backend is probed, until it has passed once: a create of one that lies is never sent.
#[derive(Debug)]
pub(crate) struct Unproved {
    inner: SharedStore,
    proved: OnceCell<()>,
}

impl Unproved {
    /// Nothing is known of `inner`.
    pub(crate) fn new(inner: SharedStore) -> Self {
        Self { inner, proved: OnceCell::new() }
    }

    /// Of writers at the same time one probes, and the others wait for it.
    async fn prove(&self, action: impl Fn() -> String) -> Result<(), BlobError> {
        let probed = self.proved.get_or_try_init(|| probe::run(&*self.inner)).await;
        let Err(error) = probed else { return Ok(()) };
        let store = self.name().to_owned();
        Err(match error {
            StoreError::Blob(error) => error,
            StoreError::Unsound { reason, .. } => {
                BlobError::Unsound { store, action: action(), reason }
            }
            other => BlobError::Unavailable { store, action: action(), source: other.into() },
        })
    }
}

#[async_trait]
impl BlobStore for Unproved {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Creation, BlobError> {
        self.prove(|| format!("create {key}")).await?;
        self.inner.create(key, body).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), BlobError> {
        self.prove(|| format!("write {key}")).await?;
        self.inner.put(key, body).await
    }

    async fn get(&self, key: &Key, limit: u64) -> Result<Bytes, BlobError> {
        self.inner.get(key, limit).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, BlobError> {
        self.inner.get_range(key, range).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Listed>, BlobError> {
        self.inner.list(prefix, after, limit).await
    }

    async fn head(&self, key: &Key) -> Result<Option<Listed>, BlobError> {
        self.inner.head(key).await
    }

    async fn delete(&self, key: &Key) -> Result<(), BlobError> {
        match self.prove(|| format!("delete {key}")).await {
            // What is deleted makes room; whether it may be is for the answer to say.
            Err(BlobError::Full { .. } | BlobError::Denied { .. }) | Ok(()) => {}
            Err(other) => return Err(other),
        }
        self.inner.delete(key).await
    }
}
