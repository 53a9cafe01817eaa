//! Why a writable layer could not be captured or applied.

use std::path::{Path, PathBuf};

use godwit_image::{ImageError, SinkError, WriteError};
use godwit_types::Code;
use rustix::io::Errno;

/// See the module. A failed capture leaves the layer as it was. A failed [`crate::apply`] leaves a part of the files in the
/// root file system, which must then be thrown away.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The operating system refused something.
    #[error("cannot {attempt} {path:?}")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// Where, from the root of the layer on.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The root file system has no writable layer that can be read.
    #[error("{0}")]
    NotOverlay(String),
    /// Something in the layer that would not be the same after a restore.
    #[error("{path:?} cannot be captured: {why}")]
    Unsupported {
        /// Which.
        path: PathBuf,
        /// Why, and what to do.
        why: &'static str,
    },
    /// More than the format allows.
    #[error("the writable layer has more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// Somebody wrote to the layer although its container is frozen.
    #[error(
        "{path:?} changed although the container is frozen: something outside of it writes there"
    )]
    Changed {
        /// Which file.
        path: PathBuf,
    },
    /// Packs cannot be written.
    #[error("contents of files cannot be stored")]
    Store(#[from] WriteError),
    /// The encoder failed.
    #[error("contents of files cannot be encoded")]
    Image(#[from] ImageError),
    /// Frames cannot be read.
    #[error("contents of files cannot be read")]
    Frames(#[from] SinkError),
    /// An index that does not fit its checkpoint.
    #[error("the index of files is not valid: {why}")]
    Invalid {
        /// The rule that it breaks.
        why: &'static str,
    },
    /// An index that is damaged or of a version that is not read.
    #[error("the index of files cannot be used")]
    Index(#[source] ImageError),
    /// A device node that the new container may not make.
    #[error(
        "{path:?} is a device node ({major}:{minor}) that the new container could not make itself: give it CAP_MKNOD, or delete the node"
    )]
    Device {
        /// Where.
        path: PathBuf,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// It does not fit.
    #[error(
        "the files need {need} bytes and {inodes} inodes; the file system of the container has {free} bytes and {free_inodes} inodes free"
    )]
    NoRoom {
        /// Bytes of contents.
        need: u64,
        /// Files and directories.
        inodes: u64,
        /// Bytes that are free.
        free: u64,
        /// Inodes that are free.
        free_inodes: u64,
    },
    /// An upper directory that must be empty is not.
    #[error("{path:?} is not empty: files can only be applied to a new layer")]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// What is mounted in a directory of the pod is not the pod's.
    #[error(
        "something is mounted on {path:?}, in a directory whose contents are to be put back: unmount it, or start the pod anew"
    )]
    Mounted {
        /// Where.
        path: PathBuf,
    },
    /// Somebody asked to stop.
    #[error("the work on files was cancelled")]
    Cancelled,
}

impl FilesError {
    /// What the failure means to the caller.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Io { source, .. } => of_errno(source),
            Self::NotOverlay(_)
            | Self::Unsupported { .. }
            | Self::TooMany { .. }
            | Self::Device { .. }
            | Self::Mounted { .. }
            | Self::NoRoom { .. } => Code::Refused,
            Self::Changed { .. } | Self::NotEmpty { .. } => Code::Precondition,
            Self::Store(e) => e.code(),
            Self::Image(e) | Self::Index(e) => e.code(),
            Self::Frames(e) => e.code(),
            Self::Invalid { .. } => Code::Corrupt,
            Self::Cancelled => Code::Cancelled,
        }
    }

    pub(crate) fn io(attempt: &'static str, path: &Path, source: Errno) -> Self {
        Self::Io { attempt, path: path.to_owned(), source: source.into() }
    }
}

/// A full or read-only file system is for a person to mend; the rest is not understood.
fn of_errno(error: &std::io::Error) -> Code {
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::FBIG | Errno::OPNOTSUPP) => {
            Code::Refused
        }
        Some(Errno::IO) => Code::Corrupt,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => Code::Unavailable,
        _ => Code::Internal,
    }
}

/// Shorter ways to say what was attempted where.
pub(crate) trait At<T> {
    /// Adds them to an error of the operating system.
    fn at(self, attempt: &'static str, path: &Path) -> Result<T, FilesError>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, attempt: &'static str, path: &Path) -> Result<T, FilesError> {
        self.map_err(|e| FilesError::io(attempt, path, e))
    }
}
