//! Checkpoints of the agent's stores as sources of frames.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use godwit_image::{PackName, PackTable};
use godwit_store::StoreError;
use godwit_store::{CheckpointReader, Pin};
use godwit_types::{CheckpointId, Code, OpId, Owner, Tenant};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::{FrameError, OpenSource, OpenedSource};
use crate::node::Node;

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
        let store =
            store.map_err(|e| FrameError { code: Code::NotFound, reason: e.to_string() })?;
        let tenant = store.tenant(&words.tenant);
        let (pin, reader) =
            tenant.repin(words.checkpoint, words.op, &words.owner).await.map_err(frame_error)?;
        let packs = reader.head().await.map_err(frame_error)?.packs;
        Ok(Arc::new(Opened { reader, packs, keeper: keep(pin) }))
    }
}

struct Opened {
    reader: CheckpointReader,
    packs: PackTable,
    /// Renews the pin; releases it when told to end.
    keeper: JoinHandle<()>,
}

#[async_trait]
impl OpenedSource for Opened {
    fn packs(&self) -> &PackTable {
        &self.packs
    }

    async fn read(&self, pack: &PackName, range: Range<u64>) -> Result<Bytes, FrameError> {
        // Each frame is compared with its digest when it is decoded.
        let bytes = self.reader.pack_bytes(pack, range).await.map_err(frame_error)?;
        Ok(bytes.into_unchecked())
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

fn frame_error(error: StoreError) -> FrameError {
    FrameError { code: error.code(), reason: error.to_string() }
}
