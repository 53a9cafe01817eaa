//! Why memory could not be put into a process.

use godwit_types::Code;

/// A failure that ends the hydration of a container, or keeps it from beginning.
#[derive(Debug, thiserror::Error)]
pub enum FaultsError {
    /// A system call failed in a way that no rule covers.
    #[error("{action} failed")]
    Os {
        /// What was attempted.
        action: &'static str,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// A page map refers to pages that a frame cannot have, or to addresses that a process cannot have.
    #[error("the page map is not valid: {why}")]
    PageMap {
        /// The rule that it breaks.
        why: &'static str,
    },
    /// A frame cannot be had: the page that waits for it is lost.
    #[error("frame {frame} of pack slot {pack} cannot be had: {reason}")]
    Frame {
        /// Slot of the pack.
        pack: u32,
        /// Number of the frame in the pack.
        frame: u32,
        /// What its source says it means.
        code: Code,
        /// The source's words.
        reason: String,
    },
    /// A frame is shorter than the page map says.
    #[error("frame {frame} of pack slot {pack} holds {have} pages, the page map wants {want}")]
    ShortFrame {
        /// Slot of the pack.
        pack: u32,
        /// Number of the frame in the pack.
        frame: u32,
        /// Pages that it holds.
        have: u32,
        /// Pages that it should hold at least.
        want: u32,
    },
    /// Threads of a process change its mappings faster than they can be followed.
    #[error(
        "several threads move mappings without a pause, so what belongs where is not known any more: restore it again, with the annotation godwit.dev/hydrate=before-start"
    )]
    Unfollowable,
    /// A number that is not known, or known already.
    #[error("{what} {number} is not known, or used twice")]
    Number {
        /// What is numbered.
        what: &'static str,
        /// The number.
        number: u64,
    },
}

impl FaultsError {
    pub(crate) fn os(action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Os { action, source }
    }

    /// What it means to the caller.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Os { .. } | Self::Unfollowable => Code::Internal,
            Self::PageMap { .. } | Self::ShortFrame { .. } => Code::Corrupt,
            Self::Frame { code, .. } => *code,
            Self::Number { .. } => Code::Precondition,
        }
    }
}
