//! What can go wrong between two processes of one node.

use godwit_types::Code;

use crate::{MAX_FDS, MAX_PACKET};

/// A failed send, receive, connect or decode. The connection is of no use afterwards, except after [`WireError::Timeout`].
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// A system call failed.
    #[error("{action} on the operation socket failed")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Nobody listens there: the peer does not run (yet).
    #[error("nobody listens on {path}")]
    NobodyListens {
        /// The socket's path.
        path: String,
    },
    /// Somebody listens there, whose queue of connections is full: it lives, and may accept soon.
    #[error("whoever listens on {path} is busy; try again")]
    Busy {
        /// The socket's path.
        path: String,
    },
    /// The peer is not root.
    #[error("the peer has uid {uid}; only root may speak here")]
    NotRoot {
        /// The peer's uid.
        uid: u32,
    },
    /// The peer speaks another protocol.
    #[error(
        "the peer ({program} {version}) speaks protocol {theirs}, we speak {ours}: upgrade both sides together"
    )]
    Protocol {
        /// The peer's number.
        theirs: u32,
        /// Our number.
        ours: u32,
        /// The peer's program.
        program: String,
        /// The peer's version.
        version: String,
    },
    /// The peer went away without a final message.
    #[error("the peer closed the connection")]
    Closed,
    /// Nothing arrived in time.
    #[error("no answer within {millis} ms")]
    Timeout {
        /// How long was waited.
        millis: u64,
    },
    /// A packet longer than [`MAX_PACKET`].
    #[error("a packet of more than {MAX_PACKET} bytes")]
    TooLong,
    /// More than [`MAX_FDS`] descriptors in a packet.
    #[error("more than {MAX_FDS} file descriptors in one packet")]
    TooManyFds,
    /// Bytes that are no message.
    #[error("a packet that cannot be decoded")]
    Decode(#[source] prost::DecodeError),
    /// A message of a newer protocol, or an empty one.
    #[error("a message of a kind that is not known")]
    UnknownMessage,
    /// A message that is not allowed here.
    #[error("unexpected {got} while waiting for {wanted}")]
    Unexpected {
        /// The kind that arrived.
        got: String,
        /// The kind that was expected.
        wanted: &'static str,
    },
    /// Fewer or more descriptors than the message's contract says.
    #[error("{message} came with {got} file descriptors, {wanted} expected")]
    WrongFds {
        /// The message.
        message: &'static str,
        /// How many came.
        got: usize,
        /// How many its contract says.
        wanted: usize,
    },
    /// A field that is not what it should be.
    #[error("the field {field} holds {value:?}, which is not valid")]
    Field {
        /// The field's name.
        field: &'static str,
        /// What it holds.
        value: String,
    },
}

impl WireError {
    pub(crate) fn io(action: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::Io { action, source: errno.into() }
    }

    /// What it means to the caller.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NobodyListens { .. }
            | Self::Busy { .. }
            | Self::Closed
            | Self::Timeout { .. } => Code::Unavailable,
            Self::NotRoot { .. } | Self::Protocol { .. } => Code::Refused,
            Self::Io { .. } | Self::Unexpected { .. } => Code::Internal,
            Self::TooLong
            | Self::TooManyFds
            | Self::Decode(_)
            | Self::UnknownMessage
            | Self::WrongFds { .. }
            | Self::Field { .. } => Code::Corrupt,
        }
    }
}
