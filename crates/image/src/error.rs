//! What can be wrong with bytes that claim to be part of a checkpoint.

use godwit_types::Code;

/// Why an object could not be encoded or decoded. Nothing here is retried: the bytes are what they are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The first bytes are not those of this kind of object.
    #[error("this is not a {what}: its first bytes are wrong")]
    Magic {
        /// The kind of object that was expected.
        what: &'static str,
    },
    /// Written by a newer Godwit, or by one too old to be read.
    #[error("{what} has format version {found}; this Godwit reads {oldest} to {newest}")]
    Version {
        /// The kind of object.
        what: &'static str,
        /// The version it carries.
        found: u16,
        /// The oldest version that is read.
        oldest: u16,
        /// The newest version that is read.
        newest: u16,
    },
    /// It ends too early.
    #[error("{what} ends after {have} bytes, at least {need} are needed")]
    Truncated {
        /// The kind of object.
        what: &'static str,
        /// Bytes that are needed.
        need: u64,
        /// Bytes that are there.
        have: u64,
    },
    /// A length or number is above what the format allows. Found before anything was allocated for it.
    #[error("{what}: {size} is more than the limit of {limit}")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// The number that was found.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// Its checksum or digest differs from the one it should have.
    #[error("{what} is damaged: its digest does not match")]
    Digest {
        /// The kind of object.
        what: &'static str,
    },
    /// It contradicts itself.
    #[error("{what} is not valid: {why}")]
    Invalid {
        /// The kind of object.
        what: &'static str,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// It is encrypted and this version cannot decrypt it.
    #[error(
        "{what} is encrypted (scheme {scheme}, key {key}); this version reads plain checkpoints only"
    )]
    Encrypted {
        /// The kind of object.
        what: &'static str,
        /// Number of the scheme.
        scheme: u8,
        /// Id of the data key.
        key: u32,
    },
    /// A page map, index or table names a pack or frame that the pack table does not have.
    #[error("frame {frame} of pack slot {pack} is not in the pack table")]
    UnknownFrame {
        /// The slot.
        pack: u32,
        /// Number of the frame within the pack.
        frame: u32,
    },
    /// The compressor failed, which it does on no valid input.
    #[error("compressing {what} failed")]
    Compressor {
        /// What was compressed.
        what: &'static str,
    },
    /// The manifest is not JSON, or a field has the wrong type.
    #[error("the manifest cannot be read: {why}")]
    Json {
        /// The parser's words.
        why: String,
    },
}

impl ImageError {
    /// What the failure means to the caller.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Magic { .. }
            | Self::Truncated { .. }
            | Self::Limit { .. }
            | Self::Digest { .. }
            | Self::Invalid { .. }
            | Self::UnknownFrame { .. }
            | Self::Json { .. } => Code::Corrupt,
            Self::Version { .. } | Self::Encrypted { .. } => Code::Refused,
            Self::Compressor { .. } => Code::Internal,
        }
    }
}
