//! One packet: bounds, encode, decode. No sockets.

use std::os::fd::OwnedFd;

use prost::Message;

use crate::WireError;

/// Longest packet in bytes.
pub const MAX_PACKET: usize = 64 << 10;
/// Most descriptors in one packet (the kernel's SCM_MAX_FD is 253).
pub const MAX_FDS: usize = 128;

/// A message of one direction: a prost message around the body that people work with.
pub trait Envelope: Message + Default + Sized {
    /// What is sent and received; an enum of all messages of the direction, or the message itself.
    type Body;

    /// Puts a body into its envelope.
    fn wrap(body: Self::Body) -> Self;

    /// Takes the body out; `None` for a message that this version does not know.
    fn open(self) -> Option<Self::Body>;

    /// The kind of a body, for messages to people.
    fn kind(body: &Self::Body) -> &'static str;
}

/// A message that has arrived.
#[derive(Debug)]
pub struct Received<B> {
    /// The message.
    pub body: B,
    /// The descriptors that came with it, in the order of the message's contract; all close-on-exec.
    pub fds: Vec<OwnedFd>,
}

impl<B> Received<B> {
    /// The message, if it came without descriptors.
    ///
    /// # Errors
    /// [`WireError::WrongFds`].
    pub fn without_fds(self, message: &'static str) -> Result<B, WireError> {
        let (body, []) = self.with_fds::<0>(message)?;
        Ok(body)
    }

    /// The descriptors as an array of the number that the message's contract says, and the message.
    ///
    /// # Errors
    /// [`WireError::WrongFds`] if more or fewer came; all are closed then.
    pub fn with_fds<const N: usize>(
        self,
        message: &'static str,
    ) -> Result<(B, [OwnedFd; N]), WireError> {
        let got = self.fds.len();
        match <[OwnedFd; N]>::try_from(self.fds) {
            Ok(fds) => Ok((self.body, fds)),
            Err(_) => Err(WireError::WrongFds { message, got, wanted: N }),
        }
    }
}

/// The bytes of a packet.
///
/// # Errors
/// [`WireError::TooLong`] beyond [`MAX_PACKET`].
pub(crate) fn encode<M: Message>(message: &M) -> Result<Vec<u8>, WireError> {
    if message.encoded_len() > MAX_PACKET {
        return Err(WireError::TooLong);
    }
    Ok(message.encode_to_vec())
}

/// The message of a packet. What it allocates is bounded by the packet's own length times the size of its smallest element.
///
/// # Errors
/// [`WireError::TooLong`], [`WireError::Decode`].
pub(crate) fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, WireError> {
    if bytes.len() > MAX_PACKET {
        return Err(WireError::TooLong);
    }
    M::decode(bytes).map_err(WireError::Decode)
}

/// The body of a packet.
///
/// # Errors
/// As [`decode`], and [`WireError::UnknownMessage`].
pub(crate) fn decode_body<M: Envelope>(bytes: &[u8]) -> Result<M::Body, WireError> {
    decode::<M>(bytes)?.open().ok_or(WireError::UnknownMessage)
}

/// Implements [`Envelope`] for a struct whose only field is the oneof `body`, and `From` for each of its messages.
macro_rules! envelope {
    ($envelope:ident, $body:ident { $($variant:ident),+ $(,)? }) => {
        impl $crate::Envelope for $envelope {
            type Body = $body;
            fn wrap(body: $body) -> Self {
                Self { body: Some(body) }
            }
            fn open(self) -> Option<$body> {
                self.body
            }
            fn kind(body: &$body) -> &'static str {
                body.kind()
            }
        }

        impl $body {
            /// The name of the message, for messages to people.
            #[must_use]
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => stringify!($variant),)+
                }
            }

            /// The error for this message where another one was expected.
            #[must_use]
            pub fn unexpected(&self, wanted: &'static str) -> $crate::WireError {
                $crate::WireError::Unexpected { got: self.kind().to_owned(), wanted }
            }

            /// Names of all messages of this direction, for tests that walk every one of them.
            pub const KINDS: &'static [&'static str] = &[$(stringify!($variant)),+];
        }

        $(impl From<$variant> for $body {
            fn from(message: $variant) -> Self {
                Self::$variant(message)
            }
        })+
    };
}
pub(crate) use envelope;
