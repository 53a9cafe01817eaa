//! What ends a pager, or a container, before it is hydrated.

use godwit_faults::FaultsError;
use godwit_image::ImageError;
use godwit_types::Code;
use godwit_wire::WireError;

/// A failure with its meaning.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PagerError {
    /// The plan or a message of the shim cannot be followed.
    #[error("the plan for container {container} cannot be followed: {why}")]
    Plan {
        /// The container.
        container: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A page map is damaged.
    #[error("the page map of process {vpid} cannot be read")]
    PageMap {
        /// The process, by its pid inside.
        vpid: i32,
        /// Why.
        #[source]
        source: ImageError,
    },
    /// Memory cannot be put into the processes.
    #[error("serving page faults failed")]
    Faults(#[from] FaultsError),
    /// A peer does not speak as it should.
    #[error("talking to {peer} failed")]
    Wire {
        /// The peer.
        peer: &'static str,
        /// Why.
        #[source]
        source: WireError,
    },
    /// A system call failed.
    #[error("{action} failed")]
    Os {
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl PagerError {
    pub(crate) fn wire(peer: &'static str) -> impl FnOnce(WireError) -> Self {
        move |source| Self::Wire { peer, source }
    }

    pub(crate) fn os<E: Into<std::io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Os { action, source: source.into() }
    }

    /// What it means to the shim.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Plan { .. } => Code::Precondition,
            Self::PageMap { source, .. } => source.code(),
            Self::Faults(source) => source.code(),
            Self::Wire { source, .. } => source.code(),
            Self::Os { .. } => Code::Internal,
        }
    }

    /// The whole chain as one sentence.
    pub(crate) fn sentence(&self) -> String {
        sentence(self)
    }
}

/// An error with its causes, as one sentence.
pub(crate) fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
