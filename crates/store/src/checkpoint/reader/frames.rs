//! Frames for code that runs in threads: digests of a parent, contents of files.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use godwit_image::{
    FrameDecoder, FrameRecord, FrameRef, FrameSource, PackName, PackTable, SinkError,
};
use godwit_types::Code;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::CheckpointReader;
use crate::error::StoreError;

/// Packs that one call reads at the same time.
const PACKS_AT_ONCE: usize = 4;

/// Raw frames of one checkpoint, verified and decompressed. For threads outside of the runtime (`spawn_blocking`): its
/// methods block on the store.
#[derive(Debug, Clone)]
pub struct StoreFrames {
    reader: CheckpointReader,
    table: Arc<PackTable>,
    runtime: Handle,
    stop: CancellationToken,
}

impl CheckpointReader {
    /// The frames that `table` (of this checkpoint's head) knows. Must be called within a tokio runtime.
    #[must_use]
    pub fn frame_source(&self, table: Arc<PackTable>) -> StoreFrames {
        let (runtime, stop) = (Handle::current(), CancellationToken::new());
        StoreFrames { reader: self.clone(), table, runtime, stop }
    }
}

/// The frames of one pack that were asked for, with their places in the answer.
#[derive(Default)]
struct Wanted {
    places: Vec<usize>,
    records: Vec<FrameRecord>,
}

impl StoreFrames {
    /// Once `stop` is cancelled nothing is read, and what is being read ends at once, with [`Code::Cancelled`].
    #[must_use]
    pub fn stopped_by(self, stop: CancellationToken) -> Self {
        Self { stop, ..self }
    }

    fn by_pack(&self, frames: &[FrameRef]) -> Result<BTreeMap<PackName, Wanted>, SinkError> {
        let mut packs: BTreeMap<PackName, Wanted> = BTreeMap::new();
        for (place, frame) in frames.iter().enumerate() {
            let located = self
                .table
                .locate(*frame)
                .map_err(|e| SinkError::with_source(e.code(), "find a frame", e))?;
            let wanted = packs.entry(located.pack.name).or_default();
            wanted.places.push(place);
            wanted.records.push(*located.frame);
        }
        Ok(packs)
    }

    /// The stored bytes of all that is wanted, in its order.
    fn stored(&self, packs: &BTreeMap<PackName, Wanted>) -> Result<Vec<Vec<Bytes>>, SinkError> {
        let requests = packs.iter().map(|(pack, wanted)| self.reader.frames(pack, &wanted.records));
        let all = stream::iter(requests).buffered(PACKS_AT_ONCE).try_collect();
        match self.runtime.block_on(self.stop.run_until_cancelled(all)) {
            Some(all) => all.map_err(failed),
            None => Err(SinkError::new(Code::Cancelled, "read frames")),
        }
    }
}

fn failed(e: StoreError) -> SinkError {
    SinkError::with_source(e.code(), "read frames", e)
}

impl FrameSource for StoreFrames {
    fn frame(&self, frame: FrameRef) -> Result<Vec<u8>, SinkError> {
        let mut frames = self.frames(&[frame])?;
        frames.pop().ok_or_else(|| SinkError::new(Code::Internal, "read a frame"))
    }

    fn frames(&self, frames: &[FrameRef]) -> Result<Vec<Vec<u8>>, SinkError> {
        let undecodable =
            |e: godwit_image::ImageError| SinkError::with_source(e.code(), "decompress a frame", e);
        let mut decoder = FrameDecoder::new().map_err(undecodable)?;
        let mut raw = vec![Vec::new(); frames.len()];
        let packs = self.by_pack(frames)?;
        for (wanted, stored) in packs.values().zip(self.stored(&packs)?) {
            for ((place, record), stored) in wanted.places.iter().zip(&wanted.records).zip(stored) {
                raw[*place] = decoder.decode(record, &stored).map_err(undecodable)?;
            }
        }
        Ok(raw)
    }
}
