//! Bounds what is asked of the store at once, so that a checkpoint cannot starve the node's other traffic.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

use crate::blob::{BlobStore, Creation, Key, Listed, SharedStore};
use crate::error::BlobError;

/// The bounds.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests under way at most.
    pub requests: usize,
    /// Bytes per second at most, both directions together; `None` for no limit.
    pub bytes_per_second: Option<u64>,
}

impl Default for Limits {
    /// 64 requests: 16 MiB packs in 64 streams fill any wire that S3 gives one node.
    fn default() -> Self {
        Self { requests: 64, bytes_per_second: None }
    }
}

/// Lets requests wait for their turn.
#[derive(Debug)]
pub struct Limit {
    inner: SharedStore,
    turns: Semaphore,
    bandwidth: Option<Bandwidth>,
}

impl Limit {
    /// Puts bounds around `inner`.
    #[must_use]
    pub fn new(inner: SharedStore, limits: Limits) -> Self {
        let turns = Semaphore::new(limits.requests.clamp(1, Semaphore::MAX_PERMITS));
        Self { inner, turns, bandwidth: limits.bytes_per_second.map(Bandwidth::new) }
    }

    async fn turn(&self, bytes: u64) -> Result<SemaphorePermit<'_>, BlobError> {
        self.spend(bytes).await;
        self.turns.acquire().await.map_err(|e| BlobError::Unavailable {
            store: self.inner.name().to_owned(),
            action: "wait for a turn".to_owned(),
            source: e.into(),
        })
    }

    async fn spend(&self, bytes: u64) {
        if let Some(bandwidth) = &self.bandwidth {
            bandwidth.spend(bytes).await;
        }
    }
}

/// The wire as a queue: each request is let in when those before it would have passed at the allowed rate.
#[derive(Debug)]
struct Bandwidth {
    bytes_per_second: u64,
    free_at: Mutex<Option<Instant>>,
}

impl Bandwidth {
    fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free_at: Mutex::new(None) }
    }

    async fn spend(&self, bytes: u64) {
        sleep_until(self.reserve(bytes, Instant::now())).await;
    }

    fn reserve(&self, bytes: u64, now: Instant) -> Instant {
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let start = free_at.map_or(now, |at| at.max(now));
        *free_at = Some(start + takes);
        start
    }
}

#[async_trait]
impl BlobStore for Limit {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Creation, BlobError> {
        let _turn = self.turn(body.len() as u64).await?;
        self.inner.create(key, body).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), BlobError> {
        let _turn = self.turn(body.len() as u64).await?;
        self.inner.put(key, body).await
    }

    async fn get(&self, key: &Key, limit: u64) -> Result<Bytes, BlobError> {
        let _turn = self.turn(0).await?;
        let body = self.inner.get(key, limit).await?;
        // Known only now: the next request pays.
        if let Some(bandwidth) = &self.bandwidth {
            bandwidth.reserve(body.len() as u64, Instant::now());
        }
        Ok(body)
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, BlobError> {
        let _turn = self.turn(range.end.saturating_sub(range.start)).await?;
        self.inner.get_range(key, range).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Listed>, BlobError> {
        let _turn = self.turn(0).await?;
        self.inner.list(prefix, after, limit).await
    }

    async fn head(&self, key: &Key) -> Result<Option<Listed>, BlobError> {
        let _turn = self.turn(0).await?;
        self.inner.head(key).await
    }

    async fn delete(&self, key: &Key) -> Result<(), BlobError> {
        let _turn = self.turn(0).await?;
        self.inner.delete(key).await
    }
}
