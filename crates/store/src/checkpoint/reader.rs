//! Reading a checkpoint: nothing leaves this file that was not compared with the digest that names it, save what is
//! marked [`Unverified`].

mod frames;

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use godwit_image::manifest::Object;
use godwit_image::{Digest, FrameRecord, Head, Manifest, PackName};
use godwit_types::CheckpointId;

use super::Absence;
use crate::blob::Key;
use crate::error::{BlobError, StoreError};
use crate::store::TenantStore;

pub use frames::StoreFrames;

/// Frames of one pack that are so close are read by one request, gap included: a request costs more than 64 KiB.
const JOIN_GAP: u64 = 64 << 10;
/// Longest joined request.
const JOIN_BYTES: u64 = 4 << 20;
/// Requests of one call in flight: what is far apart does not cost a round trip each.
const AT_ONCE: usize = 4;

/// A checkpoint that was there when it was opened. Pin it for as long as it is read ([`TenantStore::pin`]).
#[derive(Debug, Clone)]
pub struct CheckpointReader {
    tenant: TenantStore,
    manifest: Manifest,
    packs: BTreeMap<PackName, u64>,
}

/// Bytes that were not compared with anything yet.
#[derive(Debug, Clone)]
pub struct Unverified(Bytes);

impl Unverified {
    /// The stored bytes of this frame, if these are they. `start` is where these bytes begin in the pack.
    ///
    /// # Errors
    /// `None` if the frame is not within them, or they are not the ones that were stored.
    #[must_use]
    pub fn frame(&self, start: u64, record: &FrameRecord) -> Option<Bytes> {
        let range = record.byte_range();
        let from = usize::try_from(range.start.checked_sub(start)?).ok()?;
        let to = usize::try_from(range.end.checked_sub(start)?).ok()?;
        let stored = self.0.get(from..to)?;
        (Digest::of(stored) == record.digest).then(|| self.0.slice(from..to))
    }

    /// The bytes, for a caller that compares them itself.
    #[must_use]
    pub fn into_unchecked(self) -> Bytes {
        self.0
    }
}

impl TenantStore {
    /// Opens a checkpoint that has a manifest and no tombstone. That an entry commits it, the caller knows from the log.
    ///
    /// # Errors
    /// [`StoreError::Absent`]; the store does not answer; the manifest is damaged.
    pub async fn open_checkpoint(&self, id: CheckpointId) -> Result<CheckpointReader, StoreError> {
        Ok(CheckpointReader::new(self.clone(), self.manifest(id).await?))
    }
}

impl CheckpointReader {
    pub(super) fn new(tenant: TenantStore, manifest: Manifest) -> Self {
        let packs = manifest.packs().map(|(name, object)| (name, object.size)).collect();
        Self { tenant, manifest, packs }
    }

    /// The tenant that it was opened in.
    #[must_use]
    pub fn tenant(&self) -> &TenantStore {
        &self.tenant
    }

    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its head, as bytes.
    ///
    /// # Errors
    /// [`StoreError::Digest`] if it is not the one that was stored; the store does not answer.
    pub async fn head_bytes(&self) -> Result<Bytes, StoreError> {
        let (id, absence) = (self.manifest.id, Absence::NoManifest);
        let object = self.manifest.head().ok_or(StoreError::Absent { id, absence })?;
        let key = self.key(object)?;
        let bytes = self.tenant.blobs().get(&key, object.size).await?;
        if bytes.len() as u64 != object.size || Digest::of(&bytes) != object.digest {
            return Err(StoreError::Digest { key });
        }
        Ok(bytes)
    }

    /// Its head.
    ///
    /// # Errors
    /// As [`CheckpointReader::head_bytes`], or it cannot be decoded.
    pub async fn head(&self) -> Result<Head, StoreError> {
        let bytes = self.head_bytes().await?;
        // Decompression of page maps: too long for a thread that serves connections.
        let decoded = tokio::task::spawn_blocking(move || Head::decode(&bytes)).await;
        let key = self.tenant.keys.object(&godwit_image::manifest::head_key(self.manifest.id))?;
        match decoded {
            Ok(head) => head.map_err(|source| StoreError::Image { key, source }),
            Err(e) => Err(StoreError::Invalid { what: "a head", why: e.to_string() }),
        }
    }

    /// The stored bytes of one frame: one ranged GET.
    ///
    /// # Errors
    /// [`StoreError::Digest`] if they are not the ones that were stored; the manifest does not name the pack; the store
    /// does not answer.
    pub async fn frame(&self, pack: &PackName, record: &FrameRecord) -> Result<Bytes, StoreError> {
        let range = record.byte_range();
        let start = range.start;
        let bytes = self.pack_bytes(pack, range).await?;
        bytes.frame(start, record).ok_or(StoreError::Digest { key: self.pack_key(pack)? })
    }

    /// The stored bytes of several frames of one pack, in the order asked for; neighbours by one GET, several at the same time.
    ///
    /// # Errors
    /// As [`CheckpointReader::frame`].
    pub async fn frames(
        &self,
        pack: &PackName,
        records: &[FrameRecord],
    ) -> Result<Vec<Bytes>, StoreError> {
        let read = |run: Range<u64>| async move {
            let start = run.start;
            Ok::<_, StoreError>((start, self.pack_bytes(pack, run).await?))
        };
        let found = stream::iter(runs(records)).map(read).buffer_unordered(AT_ONCE);
        let found: BTreeMap<u64, Unverified> = found.try_collect().await?;
        let get = |record: &FrameRecord| {
            let (start, bytes) = found.range(..=u64::from(record.offset)).next_back()?;
            bytes.frame(*start, record)
        };
        let key = self.pack_key(pack)?;
        let damaged = || StoreError::Digest { key: key.clone() };
        records.iter().map(|record| get(record).ok_or_else(damaged)).collect()
    }

    /// Bytes of a pack.
    ///
    /// # Errors
    /// The manifest does not name the pack or says that it ends earlier; the store does not answer.
    pub async fn pack_bytes(
        &self,
        pack: &PackName,
        range: Range<u64>,
    ) -> Result<Unverified, StoreError> {
        let key = self.pack_key(pack)?;
        let store = self.tenant.store.name().to_owned();
        match self.packs.get(pack) {
            None => Err(BlobError::NotFound { store, key }.into()),
            Some(size) if range.end > *size => {
                Err(BlobError::OutOfRange { store, key, end: range.end }.into())
            }
            Some(_) => Ok(Unverified(self.tenant.blobs().get_range(&key, range).await?)),
        }
    }

    /// A whole pack.
    pub(super) async fn whole_pack(&self, object: &Object) -> Result<Bytes, StoreError> {
        Ok(self.tenant.blobs().get(&self.key(object)?, object.size).await?)
    }

    pub(super) fn key(&self, object: &Object) -> Result<Key, StoreError> {
        Ok(self.tenant.keys.object(&object.key)?)
    }

    fn pack_key(&self, pack: &PackName) -> Result<Key, StoreError> {
        Ok(self.tenant.keys.object(&pack.to_string())?)
    }
}

/// The ranges to ask for: frames in the order of their offsets, joined where they are close.
fn runs(records: &[FrameRecord]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = records.iter().map(FrameRecord::byte_range).collect();
    ranges.sort_unstable_by_key(|r| (r.start, r.end));
    let mut runs: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match runs.last_mut() {
            Some(run) if joins(run, &range) => run.end = run.end.max(range.end),
            _ => runs.push(range),
        }
    }
    runs
}

fn joins(run: &Range<u64>, next: &Range<u64>) -> bool {
    let inside = next.end <= run.end;
    inside || (next.start <= run.end + JOIN_GAP && next.end - run.start <= JOIN_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_image::Codec;

    fn record(offset: u32, stored: u32) -> FrameRecord {
        let digest = Digest::of(b"");
        FrameRecord { offset, stored, raw: stored, codec: Codec::Raw, digest }
    }

    #[test]
    fn neighbours_are_joined_within_bounds_and_in_any_order() {
        let far = 10 << 20;
        let records = [record(300, 100), record(0, 100), record(far, 50), record(100, 200)];
        assert_eq!(runs(&records), [0..400, u64::from(far)..u64::from(far) + 50]);
        let many: Vec<_> = (0..100).map(|n| record(n << 17, 1 << 17)).collect();
        assert!(runs(&many).iter().all(|r| r.end - r.start <= JOIN_BYTES));
        assert_eq!(runs(&[]), []);
    }
}
