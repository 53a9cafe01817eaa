//! A flat space of objects: the trait that every backend implements and every wrapper decorates.
//!
//! # Consistency
//! A backend must give: atomic [`BlobStore::create`] (of many at once exactly one wins), read-after-write for every
//! operation, whole objects or none, and [`BlobStore::list`] in the order of the keys' bytes. [`crate::probe`] tests
//! them at start; the conformance suite tests them at length.
//!
//! # Cancellation
//! Dropping a future stops waiting, not necessarily the work: a dropped write may or may not take effect, also later.
//! A dropped `create` is an outcome of [`Creation::Unknown`].

mod key;

pub mod file;
pub mod memory;
pub mod s3;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;

pub use key::{InvalidKey, Key};

use crate::error::BlobError;

/// What became of a create-only PUT. There is no fourth answer, and none is ever guessed from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Creation {
    /// The object did not exist and now has exactly these bytes.
    Created,
    /// Something is there. It may be our own earlier attempt: read it to know.
    Exists,
    /// The request was sent and its effect is not known. It may have happened, may not, and **may still happen**
    /// later: an absent object proves nothing. The text says what was seen, for people only.
    Unknown(String),
}

/// One object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: Key,
    /// Its length in bytes.
    pub size: u64,
    /// When it was last written, by the store's clock.
    pub modified: SystemTime,
}

/// Where objects are kept.
#[async_trait]
pub trait BlobStore: Send + Sync + Debug + 'static {
    /// What the store is called in messages: a URL without secrets.
    fn name(&self) -> &str;

    /// Writes an object that must not exist yet. Atomic: of many racing calls exactly one gets
    /// [`Creation::Created`], and a reader sees all bytes or no object.
    ///
    /// # Errors
    /// Only when it is certain that nothing was written and nothing can still land (refused credentials, a key that
    /// the backend cannot hold, a conflict answered as such until the tries ran out). Anything less certain is
    /// [`Creation::Unknown`]. Never retried by this layer or a wrapper, save where the store says that nothing landed.
    async fn create(&self, key: &Key, body: Bytes) -> Result<Creation, BlobError>;

    /// Writes an object, replacing what is there. Atomic. Callers use it only for keys that have one writer, or whose
    /// writers all write the same bytes.
    ///
    /// # Errors
    /// The object may or may not have been written.
    async fn put(&self, key: &Key, body: Bytes) -> Result<(), BlobError>;

    /// Reads a whole object of at most `limit` bytes.
    ///
    /// # Errors
    /// [`BlobError::NotFound`]; [`BlobError::TooLarge`] before anything of that size is allocated; an answer cut short
    /// is [`BlobError::Unavailable`], never a short result.
    async fn get(&self, key: &Key, limit: u64) -> Result<Bytes, BlobError>;

    /// Reads exactly the bytes `range` of an object.
    ///
    /// # Errors
    /// As [`BlobStore::get`]; [`BlobError::OutOfRange`] where the object ends before `range` does.
    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, BlobError>;

    /// Up to `limit` objects whose key begins with `prefix` and is greater than `after`, in the order of the keys'
    /// bytes. Fewer than `limit` means that there are no more.
    ///
    /// # Errors
    /// As a whole: never a partial page.
    async fn list(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Listed>, BlobError>;

    /// Length and time of one object, `None` if it does not exist.
    ///
    /// # Errors
    /// The store cannot tell.
    async fn head(&self, key: &Key) -> Result<Option<Listed>, BlobError>;

    /// Deletes an object; one that does not exist is no error.
    ///
    /// # Errors
    /// The object may or may not have been deleted.
    async fn delete(&self, key: &Key) -> Result<(), BlobError>;
}

/// Any store, shared.
pub type SharedStore = Arc<dyn BlobStore>;

/// Longest page asked for in one LIST (what S3 allows).
pub const LIST_PAGE: usize = 1000;

/// All objects under `prefix`, in order, page by page.
///
/// # Errors
/// The first failure; what was read until then is dropped.
pub async fn list_all(store: &dyn BlobStore, prefix: &str) -> Result<Vec<Listed>, BlobError> {
    let mut all: Vec<Listed> = Vec::new();
    loop {
        let page = store.list(prefix, all.last().map(|l| &l.key), LIST_PAGE).await?;
        let last = page.len() < LIST_PAGE;
        all.extend(page);
        if last {
            return Ok(all);
        }
    }
}

/// The object, or `None` if it does not exist.
///
/// # Errors
/// Those of [`BlobStore::get`] except `NotFound`.
pub async fn get_optional(
    store: &dyn BlobStore,
    key: &Key,
    limit: u64,
) -> Result<Option<Bytes>, BlobError> {
    match store.get(key, limit).await {
        Ok(body) => Ok(Some(body)),
        Err(BlobError::NotFound { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}
