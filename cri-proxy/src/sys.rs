//! The one call that no library makes safe.
#![allow(unsafe_code, reason = "the C library's malloc_trim")]

/// Gives memory that is free, but kept by the C library between pieces that are not, back to the system. Takes a millisecond where
/// some ten MiB are kept. Does nothing where the C library is not glibc.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, may be called at any time by any thread, and only returns pages that hold no allocation.
    unsafe {
        libc::malloc_trim(0);
    }
}
