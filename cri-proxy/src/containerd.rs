//! Connections to containerd, and its absence.
//!
//! Each client's connection has one to containerd of its own ([`Link`]): a client's windows, its limit of calls and its end concern
//! nobody else. It is made with the first call, and anew whenever it is found gone.
//!
//! When containerd goes away (it restarts), calls wait for it for [`ABSENCE`] from the moment it was missed; after that they fail at
//! once, with a sentence, and each still tries. A call that was sent is never sent again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use h2::client::{Builder, SendRequest};
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::limits::{
    ABSENCE, ATTEMPTS, CONNECTION_WINDOW, LOOK, MAX_HEADERS, MAX_RESETS, SEND_BUFFER, SMALL_FRAMES,
    STREAM_WINDOW,
};
use crate::status::{GrpcCode, Status};

/// containerd does not answer.
#[derive(Debug, Clone)]
pub(crate) struct Away {
    socket: Arc<Path>,
    reason: Arc<str>,
}

impl Away {
    /// How a call ends by it.
    pub(crate) fn status(&self) -> Status {
        let socket = self.socket.display();
        Status::new(
            GrpcCode::Unavailable,
            format!(
                "containerd does not answer on {socket} ({}): see systemctl status containerd",
                self.reason
            ),
        )
    }
}

/// containerd's socket, and since when nobody has answered there.
#[derive(Debug)]
pub(crate) struct Containerd {
    socket: Arc<Path>,
    missed: Mutex<Option<Instant>>,
}

impl Containerd {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket: Arc::from(socket), missed: Mutex::default() }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Connects, waiting for containerd for as long as it has not been away for long.
    async fn connect(&self) -> Result<SendRequest<Bytes>, Away> {
        loop {
            let error = match self.try_connect().await {
                Ok(connected) => {
                    self.found();
                    return Ok(connected);
                }
                Err(error) => error,
            };
            if self.missed_for(&error) >= ABSENCE {
                let reason = error.to_string().into();
                return Err(Away { socket: Arc::clone(&self.socket), reason });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn try_connect(&self) -> std::io::Result<SendRequest<Bytes>> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (sender, connection) =
            builder().handshake(stream).await.map_err(std::io::Error::other)?;
        // Ends by itself when its last call and its link are gone.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %error, "a connection to containerd ended");
            }
        });
        Ok(sender)
    }

    fn missed_for(&self, error: &std::io::Error) -> Duration {
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        let since = missed.get_or_insert_with(|| {
            tracing::warn!(error = %error, socket = %self.socket.display(), "containerd is away");
            Instant::now()
        });
        since.elapsed()
    }

    fn found(&self) {
        let missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(since) = missed {
            tracing::info!(after = ?since.elapsed(), "containerd is back");
        }
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .data_frame_budget(SMALL_FRAMES)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEADERS)
        .max_concurrent_reset_streams(MAX_RESETS)
        .enable_push(false);
    builder
}

type Connecting = Shared<BoxFuture<'static, Result<SendRequest<Bytes>, Away>>>;

/// One client's connection to containerd.
pub(crate) struct Link {
    containerd: Arc<Containerd>,
    /// The connection that there is or will be, with its number.
    current: Mutex<(u64, Option<Connecting>)>,
}

impl Link {
    pub(crate) fn new(containerd: Arc<Containerd>) -> Self {
        Self { containerd, current: Mutex::default() }
    }

    pub(crate) fn containerd(&self) -> &Containerd {
        &self.containerd
    }

    /// A connection that takes a call.
    ///
    /// # Errors
    /// containerd is away, for longer than a restart takes.
    pub(crate) async fn ready(&self) -> Result<SendRequest<Bytes>, Away> {
        let mut reason = String::new();
        for _ in 0..ATTEMPTS {
            let (number, connecting) = self.connecting();
            let sender = match connecting.await {
                Ok(sender) => sender,
                Err(away) => {
                    self.forget(number);
                    return Err(away);
                }
            };
            match sender.ready().await {
                Ok(sender) => return Ok(sender),
                Err(error) => {
                    self.forget(number);
                    reason = error.to_string();
                }
            }
        }
        Err(Away { socket: Arc::clone(&self.containerd.socket), reason: reason.into() })
    }

    fn connecting(&self) -> (u64, Connecting) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, connecting) = &mut *current;
        let connecting = connecting.get_or_insert_with(|| {
            let containerd = Arc::clone(&self.containerd);
            async move { containerd.connect().await }.boxed().shared()
        });
        (*number, connecting.clone())
    }

    /// Lets a connection go that is no good any more, unless somebody else did.
    fn forget(&self, number: u64) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 == number {
            *current = (number + 1, None);
        }
    }
}
