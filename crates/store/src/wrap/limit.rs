//! Bounds what is asked of the store at once, so that a checkpoint cannot starve the node's other traffic.
//!
//! What somebody waits for with a deadline, or frozen, does not queue behind packs: entries of logs pass at once, a single frame soon.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use godwit_image::limits::MAX_FRAME_BYTES;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

use crate::blob::{BlobStore, Creation, Key, Listed, SharedStore};
use crate::error::BlobError;
use crate::layout;

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

    async fn turn(&self, pass: Pass, bytes: u64) -> Result<SemaphorePermit<'_>, BlobError> {
        if let Some(bandwidth) = &self.bandwidth {
            sleep_until(bandwidth.reserve(pass, bytes, Instant::now())).await;
        }
        self.turns.acquire().await.map_err(|e| BlobError::Unavailable {
            store: self.inner.name().to_owned(),
            action: "wait for a turn".to_owned(),
            source: e.into(),
        })
    }
}

/// A transfer of at most so many bytes is small: a record, or a frame for which a thread waits, with its neighbour.
const SMALL: u64 = 2 * MAX_FRAME_BYTES as u64;

/// How a transfer gets past those that were there before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// Not at all.
    Last,
    /// On the half of the wire that is kept for such, if it is its turn there earlier.
    Small,
    /// At once: it has a deadline, and is too small and too seldom to matter.
    First,
}

impl Pass {
    fn of(key: &Key, bytes: u64) -> Self {
        match bytes {
            0 => Self::First,
            _ if layout::is_entry(key) => Self::First,
            1..=SMALL => Self::Small,
            _ => Self::Last,
        }
    }
}

/// The wire as a queue: each transfer is let in when those before it would have passed at the allowed rate. One that passes others is paid
/// for by those that come later, so that the rate is kept on average.
#[derive(Debug)]
struct Bandwidth {
    bytes_per_second: u64,
    free: Mutex<Free>,
}

/// When the next transfer may begin; never for the first time.
#[derive(Debug, Default)]
struct Free {
    /// After all that were let in.
    wire: Option<Instant>,
    /// After the small ones that have passed others, on their half: large ones get on, too.
    half: Option<Instant>,
}

impl Bandwidth {
    fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free: Mutex::default() }
    }

    fn reserve(&self, pass: Pass, bytes: u64, now: Instant) -> Instant {
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let in_turn = free.wire.map_or(now, |at| at.max(now));
        free.wire = Some(in_turn + takes);
        if pass == Pass::First {
            return now;
        }
        let ahead = free.half.map_or(now, |at| at.max(now));
        if pass == Pass::Last || in_turn <= ahead {
            return in_turn;
        }
        free.half = Some(ahead + 2 * takes);
        ahead
    }
}

#[async_trait]
impl BlobStore for Limit {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Creation, BlobError> {
        let bytes = body.len() as u64;
        let _turn = self.turn(Pass::of(key, bytes), bytes).await?;
        self.inner.create(key, body).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), BlobError> {
        let bytes = body.len() as u64;
        let _turn = self.turn(Pass::of(key, bytes), bytes).await?;
        self.inner.put(key, body).await
    }

    async fn get(&self, key: &Key, limit: u64) -> Result<Bytes, BlobError> {
        let _turn = self.turn(Pass::First, 0).await?;
        let body = self.inner.get(key, limit).await?;
        // Known only now: later requests pay.
        if let Some(bandwidth) = &self.bandwidth {
            bandwidth.reserve(Pass::First, body.len() as u64, Instant::now());
        }
        Ok(body)
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, BlobError> {
        let bytes = range.end.saturating_sub(range.start);
        let _turn = self.turn(Pass::of(key, bytes), bytes).await?;
        self.inner.get_range(key, range).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Listed>, BlobError> {
        let _turn = self.turn(Pass::First, 0).await?;
        self.inner.list(prefix, after, limit).await
    }

    async fn head(&self, key: &Key) -> Result<Option<Listed>, BlobError> {
        let _turn = self.turn(Pass::First, 0).await?;
        self.inner.head(key).await
    }

    async fn delete(&self, key: &Key) -> Result<(), BlobError> {
        let _turn = self.turn(Pass::First, 0).await?;
        self.inner.delete(key).await
    }
}
