//! zstd at the level of the whole format, with bounds on what comes out.

use std::io::Read;

use crate::ImageError;

/// The fast level: about 1 GB/s a core on heaps, 3 GB/s back.
pub(crate) const LEVEL: i32 = -1;

/// 16 MiB: what is written has windows of 512 KiB; zstd would believe a header that asks for 128 MiB.
const MAX_WINDOW_LOG: u32 = 24;

/// Compresses a whole section.
pub(crate) fn compress(what: &'static str, bytes: &[u8]) -> Result<Vec<u8>, ImageError> {
    zstd::bulk::compress(bytes, LEVEL).map_err(|_| ImageError::Compressor { what })
}

/// Decompresses to exactly `length` bytes, which the caller has bounded. Memory grows with what really comes out, so a
/// lie about the length costs nothing.
pub(crate) fn decompress(
    what: &'static str,
    bytes: &[u8],
    length: u64,
) -> Result<Vec<u8>, ImageError> {
    let invalid = ImageError::Invalid { what, why: "it does not decompress" };
    let mut decoder =
        zstd::stream::read::Decoder::with_buffer(bytes).map_err(|_| invalid.clone())?;
    decoder.window_log_max(MAX_WINDOW_LOG).map_err(|_| invalid.clone())?;
    let mut out = Vec::new();
    decoder.take(length + 1).read_to_end(&mut out).map_err(|_| invalid)?;
    if out.len() as u64 != length {
        let why = "it decompresses to another length";
        return Err(ImageError::Invalid { what, why });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_length_is_refused_without_decompressing_more_than_it() {
        let packed = compress("x", &vec![7; 1 << 20]).unwrap();
        assert_eq!(decompress("x", &packed, 1 << 20).unwrap(), vec![7; 1 << 20]);
        assert!(decompress("x", &packed, 100).is_err());
        assert!(decompress("x", &packed, (1 << 20) + 1).is_err());
        assert!(decompress("x", b"nonsense", 8).is_err());
    }
}
