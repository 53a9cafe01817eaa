//! Counts requests and bytes by kind, for metrics and reports.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::Operation;
use crate::blob::{BlobStore, Creation, Key, Listed, SharedStore};
use crate::error::BlobError;

/// Counts what passes.
#[derive(Debug)]
pub struct Meter {
    inner: SharedStore,
    counts: Arc<Counts>,
}

/// The counters; they only grow.
#[derive(Debug, Default)]
pub struct Counts {
    by_operation: [Counters; Operation::ALL.len()],
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    failures: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

/// What was counted at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests begun.
    pub requests: u64,
    /// Of those, the ones that ended with an error or an unknown outcome. An object that is not there is no failure.
    pub failures: u64,
    /// Bytes of bodies sent.
    pub sent: u64,
    /// Bytes of bodies received.
    pub received: u64,
}

impl Counts {
    /// The totals of one kind of request.
    #[must_use]
    pub fn of(&self, operation: Operation) -> Totals {
        let c = &self.by_operation[operation as usize];
        Totals {
            requests: c.requests.load(Ordering::Relaxed),
            failures: c.failures.load(Ordering::Relaxed),
            sent: c.sent.load(Ordering::Relaxed),
            received: c.received.load(Ordering::Relaxed),
        }
    }

    /// The totals of all requests.
    #[must_use]
    pub fn all(&self) -> Totals {
        Operation::ALL.into_iter().map(|o| self.of(o)).fold(Totals::default(), |a, b| Totals {
            requests: a.requests + b.requests,
            failures: a.failures + b.failures,
            sent: a.sent + b.sent,
            received: a.received + b.received,
        })
    }
}

impl Meter {
    /// Counts what goes to `inner` in `counts`.
    #[must_use]
    pub fn new(inner: SharedStore, counts: Arc<Counts>) -> Self {
        Self { inner, counts }
    }

    async fn count<T>(
        &self,
        operation: Operation,
        sent: usize,
        request: impl Future<Output = Result<T, BlobError>>,
        received: impl FnOnce(&T) -> usize,
    ) -> Result<T, BlobError> {
        let counters = &self.counts.by_operation[operation as usize];
        counters.requests.fetch_add(1, Ordering::Relaxed);
        counters.sent.fetch_add(sent as u64, Ordering::Relaxed);
        let result = request.await;
        match &result {
            Ok(answer) => {
                counters.received.fetch_add(received(answer) as u64, Ordering::Relaxed);
            }
            Err(BlobError::NotFound { .. }) => {}
            Err(_) => self.failed(operation),
        }
        result
    }

    fn failed(&self, operation: Operation) {
        self.counts.by_operation[operation as usize].failures.fetch_add(1, Ordering::Relaxed);
    }
}

fn nothing<T>(_: &T) -> usize {
    0
}

#[async_trait]
impl BlobStore for Meter {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Creation, BlobError> {
        let sent = body.len();
        let request = self.inner.create(key, body);
        let outcome = self.count(Operation::Create, sent, request, nothing).await?;
        if matches!(outcome, Creation::Unknown(_)) {
            self.failed(Operation::Create);
        }
        Ok(outcome)
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), BlobError> {
        let sent = body.len();
        self.count(Operation::Put, sent, self.inner.put(key, body), nothing).await
    }

    async fn get(&self, key: &Key, limit: u64) -> Result<Bytes, BlobError> {
        self.count(Operation::Get, 0, self.inner.get(key, limit), Bytes::len).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, BlobError> {
        self.count(Operation::GetRange, 0, self.inner.get_range(key, range), Bytes::len).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Listed>, BlobError> {
        self.count(Operation::List, 0, self.inner.list(prefix, after, limit), nothing).await
    }

    async fn head(&self, key: &Key) -> Result<Option<Listed>, BlobError> {
        self.count(Operation::Head, 0, self.inner.head(key), nothing).await
    }

    async fn delete(&self, key: &Key) -> Result<(), BlobError> {
        self.count(Operation::Delete, 0, self.inner.delete(key), nothing).await
    }
}
