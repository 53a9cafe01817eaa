//! Asking blocking work to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::CaptureError;

/// A flag that work looks at every MiB or so. Clones are the same flag.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// A flag that nobody has raised.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks all work with this flag to end with [`CaptureError::Cancelled`].
    pub fn raise(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it is raised.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn check(&self) -> Result<(), CaptureError> {
        if self.is_raised() { Err(CaptureError::Cancelled) } else { Ok(()) }
    }
}
