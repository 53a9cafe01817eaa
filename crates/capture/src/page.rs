//! A page's bytes.

/// Bytes in a page, as a length.
pub(crate) const PAGE: usize = godwit_types::PAGE_SIZE as usize;

static ZEROS: [u8; PAGE] = [0; PAGE];

/// Whether a page is all zeros. The C library's memcmp ends at the first byte that is not.
pub(crate) fn is_zero(page: &[u8]) -> bool {
    page == ZEROS
}
