//! The footer of a pack: whose it is, and where each frame lies.

use godwit_types::PackIndex;

use super::{FrameTable, PackKind, PackName, TRAILER_BYTES, TRAILER_MAGIC};
use crate::cursor::{Cursor, put_varint};
use crate::header::{HEADER_BYTES, Header, Kind};
use crate::limits::{MAX_FRAMES_PER_PACK, MAX_PACK_BYTES};
use crate::{Digest, ImageError};

const WHAT: &str = "pack footer";

/// A pack's own description of itself. Needed by verification and repair; restores use the head's copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    /// The pack.
    pub name: PackName,
    /// Its frames, all of them.
    pub frames: FrameTable,
}

impl Footer {
    /// The bytes of the footer, without the trailer.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.frames.len() * 44);
        encode_name(&mut out, &self.name);
        encode_sealing(&mut out);
        self.frames.encode(&mut out);
        out
    }

    /// Reads a footer without its trailer.
    ///
    /// # Errors
    /// It is damaged, encrypted or above a limit.
    pub fn decode(bytes: &[u8]) -> Result<Self, ImageError> {
        let mut c = Cursor::new(WHAT, bytes);
        let name = decode_name(&mut c)?;
        decode_sealing(&mut c)?;
        let frames = FrameTable::decode(&mut c)?;
        c.end()?;
        if !frames.is_complete() {
            return Err(ImageError::Invalid { what: WHAT, why: "a frame is missing" });
        }
        Ok(Self { name, frames })
    }

    /// Reads the footer of a whole pack and checks it against the pack's header, its trailer and its own digest.
    /// The frames themselves are not touched.
    ///
    /// # Errors
    /// Not a pack, damaged, not the one whose footer has this digest, or frames that lie outside it.
    pub fn of_pack(pack: &[u8], expected: &Digest) -> Result<Self, ImageError> {
        let header = Header::decode(Kind::Pack, pack)?;
        let size = pack.len() as u64;
        if size > MAX_PACK_BYTES as u64 {
            return Err(ImageError::Limit { what: "pack", size, limit: MAX_PACK_BYTES as u64 });
        }
        if header.length != size - HEADER_BYTES as u64 {
            let need = header.length.saturating_add(HEADER_BYTES as u64);
            return Err(ImageError::Truncated { what: "pack", need, have: size });
        }
        let (bytes, start) = footer_bytes(&pack[HEADER_BYTES..])?;
        if crc32fast::hash(bytes) != header.body_crc || Digest::of(bytes) != *expected {
            return Err(ImageError::Digest { what: WHAT });
        }
        let footer = Self::decode(bytes)?;
        footer.frames.check_bounds(HEADER_BYTES as u64, (HEADER_BYTES + start) as u64)?;
        Ok(footer)
    }
}

/// The footer within the body of a pack, and where it starts there.
fn footer_bytes(body: &[u8]) -> Result<(&[u8], usize), ImageError> {
    let invalid = ImageError::Invalid { what: "pack", why: "it does not end with a footer" };
    let (front, trailer) =
        body.split_last_chunk::<TRAILER_BYTES>().ok_or_else(|| invalid.clone())?;
    let length = u32::from_le_bytes([trailer[0], trailer[1], trailer[2], trailer[3]]) as usize;
    if trailer[4..] != TRAILER_MAGIC || length > front.len() {
        return Err(invalid);
    }
    let start = front.len() - length;
    Ok((&front[start..], start))
}

pub(super) fn encode_name(out: &mut Vec<u8>, name: &PackName) {
    out.extend_from_slice(&u128::from(name.checkpoint).to_be_bytes());
    out.push(name.kind.number());
    put_varint(out, name.index.0.into());
}

pub(super) fn decode_name(c: &mut Cursor<'_>) -> Result<PackName, ImageError> {
    let checkpoint = u128::from_be_bytes(c.array()?).into();
    let kind =
        PackKind::from_number(c.byte()?).ok_or_else(|| c.invalid("its kind is not known"))?;
    Ok(PackName { checkpoint, kind, index: PackIndex(c.u32()?) })
}

/// Scheme 0 (none) and key 0. Other schemes seal each frame under the named data key with the nonce
/// {kind, pack number, frame number}, unique because a data key belongs to one checkpoint and packs are written once.
pub(super) fn encode_sealing(out: &mut Vec<u8>) {
    out.push(0);
    put_varint(out, 0);
}

pub(super) fn decode_sealing(c: &mut Cursor<'_>) -> Result<(), ImageError> {
    let (scheme, key) = (c.byte()?, c.u32()?);
    if scheme == 0 { Ok(()) } else { Err(ImageError::Encrypted { what: "pack", scheme, key }) }
}

/// Upper bound of the encoded footer and trailer of a pack with so many frames.
pub(super) fn footer_bound(frames: usize) -> usize {
    // Per frame: number 1, gap 1, stored 3, raw 3, codec 1, digest 32. Fixed: name 22, sealing 2, count 3.
    64 + TRAILER_BYTES + frames.min(MAX_FRAMES_PER_PACK as usize) * 44
}
