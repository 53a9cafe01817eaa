//! The fixed header of every binary object: 32 bytes, readable and checkable alone.
//!
//! ```text
//!  0  8  magic                        16  8  length of the body in bytes, LE
//!  8  2  version, LE                  24  4  reserved, zero
//! 10  2  reserved, zero               28  4  CRC-32 of bytes 0..28, LE
//! 12  4  CRC-32 of the body, LE (packs: of the footer)
//! ```

use crate::ImageError;

/// Bytes in a header.
pub const HEADER_BYTES: usize = 32;

/// The kinds of object that carry a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A pack of frames.
    Pack,
    /// A head.
    Head,
    /// A page map.
    PageMap,
    /// A block of page digests.
    DigestBlock,
    /// The index of the digest blocks of one address space.
    DigestIndex,
    /// The index of the files that a container has written.
    FileIndex,
}

impl Kind {
    /// The first eight bytes of the object.
    #[must_use]
    pub const fn magic(self) -> [u8; 8] {
        *match self {
            Self::Pack => b"GODWPACK",
            Self::Head => b"GODWHEAD",
            Self::PageMap => b"GODWPMAP",
            Self::DigestBlock => b"GODWDBLK",
            Self::DigestIndex => b"GODWDIDX",
            Self::FileIndex => b"GODWFIDX",
        }
    }

    /// Its name in errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pack => "pack",
            Self::Head => "head",
            Self::PageMap => "page map",
            Self::DigestBlock => "digest block",
            Self::DigestIndex => "digest index",
            Self::FileIndex => "index of files",
        }
    }

    /// The version that is written; it and the one before it are read.
    const fn version(self) -> u16 {
        1
    }

    const fn oldest(self) -> u16 {
        1
    }
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Version of the body's layout.
    pub version: u16,
    /// Bytes that follow the header.
    pub length: u64,
    /// CRC-32 of the body (of the footer, for a pack).
    pub body_crc: u32,
}

impl Header {
    /// A header of the current version.
    #[must_use]
    pub fn new(kind: Kind, length: u64, body_crc: u32) -> Self {
        Self { version: kind.version(), length, body_crc }
    }

    /// Its 32 bytes.
    #[must_use]
    pub fn encode(&self, kind: Kind) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..8].copy_from_slice(&kind.magic());
        out[8..10].copy_from_slice(&self.version.to_le_bytes());
        out[12..16].copy_from_slice(&self.body_crc.to_le_bytes());
        out[16..24].copy_from_slice(&self.length.to_le_bytes());
        let crc = crc32fast::hash(&out[0..28]);
        out[28..32].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the first 32 bytes of an object.
    ///
    /// # Errors
    /// Too short, another kind, damaged, or of a version that is not read.
    pub fn decode(kind: Kind, bytes: &[u8]) -> Result<Self, ImageError> {
        let what = kind.name();
        let have = bytes.len() as u64;
        let h: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(ImageError::Truncated {
            what,
            need: HEADER_BYTES as u64,
            have,
        })?;
        if h[0..8] != kind.magic() {
            return Err(ImageError::Magic { what });
        }
        if crc32fast::hash(&h[0..28]).to_le_bytes() != h[28..32] {
            return Err(ImageError::Digest { what });
        }
        let header = Self {
            version: u16::from_le_bytes([h[8], h[9]]),
            body_crc: u32::from_le_bytes([h[12], h[13], h[14], h[15]]),
            length: u64::from_le_bytes([h[16], h[17], h[18], h[19], h[20], h[21], h[22], h[23]]),
        };
        let (oldest, newest) = (kind.oldest(), kind.version());
        if !(oldest..=newest).contains(&header.version) {
            return Err(ImageError::Version { what, found: header.version, oldest, newest });
        }
        Ok(header)
    }
}

/// Puts a header in front of a body.
#[must_use]
pub fn wrap(kind: Kind, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
    let header = Header::new(kind, body.len() as u64, crc32fast::hash(body));
    out.extend_from_slice(&header.encode(kind));
    out.extend_from_slice(body);
    out
}

/// The body of an object whose header, length and checksum are right.
///
/// # Errors
/// As [`Header::decode`]; another length or checksum.
pub fn unwrap(kind: Kind, bytes: &[u8]) -> Result<&[u8], ImageError> {
    let header = Header::decode(kind, bytes)?;
    let body = &bytes[HEADER_BYTES..];
    if header.length != body.len() as u64 {
        let (need, have) = (header.length, body.len() as u64);
        return Err(ImageError::Truncated { what: kind.name(), need, have });
    }
    if crc32fast::hash(body) != header.body_crc {
        return Err(ImageError::Digest { what: kind.name() });
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_every_flipped_bit_is_noticed() {
        let h = Header::new(Kind::Head, 77, 5);
        let bytes = h.encode(Kind::Head);
        assert_eq!(Header::decode(Kind::Head, &bytes), Ok(h));
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(Kind::Head, &bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_kind_and_a_newer_version_are_told_apart() {
        let bytes = Header::new(Kind::Head, 0, 0).encode(Kind::Head);
        assert_eq!(Header::decode(Kind::Pack, &bytes), Err(ImageError::Magic { what: "pack" }));
        let newer = Header { version: 2, length: 0, body_crc: 0 }.encode(Kind::Head);
        assert!(matches!(
            Header::decode(Kind::Head, &newer),
            Err(ImageError::Version { found: 2, .. })
        ));
    }
}
