//! Objects in memory: the model that every other backend is compared with.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;

use super::{BlobStore, Creation, Key, Listed};
use crate::clock::{Clock, SystemClock};
use crate::error::BlobError;

/// A store that is gone with its process. Every operation is one step under one lock: it cannot lie.
#[derive(Debug)]
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    objects: Mutex<BTreeMap<Key, Object>>,
}

#[derive(Debug, Clone)]
struct Object {
    body: Bytes,
    modified: SystemTime,
}

const NAME: &str = "memory://";

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// An empty store whose times come from `clock`.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { clock, objects: Mutex::default() }
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<Key, Object>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn object(&self, key: &Key) -> Result<Object, BlobError> {
        let found = self.objects().get(key).cloned();
        found.ok_or_else(|| BlobError::NotFound { store: NAME.to_owned(), key: key.clone() })
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Object {
    fn listed(&self, key: &Key) -> Listed {
        Listed { key: key.clone(), size: self.body.len() as u64, modified: self.modified }
    }
}

#[async_trait]
impl BlobStore for MemoryStore {
    fn name(&self) -> &str {
        NAME
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Creation, BlobError> {
        let modified = self.clock.now();
        let mut objects = self.objects();
        if objects.contains_key(key) {
            return Ok(Creation::Exists);
        }
        objects.insert(key.clone(), Object { body, modified });
        Ok(Creation::Created)
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), BlobError> {
        let modified = self.clock.now();
        self.objects().insert(key.clone(), Object { body, modified });
        Ok(())
    }

    async fn get(&self, key: &Key, limit: u64) -> Result<Bytes, BlobError> {
        let body = self.object(key)?.body;
        let size = body.len() as u64;
        if size > limit {
            return Err(BlobError::TooLarge {
                store: NAME.to_owned(),
                key: key.clone(),
                size,
                limit,
            });
        }
        Ok(body)
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, BlobError> {
        let body = self.object(key)?.body;
        let bounds = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        match bounds {
            Some((start, end)) if start <= end && end <= body.len() => Ok(body.slice(start..end)),
            _ => Err(BlobError::OutOfRange {
                store: NAME.to_owned(),
                key: key.clone(),
                end: range.end,
            }),
        }
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Listed>, BlobError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let objects = self.objects();
        Ok(objects
            .range::<Key, _>((from, Bound::Unbounded))
            .filter(|(key, _)| key.as_str().starts_with(prefix))
            .take(limit)
            .map(|(key, object)| object.listed(key))
            .collect())
    }

    async fn head(&self, key: &Key) -> Result<Option<Listed>, BlobError> {
        Ok(self.objects().get(key).map(|object| object.listed(key)))
    }

    async fn delete(&self, key: &Key) -> Result<(), BlobError> {
        self.objects().remove(key);
        Ok(())
    }
}
