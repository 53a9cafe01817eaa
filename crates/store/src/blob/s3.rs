//! Objects of an S3 bucket, or of a server that speaks the same protocol.
//!
//! Create-only is `PUT` with `If-None-Match: *`. Objects are written by one `PUT` each: no multipart uploads to leak.
//! The SDK's own retries are off: [`crate::wrap::Retry`] repeats what may be repeated, and nothing repeats a create
//! but an answer of 409, which says that nothing landed.

mod answer;
mod client;
mod lifecycle;

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_types::DateTime;
use bytes::{Bytes, BytesMut};

use super::{BlobStore, Creation, Key, LIST_PAGE, Listed};
use crate::config::StoreConfig;
use crate::error::{BlobError, StoreError};
use answer::{Meaning, meaning};

/// How often a create is sent again after 409, and the pause before the first time (doubled each time).
const CONFLICT_TRIES: u32 = 6;
const CONFLICT_PAUSE: Duration = Duration::from_millis(50);

/// A prefix of a bucket.
#[derive(Debug, Clone)]
pub struct S3Store {
    client: Client,
    config: StoreConfig,
    bucket: String,
    /// Empty, or ends with `/`.
    prefix: String,
    name: String,
}

impl S3Store {
    /// A client for the bucket and prefix that `config` names. Sends nothing yet.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub async fn open(config: &StoreConfig) -> Result<Self, StoreError> {
        let (bucket, prefix) = config.bucket_and_prefix()?;
        let client = client::build(config).await?;
        let (name, config) = (config.url.to_string(), config.clone());
        Ok(Self { client, config, bucket, prefix, name })
    }

    fn full(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    fn missing(&self, key: &Key) -> BlobError {
        BlobError::NotFound { store: self.name.clone(), key: key.clone() }
    }

    fn unavailable(&self, action: String, why: impl Into<crate::error::Cause>) -> BlobError {
        BlobError::Unavailable { store: self.name.clone(), action, source: why.into() }
    }

    /// The error for an answer that has no meaning of its own for the operation.
    fn failed(&self, action: String, meaning: Meaning) -> BlobError {
        let store = self.name.clone();
        match meaning {
            Meaning::Refused(source) => BlobError::Denied { store, action, source },
            Meaning::NotFound(source)
            | Meaning::Exists(source)
            | Meaning::Conflict(source)
            | Meaning::OutOfRange(source)
            | Meaning::Unsure(source) => BlobError::Unavailable { store, action, source },
        }
    }

    async fn create_once(&self, key: &Key, body: Bytes) -> Result<(), Meaning> {
        let put = self.client.put_object().bucket(&self.bucket).key(self.full(key));
        let sent = put.if_none_match("*").body(body.into()).send().await;
        sent.map(drop).map_err(meaning)
    }

    /// Reads a body that must have exactly `length` bytes.
    async fn collect(
        &self,
        key: &Key,
        mut body: ByteStream,
        length: u64,
    ) -> Result<Bytes, BlobError> {
        let action = || format!("read {key}");
        let wanted = usize::try_from(length).map_err(|e| self.unavailable(action(), e))?;
        let mut all = BytesMut::with_capacity(wanted);
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|e| self.unavailable(action(), e))?;
            if all.len() + chunk.len() > wanted {
                return Err(self.unavailable(action(), "the answer is longer than it says"));
            }
            all.extend_from_slice(&chunk);
        }
        if all.len() < wanted {
            return Err(self.unavailable(action(), "the answer was cut short"));
        }
        Ok(all.freeze())
    }

    /// The next objects after the name `after`, whatever that names, and where to go on if there are more.
    async fn list_page(
        &self,
        prefix: &str,
        after: Option<String>,
        limit: usize,
    ) -> Result<(Vec<Listed>, Option<String>), BlobError> {
        let action = || format!("list {prefix}");
        let page = i32::try_from(limit.min(LIST_PAGE)).unwrap_or(i32::MAX);
        let request = self.client.list_objects_v2().bucket(&self.bucket);
        let request = request.prefix(format!("{}{prefix}", self.prefix)).max_keys(page);
        let sent = request.set_start_after(after.clone()).send().await;
        let answer = sent.map_err(|e| self.failed(action(), meaning(e)))?;
        let mut found = Vec::new();
        for object in answer.contents() {
            let Some(name) = object.key().and_then(|k| k.strip_prefix(&self.prefix)) else {
                return Err(self.unavailable(action(), "the answer holds a key of another prefix"));
            };
            // What is not a key was not written by us: say, a folder as consoles make them, before everything in it.
            let Ok(key) = Key::new(name) else { continue };
            found.push(self.listed(key, object.size(), object.last_modified(), &action())?);
        }
        if !answer.is_truncated().unwrap_or(false) {
            return Ok((found, None));
        }
        let last = answer.contents().last().and_then(|object| object.key()).map(str::to_owned);
        if last.is_none() || last <= after {
            return Err(
                self.unavailable(action(), "the answer says that more follows, and does not go on")
            );
        }
        Ok((found, last))
    }

    fn listed(
        &self,
        key: Key,
        size: Option<i64>,
        modified: Option<&DateTime>,
        action: &str,
    ) -> Result<Listed, BlobError> {
        let size = size.and_then(|s| u64::try_from(s).ok());
        let modified = modified.and_then(|t| std::time::SystemTime::try_from(*t).ok());
        let (Some(size), Some(modified)) = (size, modified) else {
            return Err(self.unavailable(action.to_owned(), "the answer lacks size or time"));
        };
        Ok(Listed { key, size, modified })
    }
}

#[async_trait]
impl BlobStore for S3Store {
    fn name(&self) -> &str {
        &self.name
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Creation, BlobError> {
        let mut pause = CONFLICT_PAUSE;
        for attempt in 1.. {
            match self.create_once(key, body.clone()).await {
                Ok(()) => return Ok(Creation::Created),
                Err(Meaning::Exists(_)) => return Ok(Creation::Exists),
                Err(Meaning::Unsure(why)) => return Ok(Creation::Unknown(answer::chain(&*why))),
                Err(Meaning::Conflict(_)) if attempt < CONFLICT_TRIES => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(other) => return Err(self.failed(format!("create {key}"), other)),
            }
        }
        unreachable!("the loop ends by a return")
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), BlobError> {
        let patience = client::timeouts(self.config.write_timeout(body.len()));
        let patience = aws_sdk_s3::config::Builder::new().timeout_config(patience);
        let put = self.client.put_object().bucket(&self.bucket).key(self.full(key));
        let sent = put.body(body.into()).customize().config_override(patience).send().await;
        sent.map(drop).map_err(|e| self.failed(format!("write {key}"), meaning(e)))
    }

    async fn get(&self, key: &Key, limit: u64) -> Result<Bytes, BlobError> {
        let get = self.client.get_object().bucket(&self.bucket).key(self.full(key));
        let answer = match get.send().await.map_err(meaning) {
            Ok(answer) => answer,
            Err(Meaning::NotFound(_)) => return Err(self.missing(key)),
            Err(other) => return Err(self.failed(format!("read {key}"), other)),
        };
        let Some(size) = answer.content_length().and_then(|l| u64::try_from(l).ok()) else {
            return Err(self.unavailable(format!("read {key}"), "the answer lacks a length"));
        };
        if size > limit {
            let store = self.name.clone();
            return Err(BlobError::TooLarge { store, key: key.clone(), size, limit });
        }
        self.collect(key, answer.body, size).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, BlobError> {
        let out_of_range =
            || BlobError::OutOfRange { store: self.name.clone(), key: key.clone(), end: range.end };
        let wanted = range.end.checked_sub(range.start).ok_or_else(out_of_range)?;
        if wanted == 0 {
            // HTTP has no empty range.
            let head = self.head(key).await?.ok_or_else(|| self.missing(key))?;
            return if range.end <= head.size { Ok(Bytes::new()) } else { Err(out_of_range()) };
        }
        let get = self.client.get_object().bucket(&self.bucket).key(self.full(key));
        let sent = get.range(format!("bytes={}-{}", range.start, range.end - 1)).send().await;
        let answer = match sent.map_err(meaning) {
            Ok(answer) => answer,
            Err(Meaning::NotFound(_)) => return Err(self.missing(key)),
            Err(Meaning::OutOfRange(_)) => return Err(out_of_range()),
            Err(other) => return Err(self.failed(format!("read {key}"), other)),
        };
        match answer::range_of(answer.content_range()) {
            Some(given) if given == range => self.collect(key, answer.body, wanted).await,
            Some(given) if given.start == range.start && given.end < range.end => {
                Err(out_of_range())
            }
            other => {
                let why = format!("bytes {range:?} were asked for, {other:?} came");
                Err(self.unavailable(format!("read {key}"), why))
            }
        }
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Listed>, BlobError> {
        let mut all: Vec<Listed> = Vec::new();
        let mut from = after.map(|k| self.full(k));
        while all.len() < limit {
            let (page, next) = self.list_page(prefix, from, limit - all.len()).await?;
            all.extend(page);
            if next.is_none() {
                break;
            }
            from = next;
        }
        Ok(all)
    }

    async fn head(&self, key: &Key) -> Result<Option<Listed>, BlobError> {
        let action = format!("look at {key}");
        let head = self.client.head_object().bucket(&self.bucket).key(self.full(key));
        match head.send().await.map_err(meaning) {
            Ok(answer) => {
                let (size, modified) = (answer.content_length(), answer.last_modified());
                self.listed(key.clone(), size, modified, &action).map(Some)
            }
            Err(Meaning::NotFound(_)) => Ok(None),
            Err(other) => Err(self.failed(action, other)),
        }
    }

    async fn delete(&self, key: &Key) -> Result<(), BlobError> {
        let delete = self.client.delete_object().bucket(&self.bucket).key(self.full(key));
        match delete.send().await.map_err(meaning) {
            Ok(_) | Err(Meaning::NotFound(_)) => Ok(()),
            Err(other) => Err(self.failed(format!("delete {key}"), other)),
        }
    }
}
