//! What can go wrong before and while the proxy serves. What goes wrong with a call is that call's [`crate::status::Status`].

use std::path::PathBuf;

use godwit_types::Code;

/// The proxy cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Neither systemd nor the command line gave a socket.
    #[error(
        "there is no socket to serve: start godwit-cri-proxy.socket (systemctl start godwit-cri-proxy.socket), or say --listen PATH"
    )]
    NoSocket,
    /// What was inherited cannot be used.
    #[error(
        "the inherited descriptor is no listening Unix socket: see ListenStream= in godwit-cri-proxy.socket"
    )]
    Inherited(#[source] std::io::Error),
    /// Somebody serves there.
    #[error("another process serves {}: stop it first, or send it SIGHUP to have it replaced", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket is there.
    #[error("{} is there and no socket: say another path, or remove it", path.display())]
    NoSocketFile {
        /// What is there.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot listen on {}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Signals cannot be waited for.
    #[error("cannot wait for signals")]
    Signals(#[source] std::io::Error),
    /// The new process did not begin to serve; this one goes on.
    #[error("{} did not take over: {reason}", program.display())]
    Successor {
        /// What was started.
        program: PathBuf,
        /// What was seen.
        reason: String,
    },
}

impl ProxyError {
    /// What it means to the caller.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NoSocket | Self::InUse { .. } | Self::NoSocketFile { .. } => Code::Precondition,
            Self::Inherited(_) => Code::Refused,
            Self::Listen { .. } | Self::Signals(_) => Code::Internal,
            Self::Successor { .. } => Code::Unavailable,
        }
    }
}
