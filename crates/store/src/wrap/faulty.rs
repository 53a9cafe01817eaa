//! A network and a server that fail on command, in the ways that real ones do. For tests; deterministic.

mod rule;

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::Operation;
use crate::blob::{BlobStore, Creation, Key, Listed, SharedStore};
use crate::error::BlobError;

pub use rule::{Fault, Rule};

/// A store behind a network that obeys [`Rule`]s. Requests that no rule meets pass.
#[derive(Debug)]
pub struct Faulty {
    inner: SharedStore,
    rules: Mutex<Vec<Rule>>,
    late: Mutex<Vec<Write>>,
}

/// A write that is still in flight.
#[derive(Debug)]
enum Write {
    Create(Key, Bytes),
    Put(Key, Bytes),
    Delete(Key),
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Faulty {
    /// Passes everything to `inner` until a rule is added.
    #[must_use]
    pub fn new(inner: SharedStore) -> Self {
        Self { inner, rules: Mutex::default(), late: Mutex::default() }
    }

    /// Adds a rule; the first that meets a request decides.
    pub fn add(&self, rule: Rule) {
        locked(&self.rules).push(rule);
    }

    /// Removes all rules.
    pub fn heal(&self) {
        locked(&self.rules).clear();
    }

    /// How many writes are in flight (see [`Fault::Late`]).
    #[must_use]
    pub fn in_flight(&self) -> usize {
        locked(&self.late).len()
    }

    /// Lets all writes in flight land now, in the order in which they were sent.
    ///
    /// # Errors
    /// The first that the store below refuses.
    pub async fn land(&self) -> Result<(), BlobError> {
        let late = std::mem::take(&mut *locked(&self.late));
        for write in late {
            match write {
                Write::Create(key, body) => drop(self.inner.create(&key, body).await?),
                Write::Put(key, body) => self.inner.put(&key, body).await?,
                Write::Delete(key) => self.inner.delete(&key).await?,
            }
        }
        Ok(())
    }

    fn fault(&self, operation: Operation, key: &str) -> Option<Fault> {
        locked(&self.rules).iter_mut().find_map(|rule| rule.meets(operation, key))
    }

    fn error(&self, action: &str, key: &str, what: &'static str) -> BlobError {
        BlobError::Unavailable {
            store: self.name().to_owned(),
            action: format!("{action} {key}"),
            source: what.into(),
        }
    }

    fn refusal(&self, action: &str, key: &str) -> BlobError {
        BlobError::Denied {
            store: self.name().to_owned(),
            action: format!("{action} {key}"),
            source: "injected refusal".into(),
        }
    }

    /// Reads have the simple faults only: `Ok` says what to do with the answer.
    async fn before_read(&self, operation: Operation, key: &str) -> Result<Spoil, BlobError> {
        match self.fault(operation, key) {
            None => Ok(Spoil::Nothing),
            Some(Fault::Delay(by)) => {
                tokio::time::sleep(by).await;
                Ok(Spoil::Nothing)
            }
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Refuse) => Err(self.refusal(operation.name(), key)),
            Some(Fault::Torn(length)) => Ok(Spoil::Cut(length)),
            Some(Fault::Flip) => Ok(Spoil::Flip),
            Some(Fault::Slow(rate)) => Ok(Spoil::Slow(rate)),
            Some(Fault::Fail | Fault::ReplyLost | Fault::Late) => {
                Err(self.error(operation.name(), key, "injected failure"))
            }
        }
    }

    /// The body as a write will have it and what becomes of the write.
    async fn before_write(
        &self,
        operation: Operation,
        key: &str,
        body: Bytes,
    ) -> Result<(Bytes, Sending), BlobError> {
        let sending = match self.fault(operation, key) {
            None => Sending::Normal,
            Some(Fault::Delay(by)) => {
                tokio::time::sleep(by).await;
                Sending::Normal
            }
            Some(Fault::Slow(rate)) => {
                tokio::time::sleep(duration_at(rate, body.len())).await;
                Sending::Normal
            }
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Refuse) => return Err(self.refusal(operation.name(), key)),
            Some(Fault::Torn(length)) => {
                return Ok((body.slice(..length.min(body.len())), Sending::Normal));
            }
            Some(Fault::Flip) => return Ok((flipped(body), Sending::Normal)),
            Some(Fault::Fail) => Sending::Lost,
            Some(Fault::ReplyLost) => Sending::ReplyLost,
            Some(Fault::Late) => Sending::Late,
        };
        Ok((body, sending))
    }
}

/// What becomes of a write.
#[derive(Clone, Copy)]
enum Sending {
    Normal,
    Lost,
    ReplyLost,
    Late,
}

/// What becomes of an answer.
enum Spoil {
    Nothing,
    Cut(usize),
    Flip,
    Slow(u64),
}

impl Spoil {
    async fn apply(self, body: Bytes) -> Bytes {
        match self {
            Self::Nothing => body,
            Self::Cut(length) => body.slice(..length.min(body.len())),
            Self::Flip => flipped(body),
            Self::Slow(rate) => {
                tokio::time::sleep(duration_at(rate, body.len())).await;
                body
            }
        }
    }
}

fn duration_at(bytes_per_second: u64, length: usize) -> Duration {
    Duration::from_secs_f64(length as f64 / bytes_per_second.max(1) as f64)
}

fn flipped(body: Bytes) -> Bytes {
    let mut bytes = body.to_vec();
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    bytes.into()
}

#[async_trait]
impl BlobStore for Faulty {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Creation, BlobError> {
        let (body, sending) = self.before_write(Operation::Create, key.as_str(), body).await?;
        match sending {
            Sending::Normal => return self.inner.create(key, body).await,
            Sending::Lost => {}
            Sending::ReplyLost => drop(self.inner.create(key, body).await?),
            Sending::Late => locked(&self.late).push(Write::Create(key.clone(), body)),
        }
        Ok(Creation::Unknown("injected failure".to_owned()))
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), BlobError> {
        let (body, sending) = self.before_write(Operation::Put, key.as_str(), body).await?;
        match sending {
            Sending::Normal => return self.inner.put(key, body).await,
            Sending::Lost => {}
            Sending::ReplyLost => self.inner.put(key, body).await?,
            Sending::Late => locked(&self.late).push(Write::Put(key.clone(), body)),
        }
        Err(self.error("write", key.as_str(), "injected failure"))
    }

    async fn get(&self, key: &Key, limit: u64) -> Result<Bytes, BlobError> {
        let spoil = self.before_read(Operation::Get, key.as_str()).await?;
        Ok(spoil.apply(self.inner.get(key, limit).await?).await)
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, BlobError> {
        let spoil = self.before_read(Operation::GetRange, key.as_str()).await?;
        Ok(spoil.apply(self.inner.get_range(key, range).await?).await)
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Listed>, BlobError> {
        self.before_read(Operation::List, prefix).await?;
        self.inner.list(prefix, after, limit).await
    }

    async fn head(&self, key: &Key) -> Result<Option<Listed>, BlobError> {
        self.before_read(Operation::Head, key.as_str()).await?;
        self.inner.head(key).await
    }

    async fn delete(&self, key: &Key) -> Result<(), BlobError> {
        let empty = Bytes::new();
        let (_, sending) = self.before_write(Operation::Delete, key.as_str(), empty).await?;
        match sending {
            Sending::Normal => return self.inner.delete(key).await,
            Sending::Lost => {}
            Sending::ReplyLost => self.inner.delete(key).await?,
            Sending::Late => locked(&self.late).push(Write::Delete(key.clone())),
        }
        Err(self.error("delete", key.as_str(), "injected failure"))
    }
}
