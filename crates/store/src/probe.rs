//! The start probe: a backend that lies is refused by name, before anything depends on it.
//!
//! What the design needs is tried once: racing creates, read-after-write, order of LIST, ranged GET, DELETE. It takes about
//! twenty small requests. It proves nothing for ever: a backend that lies seldom passes. The conformance suite looks longer.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::future::join_all;
use jiff::SignedDuration;
use tokio::time::{error::Elapsed, timeout};
use ulid::Ulid;

use crate::blob::{BlobStore, Creation, Key};
use crate::clock::Clock;
use crate::error::{BlobError, StoreError};
use crate::layout::PROBE;

/// How exactly a store tells its time.
const TICK: Duration = Duration::from_secs(1);
/// Of the object whose way is timed: as large as a pack's part.
const SPEED_BYTES: u64 = 4 << 20;
/// Writers that race for one key.
const RACERS: u8 = 4;

/// Tries the backend; removes what it wrote.
///
/// # Errors
/// [`StoreError::Unsound`] with the reason; or the backend does not answer.
pub(crate) async fn run(store: &dyn BlobStore) -> Result<(), StoreError> {
    let probe = Probe { store, prefix: format!("{PROBE}/{}/", Ulid::generate()) };
    let result = probe.run().await.map_err(|e| probe.judged(e));
    let cleaned = probe.clean().await;
    result.and(cleaned)
}

/// By how much the store's clock is ahead of ours, which is asked around one write.
///
/// # Errors
/// The backend does not answer.
pub(crate) async fn ahead(
    store: &dyn BlobStore,
    clock: &dyn Clock,
) -> Result<SignedDuration, StoreError> {
    let key = Key::new(format!("{PROBE}/{}/time", Ulid::generate()))?;
    let before = clock.now();
    store.put(&key, Bytes::new()).await?;
    let after = clock.now();
    let listed = store.list(key.as_str(), None, 1).await;
    store.delete(&key).await?;
    let told = listed?.pop().map(|object| object.modified);
    Ok(told.map_or(SignedDuration::ZERO, |told| outside(told, before, after)))
}

/// How fast the backend takes and gives an object. `None`: it does not, or not in time.
pub(crate) async fn speed(store: &dyn BlobStore, each: Duration) -> Option<Speed> {
    let key = Key::new(format!("{PROBE}/{}/speed", Ulid::generate())).ok()?;
    // No byte like the one before: some backends keep what is all the same as nothing.
    let body: Bytes = (0..SPEED_BYTES).map(|at| (at % 251) as u8).collect();
    let written = per_second(timeout(each, store.put(&key, body))).await;
    let read = match written {
        Some(_) => per_second(timeout(each, store.get(&key, SPEED_BYTES))).await,
        None => None,
    };
    // What was given up may have been written.
    let removed = timeout(each, store.delete(&key)).await;
    if !matches!(removed, Ok(Ok(_))) {
        tracing::info!(%key, "an object of a probe could not be removed");
    }
    Some(Speed { written: written?, read: read? })
}

async fn per_second<T>(
    way: impl Future<Output = Result<Result<T, BlobError>, Elapsed>>,
) -> Option<u64> {
    let begun = Instant::now();
    way.await.ok()?.ok()?;
    Some((SPEED_BYTES as f64 / begun.elapsed().as_secs_f64().max(1e-9)) as u64)
}

/// Bytes each second, of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speed {
    /// Into the store.
    pub written: u64,
    /// Out of it.
    pub read: u64,
}

/// By how much a time is outside of a span. Stores tell whole seconds, of which some are begun and others rounded.
fn outside(told: SystemTime, from: SystemTime, to: SystemTime) -> SignedDuration {
    let by = |later: SystemTime, earlier: SystemTime| {
        let by = later.duration_since(earlier).unwrap_or_default().saturating_sub(TICK);
        SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX)
    };
    by(told, to) - by(from, told)
}

struct Probe<'a> {
    store: &'a dyn BlobStore,
    prefix: String,
}

impl Probe<'_> {
    async fn run(&self) -> Result<(), StoreError> {
        self.racing_creates().await?;
        self.order_of_list().await?;
        self.ranged_get().await?;
        self.delete().await
    }

    /// Everything that is read was written just before: not to find it is a lie too.
    fn judged(&self, e: StoreError) -> StoreError {
        match e {
            StoreError::Blob(
                BlobError::NotFound { key, .. } | BlobError::OutOfRange { key, .. },
            ) => self.unsound(format!("{key} was written and cannot be read")),
            other => other,
        }
    }

    fn key(&self, name: &str) -> Result<Key, StoreError> {
        Ok(Key::new(format!("{}{name}", self.prefix))?)
    }

    fn unsound(&self, reason: impl Into<String>) -> StoreError {
        StoreError::Unsound { store: self.store.name().to_owned(), reason: reason.into() }
    }

    fn expect(&self, holds: bool, reason: &str) -> Result<(), StoreError> {
        if holds { Ok(()) } else { Err(self.unsound(reason)) }
    }

    async fn racing_creates(&self) -> Result<(), StoreError> {
        let key = self.key("race")?;
        let bodies: Vec<Bytes> = (0..RACERS).map(|n| vec![n; 1000].into()).collect();
        let races = bodies.iter().map(|body| self.store.create(&key, body.clone()));
        let mut winners = Vec::new();
        for (body, outcome) in bodies.iter().zip(join_all(races).await) {
            match outcome? {
                Creation::Created => winners.push(body),
                Creation::Exists => {}
                Creation::Unknown(why) => return Err(self.silent(&key, why)),
            }
        }
        let [winner] = winners[..] else {
            return Err(self.unsound(format!(
                "of {RACERS} create-only writes of one object at the same time, {} were told that they had created it; \
                 it must support PUT with If-None-Match: *",
                winners.len()
            )));
        };
        let read = self.store.get(&key, 1 << 20).await?;
        self.expect(read == winner, "an object holds other bytes than those of its only writer")?;
        let again = self.store.create(&key, Bytes::from_static(b"again")).await?;
        self.expect(again == Creation::Exists, "an object that exists was created again")
    }

    fn silent(&self, key: &Key, why: String) -> StoreError {
        let (store, action) = (self.store.name().to_owned(), format!("create {key}"));
        BlobError::Unavailable { store, action, source: why.into() }.into()
    }

    async fn order_of_list(&self) -> Result<(), StoreError> {
        // Bytes decide: `-` < `/` < `0`.
        let names = ["list/b", "list/a0", "list/a/x", "list/a-x"];
        for name in names {
            self.store.put(&self.key(name)?, Bytes::new()).await?;
        }
        let prefix = format!("{}list/", self.prefix);
        let expected = ["list/a-x", "list/a/x", "list/a0", "list/b"];
        self.listed(&prefix, None, 10, &expected).await?;
        self.listed(&prefix, None, 1, &expected[..1]).await?;
        self.listed(&prefix, Some("list/a-x"), 2, &expected[1..3]).await
    }

    async fn listed(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        expected: &[&str],
    ) -> Result<(), StoreError> {
        let after = after.map(|name| self.key(name)).transpose()?;
        let found = self.store.list(prefix, after.as_ref(), limit).await?;
        let found: Vec<&str> =
            found.iter().filter_map(|l| l.key.as_str().strip_prefix(&self.prefix)).collect();
        let reason = "a LIST does not give what was written, in the order of the keys' bytes";
        self.expect(found == expected, reason)
    }

    async fn ranged_get(&self) -> Result<(), StoreError> {
        let (key, body) = (self.key("range")?, (0..=255).collect::<Vec<u8>>());
        self.store.put(&key, body.clone().into()).await?;
        let part = self.store.get_range(&key, 100..110).await?;
        self.expect(part == body[100..110], "a ranged GET gives other bytes than those asked for")
    }

    async fn delete(&self) -> Result<(), StoreError> {
        let key = self.key("range")?;
        self.store.delete(&key).await?;
        let reason = "an object is still there after its DELETE";
        self.expect(self.store.head(&key).await?.is_none(), reason)
    }

    async fn clean(&self) -> Result<(), StoreError> {
        for object in crate::blob::list_all(self.store, &self.prefix).await? {
            self.store.delete(&object.key).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
