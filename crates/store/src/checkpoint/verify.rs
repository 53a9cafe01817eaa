//! Verification: does the store still hold what was stored?

use std::collections::BTreeMap;

use futures::{StreamExt, stream};
use godwit_image::manifest::Object;
use godwit_image::{Footer, FrameDecoder, Head, ImageError, PackName};
use godwit_types::{Bytes, CheckpointId, Code};

use super::CheckpointReader;
use crate::error::{BlobError, StoreError};
use crate::store::TenantStore;

/// Packs read and checked at once: each is up to 16 MiB in memory.
const PARALLEL: usize = 4;

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Manifest and head, and that every object is there with its size.
    Objects,
    /// And every byte: digests of all frames, and that each decompresses.
    Frames,
}

/// One thing that is wrong.
#[derive(Debug)]
pub struct Fault {
    /// The object, as the manifest names it.
    pub object: String,
    /// What is wrong with it.
    pub error: StoreError,
}

/// What a verification found.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// Objects that were looked at.
    pub objects: u64,
    /// Frames that were read and compared.
    pub frames: u64,
    /// Bytes that were read.
    pub read: Bytes,
    /// What is wrong; empty for a sound checkpoint.
    pub faults: Vec<Fault>,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }
}

/// What the check of one object gave.
struct Checked {
    object: String,
    size: u64,
    read: u64,
    frames: Result<u64, StoreError>,
}

impl TenantStore {
    /// Reads a checkpoint and compares it with what was stored. `progress` is told after each object: bytes of those that
    /// are done, and of all.
    ///
    /// # Errors
    /// It does not exist, or its manifest cannot be read; the store does not answer at all. What is wrong with single
    /// objects is in the report.
    pub async fn verify(
        &self,
        id: CheckpointId,
        depth: Depth,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<VerifyReport, StoreError> {
        let reader = self.open_checkpoint(id).await?;
        let mut report = VerifyReport::default();
        let total = reader.manifest().objects.iter().map(|object| object.size).sum();
        let mut done = 0;
        let head = match reader.head().await {
            Ok(head) => Some(head),
            Err(error) if is_finding(&error) => {
                let object = godwit_image::manifest::head_key(id);
                report.faults.push(Fault { object, error });
                None
            }
            Err(e) => return Err(e),
        };
        let (reader, head) = (&reader, head.as_ref());
        let objects = reader.manifest().objects.clone();
        let mut checks = stream::iter(objects)
            .map(|object| async move { check(reader, head, &object, depth).await })
            .buffer_unordered(PARALLEL);
        while let Some(checked) = checks.next().await {
            report.objects += 1;
            report.read.0 += checked.read;
            match checked.frames {
                Ok(frames) => report.frames += frames,
                Err(error) if is_finding(&error) => {
                    report.faults.push(Fault { object: checked.object, error });
                }
                Err(e) => return Err(e),
            }
            done += checked.size;
            progress(done, total);
        }
        Ok(report)
    }
}

/// Whether an error says something about the checkpoint, rather than about the way to it.
fn is_finding(error: &StoreError) -> bool {
    matches!(error.code(), Code::Corrupt | Code::NotFound)
}

async fn check(
    reader: &CheckpointReader,
    head: Option<&Head>,
    object: &Object,
    depth: Depth,
) -> Checked {
    let mut checked =
        Checked { object: object.key.clone(), size: object.size, read: 0, frames: Ok(0) };
    let is_head = object.key == godwit_image::manifest::head_key(reader.manifest().id);
    checked.frames = if is_head || depth == Depth::Objects {
        check_size(reader, object).await.map(|()| 0)
    } else {
        checked.read = object.size;
        check_pack(reader, head, object).await
    };
    checked
}

async fn check_size(reader: &CheckpointReader, object: &Object) -> Result<(), StoreError> {
    let key = reader.key(object)?;
    match reader.tenant().blobs().head(&key).await? {
        Some(found) if found.size == object.size => Ok(()),
        Some(_) => Err(StoreError::Digest { key }),
        None => {
            let store = reader.tenant().store.name().to_owned();
            Err(BlobError::NotFound { store, key }.into())
        }
    }
}

async fn check_pack(
    reader: &CheckpointReader,
    head: Option<&Head>,
    object: &Object,
) -> Result<u64, StoreError> {
    let key = reader.key(object)?;
    let bytes = reader.whole_pack(object).await?;
    let records = head.map(|h| records_of(h, &object.key)).unwrap_or_default();
    let digest = object.digest;
    let work = tokio::task::spawn_blocking(move || frames_of(&bytes, &digest, &records));
    match work.await {
        Ok(result) => result.map_err(|source| StoreError::Image { key, source }),
        Err(e) => Err(StoreError::Invalid { what: "a pack", why: e.to_string() }),
    }
}

type Records = BTreeMap<u32, godwit_image::FrameRecord>;

/// What the head says of the frames of a pack.
fn records_of(head: &Head, key: &str) -> Records {
    let named = |name: &PackName| name.to_string() == key;
    let packs = head.packs.iter().filter(|(_, record)| named(&record.name));
    packs.flat_map(|(_, record)| record.frames.iter().map(|(n, r)| (n, *r))).collect()
}

/// Compares every frame of a pack with its footer, and the footer with the head.
fn frames_of(
    pack: &[u8],
    footer: &godwit_image::Digest,
    by_head: &Records,
) -> Result<u64, ImageError> {
    let footer = Footer::of_pack(pack, footer)?;
    let mut decoder = FrameDecoder::new()?;
    for (number, record) in by_head {
        if footer.frames.get(*number) != Some(record) {
            let why = "the head says something else about a frame than the pack";
            return Err(ImageError::Invalid { what: "pack", why });
        }
    }
    for (_, record) in footer.frames.iter() {
        let stored = record.offset as usize..(record.offset as usize + record.stored as usize);
        let bytes = pack.get(stored).ok_or(ImageError::Digest { what: "frame" })?;
        decoder.decode(record, bytes)?;
    }
    Ok(footer.frames.len() as u64)
}
