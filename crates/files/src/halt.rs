//! Asking blocking work to end.

use std::fmt;
use std::sync::Arc;

use crate::FilesError;

/// A question that work asks before each file and each 128 KiB: shall it go on? Clones ask the same.
#[derive(Clone)]
pub struct Halt(Arc<dyn Fn() -> bool + Send + Sync>);

impl Halt {
    /// Work ends with [`FilesError::Cancelled`] soon after this says true.
    #[must_use]
    pub fn when(raised: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(raised))
    }

    /// Work goes to its end.
    #[must_use]
    pub fn never() -> Self {
        Self::when(|| false)
    }

    pub(crate) fn check(&self) -> Result<(), FilesError> {
        if (self.0)() { Err(FilesError::Cancelled) } else { Ok(()) }
    }
}

impl fmt::Debug for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Halt")
    }
}
