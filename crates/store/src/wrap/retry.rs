//! Repeats what may be repeated.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::blob::{BlobStore, Creation, Key, Listed, SharedStore};
use crate::error::BlobError;

/// How often and how patiently.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Attempts in all; 1 is none but the first.
    pub attempts: u32,
    /// Pause before the second attempt; each later one is twice as long. Shortened at random by up to a half, so that
    /// many clients do not come back at the same moment.
    pub first_pause: Duration,
    /// Longest pause.
    pub longest_pause: Duration,
}

impl Default for RetryPolicy {
    /// About 11 s of pauses: longer than a server's restart behind a load balancer, shorter than an operation's deadline.
    fn default() -> Self {
        Self {
            attempts: 8,
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(5),
        }
    }
}

/// Tries again what failed with [`BlobError::Unavailable`], except [`BlobStore::create`], whose outcome is not known
/// then: that is the caller's to settle. Deadlines are the caller's too: it drops the future.
#[derive(Debug)]
pub struct Retry {
    inner: SharedStore,
    policy: RetryPolicy,
}

impl Retry {
    /// Puts retries around `inner`.
    #[must_use]
    pub fn new(inner: SharedStore, policy: RetryPolicy) -> Self {
        Self { inner, policy }
    }

    async fn repeat<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, BlobError>
    where
        F: Future<Output = Result<T, BlobError>>,
    {
        let mut pause = self.policy.first_pause;
        for _ in 1..self.policy.attempts {
            match attempt().await {
                Err(BlobError::Unavailable { action, source, .. }) => {
                    tracing::debug!(action, cause = %source, ?pause, "a request is tried again");
                }
                result => return result,
            }
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(self.policy.longest_pause);
        }
        attempt().await
    }
}

#[async_trait]
impl BlobStore for Retry {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Creation, BlobError> {
        self.inner.create(key, body).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), BlobError> {
        self.repeat(|| self.inner.put(key, body.clone())).await
    }

    async fn get(&self, key: &Key, limit: u64) -> Result<Bytes, BlobError> {
        self.repeat(|| self.inner.get(key, limit)).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, BlobError> {
        self.repeat(|| self.inner.get_range(key, range.clone())).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Listed>, BlobError> {
        self.repeat(|| self.inner.list(prefix, after, limit)).await
    }

    async fn head(&self, key: &Key) -> Result<Option<Listed>, BlobError> {
        self.repeat(|| self.inner.head(key)).await
    }

    async fn delete(&self, key: &Key) -> Result<(), BlobError> {
        self.repeat(|| self.inner.delete(key)).await
    }
}
