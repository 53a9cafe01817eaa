//! The tokio flavour of the socket: same packets, same errors, every wait an await.

use std::io::ErrorKind;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::packet::{decode, decode_body, encode};
use crate::socket::{
    HELLO_TIMEOUT, Packet, accept, connect, peer_pid, peer_pidfd, recv_bytes, send_bytes,
};
use crate::sys::register;
use crate::{Envelope, Hello, Listener, Received, WireError};

/// Pause before a peer that is busy is tried again: it accepts in less, unless it is stuck.
const BUSY: Duration = Duration::from_millis(20);

/// As [`crate::Socket`], for a tokio runtime with I/O enabled. All methods are cancel safe: a dropped `recv` loses nothing, a dropped
/// `send` has sent all or nothing.
#[derive(Debug)]
pub struct AsyncSocket<S, R> {
    fd: AsyncFd<OwnedFd>,
    types: PhantomData<fn(S) -> R>,
}

impl<S: Envelope, R: Envelope> AsyncSocket<S, R> {
    /// As [`crate::Socket::connect`]; waits up to 5 seconds for a peer that is busy.
    ///
    /// # Errors
    /// As [`crate::Socket::connect`].
    pub async fn connect(path: &Path) -> Result<Self, WireError> {
        let socket = Self::from_fd(connect_soon(path).await?)?;
        socket.greet(HELLO_TIMEOUT).await?;
        Ok(socket)
    }

    /// Takes a connected `SOCK_SEQPACKET` descriptor and makes it non-blocking. No check of the peer.
    ///
    /// # Errors
    /// [`WireError::Io`].
    pub fn from_fd(fd: OwnedFd) -> Result<Self, WireError> {
        rustix::io::ioctl_fionbio(&fd, true).map_err(WireError::io("making non-blocking"))?;
        let fd = register(fd).map_err(|source| WireError::Io { action: "registering", source })?;
        Ok(Self { fd, types: PhantomData })
    }

    /// Pid of the peer when it connected, in our pid namespace; 0 if it is outside of it.
    ///
    /// # Errors
    /// [`WireError::Io`].
    pub fn peer_pid(&self) -> Result<u32, WireError> {
        peer_pid(self.fd.get_ref())
    }

    /// A pidfd of the process that connected.
    ///
    /// # Errors
    /// [`WireError::Closed`]: its end is closed, or it is outside of our pid namespace; [`WireError::Io`].
    pub fn peer_pidfd(&self) -> Result<OwnedFd, WireError> {
        peer_pidfd(self.fd.get_ref())
    }

    /// As [`crate::Socket::greet`].
    ///
    /// # Errors
    /// As [`crate::Socket::greet`].
    pub async fn greet(&self, timeout: Duration) -> Result<(), WireError> {
        self.send_packet(&encode(&Hello::ours())?, &[]).await?;
        let (bytes, _) = within(timeout, self.recv_packet()).await?.ok_or(WireError::Closed)?;
        decode::<Hello>(&bytes)?.check()
    }

    /// As [`crate::Socket::send`].
    ///
    /// # Errors
    /// As [`crate::Socket::send`].
    pub async fn send(
        &self,
        body: impl Into<S::Body>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), WireError> {
        self.send_packet(&encode(&S::wrap(body.into()))?, fds).await
    }

    /// As [`crate::Socket::recv`].
    ///
    /// # Errors
    /// As [`crate::Socket::recv`].
    pub async fn recv(&self) -> Result<Option<Received<R::Body>>, WireError> {
        let Some((bytes, fds)) = self.recv_packet().await? else { return Ok(None) };
        Ok(Some(Received { body: decode_body::<R>(&bytes)?, fds }))
    }

    /// As [`crate::Socket::recv_timeout`].
    ///
    /// # Errors
    /// As [`crate::Socket::recv_timeout`].
    pub async fn recv_timeout(
        &self,
        timeout: Duration,
    ) -> Result<Option<Received<R::Body>>, WireError> {
        within(timeout, self.recv()).await
    }

    async fn send_packet(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), WireError> {
        self.ready(Interest::WRITABLE, |fd| send_bytes(fd, bytes, fds)).await
    }

    async fn recv_packet(&self) -> Result<Packet, WireError> {
        self.ready(Interest::READABLE, recv_bytes).await
    }

    async fn ready<T>(
        &self,
        interest: Interest,
        mut call: impl FnMut(BorrowedFd<'_>) -> Result<T, WireError>,
    ) -> Result<T, WireError> {
        ready(&self.fd, interest, &mut call).await
    }
}

impl<S, R> AsFd for AsyncSocket<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }
}

/// As [`Listener`], for a tokio runtime.
#[derive(Debug)]
pub struct AsyncListener {
    fd: AsyncFd<OwnedFd>,
    /// Removes the path when dropped.
    _listener: Listener,
}

impl AsyncListener {
    /// As [`Listener::bind`].
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub fn bind(path: &Path) -> Result<Self, WireError> {
        let listener = Listener::bind(path)?;
        let io = |action| move |source| WireError::Io { action, source };
        let fd = listener.as_fd().try_clone_to_owned().map_err(io("duplicating"))?;
        rustix::io::ioctl_fionbio(&fd, true).map_err(WireError::io("making non-blocking"))?;
        let fd = register(fd).map_err(io("registering"))?;
        Ok(Self { fd, _listener: listener })
    }

    /// As [`Listener::accept`]: no [`Hello`] yet.
    ///
    /// # Errors
    /// As [`Listener::accept`].
    pub async fn accept<S: Envelope, R: Envelope>(&self) -> Result<AsyncSocket<S, R>, WireError> {
        AsyncSocket::from_fd(ready(&self.fd, Interest::READABLE, &mut accept).await?)
    }
}

/// Many may connect at the same moment, all shims of a node that boots for example: its queue is full for as long as it takes to
/// accept them.
async fn connect_soon(path: &Path) -> Result<OwnedFd, WireError> {
    let until = tokio::time::Instant::now() + HELLO_TIMEOUT;
    loop {
        match connect(path) {
            Err(WireError::Busy { .. }) if tokio::time::Instant::now() < until => {
                tokio::time::sleep(BUSY).await;
            }
            connected => return connected,
        }
    }
}

async fn ready<T>(
    fd: &AsyncFd<OwnedFd>,
    interest: Interest,
    call: &mut impl FnMut(BorrowedFd<'_>) -> Result<T, WireError>,
) -> Result<T, WireError> {
    loop {
        let mut guard = fd
            .ready(interest)
            .await
            .map_err(|source| WireError::Io { action: "waiting", source })?;
        match call(fd.get_ref().as_fd()) {
            Err(WireError::Io { source, .. }) if source.kind() == ErrorKind::WouldBlock => {
                guard.clear_ready();
            }
            result => return result,
        }
    }
}

async fn within<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, WireError>>,
) -> Result<T, WireError> {
    match tokio::time::timeout(timeout, work).await {
        Ok(result) => result,
        Err(_) => Err(WireError::Timeout {
            millis: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        }),
    }
}
