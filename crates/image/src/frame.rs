//! Frames: up to 128 KiB, the unit of compression, verification and ranged GET.
//!
//! Owns how bytes become a stored frame and back. Does not know what they mean (pages or parts of files), nor where the
//! frame lies.

use crate::limits::MAX_FRAME_BYTES;
use crate::{Digest, ImageError, PackSlot, compress};

/// How the stored bytes of a frame are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// As they are.
    Raw,
    /// One zstd frame.
    Zstd,
}

impl Codec {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zstd => 1,
        }
    }

    pub(crate) fn from_number(n: u8) -> Option<Self> {
        match n {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Names a frame within one checkpoint: slot of the pack in the head's pack table, number of the frame in the pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameRef {
    /// The pack.
    pub pack: PackSlot,
    /// The frame's number within the pack.
    pub frame: u32,
}

/// Where a frame lies in its pack and what its bytes must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRecord {
    /// First byte within the pack.
    pub offset: u32,
    /// Bytes in the pack.
    pub stored: u32,
    /// Bytes after decompression, at most 128 KiB.
    pub raw: u32,
    /// How to read the stored bytes.
    pub codec: Codec,
    /// BLAKE3 of the stored bytes.
    pub digest: Digest,
}

impl FrameRecord {
    /// The byte range within the pack, for a ranged GET.
    #[must_use]
    pub fn byte_range(&self) -> std::ops::Range<u64> {
        u64::from(self.offset)..u64::from(self.offset) + u64::from(self.stored)
    }

    /// What every record must satisfy, wherever it comes from.
    pub(crate) fn check(&self) -> Result<(), ImageError> {
        let what = "frame";
        if self.raw as usize > MAX_FRAME_BYTES {
            let (size, limit) = (u64::from(self.raw), MAX_FRAME_BYTES as u64);
            return Err(ImageError::Limit { what, size, limit });
        }
        let raw_differs = self.codec == Codec::Raw && self.stored != self.raw;
        if self.stored > self.raw || raw_differs || self.stored == 0 {
            return Err(ImageError::Invalid { what, why: "its stored length cannot be" });
        }
        Ok(())
    }
}

/// A frame as it goes into a pack. Borrows the encoder's or the caller's buffer.
#[derive(Debug, Clone, Copy)]
pub struct EncodedFrame<'a> {
    /// How the bytes are stored.
    pub codec: Codec,
    /// Bytes before compression.
    pub raw: u32,
    /// The stored bytes.
    pub stored: &'a [u8],
    /// BLAKE3 of the stored bytes.
    pub digest: Digest,
}

/// Compresses frames; keeps its context and buffer between calls. One for each thread.
pub struct FrameEncoder {
    zstd: zstd::bulk::Compressor<'static>,
    buffer: Vec<u8>,
}

impl FrameEncoder {
    /// An encoder at the format's level.
    ///
    /// # Errors
    /// zstd has no memory for a context.
    pub fn new() -> Result<Self, ImageError> {
        let zstd = zstd::bulk::Compressor::new(compress::LEVEL)
            .map_err(|_| ImageError::Compressor { what: "frame" })?;
        Ok(Self { zstd, buffer: vec![0; zstd::zstd_safe::compress_bound(MAX_FRAME_BYTES)] })
    }

    /// Encodes 1 to 128 KiB. Stores them raw where a sample says that they do not compress, or where they did not.
    ///
    /// # Errors
    /// Empty or too long.
    pub fn encode<'a>(&'a mut self, raw: &'a [u8]) -> Result<EncodedFrame<'a>, ImageError> {
        if raw.is_empty() || raw.len() > MAX_FRAME_BYTES {
            let (size, limit) = (raw.len() as u64, MAX_FRAME_BYTES as u64);
            return Err(ImageError::Limit { what: "frame", size, limit });
        }
        let (codec, stored) = match self.compressed(raw)? {
            Some(stored) => (Codec::Zstd, stored),
            None => (Codec::Raw, raw),
        };
        Ok(EncodedFrame { codec, raw: raw.len() as u32, stored, digest: Digest::of(stored) })
    }

    /// The compressed bytes, if compression is worth its time at restore: at least a sixteenth is saved.
    fn compressed(&mut self, raw: &[u8]) -> Result<Option<&[u8]>, ImageError> {
        if looks_incompressible(raw) {
            return Ok(None);
        }
        let n = self
            .zstd
            .compress_to_buffer(raw, self.buffer.as_mut_slice())
            .map_err(|_| ImageError::Compressor { what: "frame" })?;
        Ok((n < raw.len() - raw.len() / 16).then(|| &self.buffer[..n]))
    }
}

impl std::fmt::Debug for FrameEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FrameEncoder")
    }
}

/// Whether a sample of 4 × 1 KiB looks like random bytes: costs 3 µs where zstd would spend 40–60.
///
/// For n random bytes the sum of squared counts is about n + n²/256; text, pointers and small integers are far above.
fn looks_incompressible(raw: &[u8]) -> bool {
    const PIECE: usize = 1024;
    const PIECES: usize = 4;
    const N: u64 = (PIECE * PIECES) as u64;
    if raw.len() < PIECE * PIECES {
        return false;
    }
    let mut counts = [0u32; 256];
    let step = (raw.len() - PIECE) / (PIECES - 1);
    for piece in 0..PIECES {
        for &b in &raw[piece * step..piece * step + PIECE] {
            counts[usize::from(b)] += 1;
        }
    }
    let squares: u64 = counts.iter().map(|&c| u64::from(c) * u64::from(c)).sum();
    // 5 % above what random bytes give.
    squares < (N + N * N / 256) * 105 / 100
}

/// Verifies and decompresses frames; keeps its context between calls. One for each thread.
pub struct FrameDecoder {
    zstd: zstd::bulk::Decompressor<'static>,
}

impl FrameDecoder {
    /// A decoder.
    ///
    /// # Errors
    /// zstd has no memory for a context.
    pub fn new() -> Result<Self, ImageError> {
        let zstd = zstd::bulk::Decompressor::new()
            .map_err(|_| ImageError::Compressor { what: "frame decoder" })?;
        Ok(Self { zstd })
    }

    /// Checks the stored bytes against the record and writes the raw ones to the front of `out`, which has room for
    /// `record.raw` bytes at least. Returns how many were written: `record.raw`.
    ///
    /// # Errors
    /// Wrong length, wrong digest, or they do not decompress to exactly `record.raw` bytes. `out` is then undefined.
    pub fn decode_into(
        &mut self,
        record: &FrameRecord,
        stored: &[u8],
        out: &mut [u8],
    ) -> Result<usize, ImageError> {
        record.check()?;
        let raw = record.raw as usize;
        let have = stored.len() as u64;
        if have != u64::from(record.stored) {
            return Err(ImageError::Truncated { what: "frame", need: record.stored.into(), have });
        }
        let room = out.len() as u64;
        let Some(out) = out.get_mut(..raw) else {
            return Err(ImageError::Limit { what: "frame", size: raw as u64, limit: room });
        };
        if Digest::of(stored) != record.digest {
            return Err(ImageError::Digest { what: "frame" });
        }
        match record.codec {
            Codec::Raw => out.copy_from_slice(stored),
            Codec::Zstd => self.inflate(stored, out)?,
        }
        Ok(raw)
    }

    fn inflate(&mut self, stored: &[u8], out: &mut [u8]) -> Result<(), ImageError> {
        match self.zstd.decompress_to_buffer(stored, out) {
            Ok(n) if n == out.len() => Ok(()),
            _ => Err(ImageError::Invalid { what: "frame", why: "it does not decompress" }),
        }
    }

    /// As [`FrameDecoder::decode_into`], into new memory of at most 128 KiB.
    ///
    /// # Errors
    /// The same.
    pub fn decode(&mut self, record: &FrameRecord, stored: &[u8]) -> Result<Vec<u8>, ImageError> {
        record.check()?;
        let mut out = vec![0; record.raw as usize];
        self.decode_into(record, stored, &mut out)?;
        Ok(out)
    }
}

impl std::fmt::Debug for FrameDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FrameDecoder")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(e: &EncodedFrame<'_>) -> FrameRecord {
        let stored = e.stored.len() as u32;
        FrameRecord { offset: 0, stored, raw: e.raw, codec: e.codec, digest: e.digest }
    }

    /// Pseudo-random bytes, the same each time.
    fn noise(n: usize) -> Vec<u8> {
        let mut out = vec![0; n];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    fn round_trip(raw: &[u8]) -> Codec {
        let mut encoder = FrameEncoder::new().unwrap();
        let frame = encoder.encode(raw).unwrap();
        let back = FrameDecoder::new().unwrap().decode(&record(&frame), frame.stored).unwrap();
        assert_eq!(back, raw);
        frame.codec
    }

    #[test]
    fn random_bytes_are_stored_raw_and_text_is_compressed() {
        assert_eq!(round_trip(&noise(MAX_FRAME_BYTES)), Codec::Raw);
        assert_eq!(round_trip(&noise(4096)), Codec::Raw);
        assert_eq!(round_trip(&noise(10)), Codec::Raw);
        assert_eq!(round_trip(&b"{\"key\": 17}\n".repeat(10_000)), Codec::Zstd);
        assert_eq!(round_trip(&vec![0; MAX_FRAME_BYTES]), Codec::Zstd);
    }

    #[test]
    fn a_frame_is_neither_empty_nor_longer_than_128_kib() {
        let mut encoder = FrameEncoder::new().unwrap();
        assert!(encoder.encode(&[]).is_err());
        assert!(encoder.encode(&vec![0; MAX_FRAME_BYTES + 1]).is_err());
    }

    #[test]
    fn a_flipped_bit_a_short_frame_and_a_lie_about_the_length_are_refused() {
        let mut encoder = FrameEncoder::new().unwrap();
        let frame = encoder.encode(&[1; 5000]).unwrap();
        let good = record(&frame);
        let mut decoder = FrameDecoder::new().unwrap();
        let mut bad = frame.stored.to_vec();
        bad[3] ^= 1;
        assert_eq!(decoder.decode(&good, &bad), Err(ImageError::Digest { what: "frame" }));
        assert!(decoder.decode(&good, &frame.stored[1..]).is_err());
        for raw in [4999, 5001, u32::MAX] {
            assert!(decoder.decode(&FrameRecord { raw, ..good }, frame.stored).is_err(), "{raw}");
        }
        assert!(decoder.decode_into(&good, frame.stored, &mut [0; 4999]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(raw in prop::collection::vec(any::<u8>(), 1..9000)) {
            round_trip(&raw);
        }
    }
}
