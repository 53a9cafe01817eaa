//! Who writes which pack: slots and numbers for the several threads that write packs of one checkpoint at once.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use godwit_types::{CheckpointId, PackIndex};

use super::{PackBuilder, PackKind, PackName, PackRecord, PackSlot, PackTable};
use crate::frame::{FrameEncoder, FrameRef};
use crate::limits::MAX_PACK_BYTES;
use crate::{ImageError, PackSink, SinkError};

/// A pack that is ready for the store.
#[derive(Debug)]
pub struct FinishedPack {
    /// What it is called.
    pub name: PackName,
    /// BLAKE3 of its footer: the digest under which head and manifest name it.
    pub footer: crate::Digest,
    /// The object.
    pub bytes: Vec<u8>,
}

/// The packs of one checkpoint: hands out slots and numbers, collects the records of finished packs.
///
/// Begins with the parent's table, so that references of the parent's page maps, digest indexes and file index stay
/// valid as they are.
#[derive(Debug)]
pub struct PackRegistry {
    checkpoint: CheckpointId,
    first_own: PackSlot,
    next_slot: AtomicU32,
    next_data: AtomicU32,
    next_digests: AtomicU32,
    table: Mutex<PackTable>,
}

impl PackRegistry {
    /// The registry of a checkpoint with this parent (an empty table without one).
    #[must_use]
    pub fn new(checkpoint: CheckpointId, parent: PackTable) -> Arc<Self> {
        Arc::new(Self {
            checkpoint,
            first_own: parent.next_slot(),
            next_slot: AtomicU32::new(parent.next_slot().0),
            next_data: AtomicU32::new(0),
            next_digests: AtomicU32::new(0),
            table: Mutex::new(parent),
        })
    }

    /// The checkpoint whose packs these are.
    #[must_use]
    pub fn checkpoint(&self) -> CheckpointId {
        self.checkpoint
    }

    /// Whether the pack in this slot is one of this checkpoint, not of an earlier one.
    #[must_use]
    pub fn is_own(&self, slot: PackSlot) -> bool {
        slot >= self.first_own
    }

    /// A writer of packs of this kind. Any number may be used at once, each by one thread.
    ///
    /// # Errors
    /// zstd has no memory for a context.
    pub fn writer(
        self: &Arc<Self>,
        kind: PackKind,
        sink: Arc<dyn PackSink>,
    ) -> Result<PackWriter, ImageError> {
        let encoder = FrameEncoder::new()?;
        Ok(PackWriter { registry: Arc::clone(self), kind, sink, encoder, open: None, stored: 0 })
    }

    /// The parent's packs and all finished ones. Drop what is not used with [`PackTable::retain`].
    #[must_use]
    pub fn table(&self) -> PackTable {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn open(&self, kind: PackKind) -> (PackSlot, PackName) {
        let numbers = match kind {
            PackKind::Data => &self.next_data,
            PackKind::Digests => &self.next_digests,
        };
        let index = PackIndex(numbers.fetch_add(1, Ordering::Relaxed));
        let slot = PackSlot(self.next_slot.fetch_add(1, Ordering::Relaxed));
        (slot, PackName { checkpoint: self.checkpoint, kind, index })
    }

    fn finished(&self, slot: PackSlot, record: PackRecord) {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).insert(slot, record);
    }
}

/// Turns raw bytes into frames, frames into packs, and gives full packs to the sink.
///
/// A frame reference is valid at once, but its pack reaches the sink only when it is full or with
/// [`PackWriter::finish`], which must be called: dropping a writer loses the frames since the last full pack.
#[derive(Debug)]
pub struct PackWriter {
    registry: Arc<PackRegistry>,
    kind: PackKind,
    sink: Arc<dyn PackSink>,
    encoder: FrameEncoder,
    open: Option<(PackSlot, PackBuilder)>,
    stored: u64,
}

/// Why a frame could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The frame could not be encoded.
    #[error("a frame could not be encoded")]
    Encode(#[from] ImageError),
    /// The sink did not take a pack.
    #[error("a pack could not be handed on")]
    Sink(#[from] SinkError),
}

impl WriteError {
    /// What the failure means to the caller.
    #[must_use]
    pub fn code(&self) -> godwit_types::Code {
        match self {
            Self::Encode(e) => e.code(),
            Self::Sink(e) => e.code(),
        }
    }
}

impl PackWriter {
    /// Writes 1 byte to 128 KiB as one frame and gives its name. May block while the sink is full.
    ///
    /// # Errors
    /// The frame is empty or too long, or the sink refused a pack.
    pub fn write(&mut self, raw: &[u8]) -> Result<FrameRef, WriteError> {
        let frame = self.encoder.encode(raw)?;
        self.stored += frame.stored.len() as u64;
        loop {
            let (slot, builder) = match &mut self.open {
                Some(open) => open,
                none => none.insert(start(&self.registry, self.kind, &*self.sink)),
            };
            if let Some(number) = builder.push(&frame) {
                return Ok(FrameRef { pack: *slot, frame: number });
            }
            close(&self.registry, &*self.sink, self.open.take())?;
        }
    }

    /// Bytes of frames written so far, as stored.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// Hands the open, partly filled pack to the sink; what comes later begins another one.
    ///
    /// # Errors
    /// The sink refused it.
    pub fn hand_on(&mut self) -> Result<(), WriteError> {
        close(&self.registry, &*self.sink, self.open.take())
    }

    /// Hands the last, partly filled pack to the sink.
    ///
    /// # Errors
    /// The sink refused it.
    pub fn finish(mut self) -> Result<(), WriteError> {
        self.hand_on()
    }
}

fn start(registry: &PackRegistry, kind: PackKind, sink: &dyn PackSink) -> (PackSlot, PackBuilder) {
    let (slot, name) = registry.open(kind);
    let buffer = sink.buffer().unwrap_or_else(|| Vec::with_capacity(MAX_PACK_BYTES));
    (slot, PackBuilder::new(name, buffer))
}

fn close(
    registry: &PackRegistry,
    sink: &dyn PackSink,
    open: Option<(PackSlot, PackBuilder)>,
) -> Result<(), WriteError> {
    let Some((slot, builder)) = open else { return Ok(()) };
    let (bytes, record) = builder.finish();
    let (name, footer) = (record.name, record.footer);
    registry.finished(slot, record);
    sink.accept(FinishedPack { name, footer, bytes })?;
    Ok(())
}
