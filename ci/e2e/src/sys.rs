//! The one unsafe call of this crate: what is done when the process ends.
#![allow(unsafe_code)] // A test harness ends the process without ending what statics hold.

/// Has this called when the process ends by itself. Ignored when there is no room for it (ISO C gives 32).
pub(crate) fn at_exit(what: extern "C" fn()) {
    // SAFETY: a function without arguments that lives as long as the program.
    unsafe { libc::atexit(what) };
}
