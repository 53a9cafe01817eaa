//! Checkpoints of the agent's stores as sources of frames.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use godwit_image::{PackName, PackTable};
use godwit_store::{CheckpointReader, Pin, Store, StoreError};
use godwit_types::{CheckpointId, Code, OpId, Owner, Tenant};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::{FrameError, OpenSource, OpenedSource};
use crate::node::Node;
use crate::stores::NoStore;

/// What the agent puts into a pager's plan, so that any later agent finds the checkpoint again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceWords {
    /// Name of the store in the agent's configuration.
    pub store: String,
    /// The tenant.
    pub tenant: Tenant,
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// The restore that reads it: the pin's name.
    pub op: OpId,
    /// For whom.
    pub owner: Owner,
}

/// What a restore has open of its checkpoint: its pager asks for the same, and nothing of it needs to be read again.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) reader: CheckpointReader,
    pub(crate) packs: Arc<PackTable>,
    /// The restore's own.
    pub(crate) pin: Pin,
}

/// What waits for pagers, by restore. Each is taken once; a pager that comes again opens its checkpoint by itself.
#[derive(Debug, Default)]
pub struct HandedOver(Mutex<BTreeMap<OpId, Handed>>);

impl HandedOver {
    pub(crate) fn put(&self, op: OpId, handed: Handed) {
        self.lock().insert(op, handed);
    }

    /// The restore is over.
    pub(crate) fn forget(&self, op: OpId) {
        self.lock().remove(&op);
    }

    fn take(&self, words: &SourceWords) -> Option<Handed> {
        self.lock().remove(&words.op).filter(|h| h.reader.manifest().id == words.checkpoint)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<OpId, Handed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens checkpoints of a node's stores.
#[derive(Debug)]
pub struct StoreSources(pub Arc<Node>);

#[async_trait]
impl OpenSource for StoreSources {
    async fn open(&self, words: &[u8]) -> Result<Arc<dyn OpenedSource>, FrameError> {
        let words: SourceWords = serde_json::from_slice(words).map_err(|e| FrameError {
            code: Code::Corrupt,
            reason: format!("a pager's source: {e}"),
        })?;
        let store = self.0.store(Some(&words.store)).map(|(_, store)| store.clone());
        // It may be opened, or configured again, before the deadline of the container.
        let away = |e: NoStore| FrameError { code: Code::Unavailable, reason: e.to_string() };
        let store = store.map_err(away)?;
        Ok(Arc::new(opened(&store, &words, &self.0.handed).await?))
    }
}

pub(crate) async fn opened(
    store: &Store,
    words: &SourceWords,
    handed: &HandedOver,
) -> Result<Opened, FrameError> {
    let Handed { reader, packs, pin } = match handed.take(words) {
        Some(handed) => handed,
        None => tried(store, || found(store, words)).await?,
    };
    let (store, keeper, away) = (store.clone(), keep(pin), AtomicBool::new(false));
    Ok(Opened { store, reader, packs, keeper, away })
}

/// The checkpoint of a pager whose restore was another agent's.
async fn found(store: &Store, words: &SourceWords) -> Result<Handed, StoreError> {
    let tenant = store.tenant(&words.tenant);
    let (pin, reader) = tenant.repin(words.checkpoint, words.op, &words.owner).await?;
    let packs = Arc::new(reader.head().await?.packs);
    Ok(Handed { reader, packs, pin })
}

pub(crate) struct Opened {
    store: Store,
    reader: CheckpointReader,
    packs: Arc<PackTable>,
    /// Renews the pin; releases it when told to end.
    keeper: JoinHandle<()>,
    /// The last read failed; told once.
    away: AtomicBool,
}

impl Opened {
    /// Tells when memory cannot be read any more, and when it can again.
    fn note(&self, error: Option<&FrameError>) {
        let was_away = self.away.swap(error.is_some(), Ordering::Relaxed);
        let checkpoint = self.reader.manifest().id;
        match error {
            Some(error) if !was_away && error.code == Code::Unavailable => {
                tracing::warn!(%checkpoint, why = error.reason, "memory cannot be read; it is tried again until the deadline of its container");
            }
            None if was_away => tracing::info!(%checkpoint, "memory can be read again"),
            _ => {}
        }
    }
}

#[async_trait]
impl OpenedSource for Opened {
    fn store(&self) -> &str {
        self.store.name()
    }

    fn packs(&self) -> &PackTable {
        &self.packs
    }

    async fn read(&self, pack: &PackName, range: Range<u64>) -> Result<Bytes, FrameError> {
        // Each frame is compared with its digest when it is decoded.
        let read = || self.reader.pack_bytes(pack, range.clone());
        let bytes = tried(&self.store, read).await;
        self.note(bytes.as_ref().err());
        Ok(bytes?.into_unchecked())
    }
}

impl Drop for Opened {
    /// The pin stays until it is old or the restore's end releases it: another agent may serve the same pager next.
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

fn keep(mut pin: Pin) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(pin.renew_after()).await;
            if let Err(error) = pin.renew().await {
                tracing::warn!(error = %error, checkpoint = %pin.checkpoint(), "a pin was not renewed");
            }
        }
    })
}

/// Reads, and says of a failure what a pager is told. Time mends everything but damage, and the loss of the checkpoint in a store that
/// is there: credentials are renewed, directories are mounted again.
async fn tried<T, F>(store: &Store, read: impl Fn() -> F) -> Result<T, FrameError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    // Only what is missing after the store was seen there is missing in it: it may have come back just now.
    let mut seen = false;
    loop {
        let error = match read().await {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        let reason = error.to_string();
        return Err(match error.code() {
            code @ (Code::Corrupt | Code::Internal) => FrameError { code, reason },
            Code::NotFound if !store.is_there().await.unwrap_or(false) => {
                let reason = format!("the store {} is not there: {reason}", store.name());
                FrameError { code: Code::Unavailable, reason }
            }
            Code::NotFound if !seen => {
                seen = true;
                continue;
            }
            Code::NotFound => FrameError { code: Code::NotFound, reason },
            _ => FrameError { code: Code::Unavailable, reason },
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use godwit_store::{Absence, BlobError, Key, StoreConfig};

    use super::*;

    async fn told<E: Into<StoreError>>(store: &Store, error: impl Fn() -> E) -> Code {
        let failed = tried(store, || std::future::ready(Err::<(), _>(error().into()))).await;
        failed.unwrap_err().code
    }

    fn in_directory(path: &std::path::Path) -> StoreConfig {
        StoreConfig::from_url(&format!("file://{}", path.display())).unwrap()
    }

    fn missing() -> StoreError {
        StoreError::Absent { id: CheckpointId::mint(), absence: Absence::NoManifest }
    }

    #[tokio::test]
    async fn a_missing_checkpoint_is_final_only_in_a_store_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (here, away) = (dir.path().join("store"), dir.path().join("away"));
        let store = Store::open(&in_directory(&here)).await.unwrap();
        assert_eq!(told(&store, missing).await, Code::NotFound);
        std::fs::rename(&here, &away).unwrap();
        assert_eq!(told(&store, missing).await, Code::Unavailable);
        std::fs::rename(&away, &here).unwrap();
        assert_eq!(told(&store, missing).await, Code::NotFound);
    }

    #[tokio::test]
    async fn a_store_that_comes_back_after_a_failed_read_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&in_directory(&dir.path().join("store"))).await.unwrap();
        let reads = std::cell::Cell::new(0);
        let read = || {
            reads.set(reads.get() + 1);
            std::future::ready(if reads.get() > 1 { Ok(7) } else { Err(missing()) })
        };
        assert_eq!(tried(&store, read).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn damage_is_final_and_a_store_that_refuses_or_is_late_is_asked_again() {
        let store = Store::open(&StoreConfig::from_url("memory://x").unwrap()).await.unwrap();
        let named = || (store.name().to_owned(), "read k".to_owned());
        let denied = || {
            let (store, action) = named();
            BlobError::Denied { store, action, source: "no".into() }
        };
        let late = || {
            let (store, action) = named();
            BlobError::Deadline { store, action, limit: Duration::ZERO }
        };
        assert_eq!(told(&store, denied).await, Code::Unavailable);
        assert_eq!(told(&store, late).await, Code::Unavailable);
        let damaged = || StoreError::Digest { key: Key::new("k").unwrap() };
        assert_eq!(told(&store, damaged).await, Code::Corrupt);
    }
}
