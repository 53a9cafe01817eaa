//! The blocking socket and its listener. For the relay, the pager and tests; agent and shim use the tokio flavour over the same calls.

use std::io::{IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::packet::{decode, decode_body, encode};
use crate::{Envelope, Hello, MAX_FDS, MAX_PACKET, Received, WireError};

const CLOEXEC: SocketFlags = SocketFlags::CLOEXEC;

/// One end of a connection that sends `S` and receives `R`.
///
/// Dropping it closes the connection. Methods take `&self`: one thread may send while another receives.
#[derive(Debug)]
pub struct Socket<S, R> {
    fd: OwnedFd,
    types: PhantomData<fn(S) -> R>,
}

impl<S: Envelope, R: Envelope> Socket<S, R> {
    /// Connects, checks that the peer is root, says [`Hello`] and waits up to 5 seconds for the peer's.
    ///
    /// # Errors
    /// [`WireError::NobodyListens`] if there is no socket or nobody behind it, [`WireError::Busy`] if too many wait there already;
    /// [`WireError::NotRoot`], [`WireError::Protocol`], [`WireError::Io`].
    pub fn connect(path: &Path) -> Result<Self, WireError> {
        let socket = Self::connect_silently(path)?;
        socket.greet(HELLO_TIMEOUT)?;
        Ok(socket)
    }

    /// Connects and checks the peer, without [`Hello`]: for [`crate::relay::RelayRequest`].
    ///
    /// # Errors
    /// As [`Socket::connect`].
    pub fn connect_silently(path: &Path) -> Result<Self, WireError> {
        let fd = connect(path)?;
        rustix::io::ioctl_fionbio(&fd, false).map_err(WireError::io("making blocking"))?;
        Ok(Self::from_fd(fd))
    }

    /// Takes a connected `SOCK_SEQPACKET` descriptor. No check of the peer.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd, types: PhantomData }
    }

    /// Gives the descriptor back.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Two connected ends, without [`Hello`].
    ///
    /// # Errors
    /// [`WireError::Io`].
    pub fn pair() -> Result<(Self, Socket<R, S>), WireError> {
        let (a, b) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, CLOEXEC, None)
                .map_err(WireError::io("socketpair"))?;
        Ok((Self::from_fd(a), Socket::from_fd(b)))
    }

    /// Pid of the peer when it connected (or made the pair), in our pid namespace; 0 if it is outside of it.
    ///
    /// # Errors
    /// [`WireError::Io`].
    pub fn peer_pid(&self) -> Result<u32, WireError> {
        peer_pid(&self.fd)
    }

    /// Says [`Hello`] and checks the peer's.
    ///
    /// # Errors
    /// [`WireError::Protocol`], [`WireError::Timeout`], [`WireError::Closed`].
    pub fn greet(&self, timeout: Duration) -> Result<(), WireError> {
        send_bytes(self.fd.as_fd(), &encode(&Hello::ours())?, &[])?;
        wait_readable(&self.fd, timeout)?;
        let (bytes, _) = recv_bytes(self.fd.as_fd())?.ok_or(WireError::Closed)?;
        decode::<Hello>(&bytes)?.check()
    }

    /// Sends one message with descriptors; blocks while the peer's queue is full.
    ///
    /// # Errors
    /// [`WireError::TooLong`], [`WireError::TooManyFds`] (nothing was sent), [`WireError::Closed`], [`WireError::Io`].
    pub fn send(&self, body: impl Into<S::Body>, fds: &[BorrowedFd<'_>]) -> Result<(), WireError> {
        send_bytes(self.fd.as_fd(), &encode(&S::wrap(body.into()))?, fds)
    }

    /// Waits for the next message; `None` when the peer has closed.
    ///
    /// # Errors
    /// [`WireError::Decode`], [`WireError::UnknownMessage`], [`WireError::TooLong`], [`WireError::TooManyFds`], [`WireError::Io`].
    pub fn recv(&self) -> Result<Option<Received<R::Body>>, WireError> {
        let Some((bytes, fds)) = recv_bytes(self.fd.as_fd())? else { return Ok(None) };
        Ok(Some(Received { body: decode_body::<R>(&bytes)?, fds }))
    }

    /// As [`Socket::recv`] with a limit.
    ///
    /// # Errors
    /// As [`Socket::recv`], and [`WireError::Timeout`]; the connection is still of use after that one.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Option<Received<R::Body>>, WireError> {
        wait_readable(&self.fd, timeout)?;
        self.recv()
    }
}

impl<S, R> AsFd for Socket<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// How long a peer may take for its [`Hello`].
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// How many peers wait to be accepted before others are told that it is busy.
const QUEUE: i32 = 16;

/// A listening socket. The path is removed when it is dropped.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    path: std::path::PathBuf,
}

impl Listener {
    /// Binds `path` (mode 0600) in its directory (made with mode 0700 if absent). A socket that a dead process left there is
    /// replaced; one on which somebody listens is not.
    ///
    /// # Errors
    /// [`WireError::Io`]; `EADDRINUSE` if somebody listens there.
    pub fn bind(path: &Path) -> Result<Self, WireError> {
        let io = |action| move |source| WireError::Io { action, source };
        if let Some(directory) = path.parent() {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(io("making the directory"))?;
        }
        let fd =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, CLOEXEC, None)
                .map_err(WireError::io("socket"))?;
        let address = SocketAddrUnix::new(path).map_err(WireError::io("naming"))?;
        if let Err(errno) = rustix::net::bind(&fd, &address) {
            if errno != Errno::ADDRINUSE || answers(&address) {
                return Err(WireError::io("bind")(errno));
            }
            std::fs::remove_file(path).map_err(io("removing a stale socket"))?;
            rustix::net::bind(&fd, &address).map_err(WireError::io("bind"))?;
        }
        // Between bind and chmod the directory's mode protects it, and nobody can connect before listen.
        rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(0o600))
            .map_err(WireError::io("chmod"))?;
        rustix::net::listen(&fd, QUEUE).map_err(WireError::io("listen"))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Waits for a peer and checks that it is root. No [`Hello`] yet: see [`Socket::greet`].
    ///
    /// # Errors
    /// [`WireError::NotRoot`] (listen on: only this peer was refused), [`WireError::Io`].
    pub fn accept<S: Envelope, R: Envelope>(&self) -> Result<Socket<S, R>, WireError> {
        accept(self.fd.as_fd()).map(Socket::from_fd)
    }

    /// As [`Listener::accept`] with a limit.
    ///
    /// # Errors
    /// As [`Listener::accept`], and [`WireError::Timeout`].
    pub fn accept_timeout<S: Envelope, R: Envelope>(
        &self,
        timeout: Duration,
    ) -> Result<Socket<S, R>, WireError> {
        wait_readable(&self.fd, timeout)?;
        self.accept()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Best effort: a stale socket is replaced by the next bind.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether somebody may listen on this path: everything but a refusal counts. Never waits.
#[must_use]
pub fn is_served(path: &Path) -> bool {
    SocketAddrUnix::new(path).is_ok_and(|address| answers(&address))
}

fn answers(address: &SocketAddrUnix) -> bool {
    !matches!(connect_at_once(address), Err(Errno::CONNREFUSED))
}

/// Connects and checks that the peer is root; the descriptor does not block.
pub(crate) fn connect(path: &Path) -> Result<OwnedFd, WireError> {
    let address = SocketAddrUnix::new(path).map_err(WireError::io("naming"))?;
    let fd = connect_at_once(&address).map_err(|errno| {
        let path = path.display().to_string();
        match errno {
            Errno::NOENT | Errno::CONNREFUSED => WireError::NobodyListens { path },
            Errno::AGAIN => WireError::Busy { path },
            other => WireError::io("connect")(other),
        }
    })?;
    require_root(&fd)?;
    Ok(fd)
}

/// `EAGAIN` for a listener whose queue is full. To wait for room there would be to wait for its accept, perhaps for ever.
fn connect_at_once(address: &SocketAddrUnix) -> Result<OwnedFd, Errno> {
    let flags = CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::connect(&fd, address)?;
    Ok(fd)
}

pub(crate) fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd, WireError> {
    let fd =
        retry(|| rustix::net::accept_with(listener, CLOEXEC)).map_err(WireError::io("accept"))?;
    require_root(&fd)?;
    Ok(fd)
}

pub(crate) fn require_root(fd: impl AsFd) -> Result<(), WireError> {
    let uid = peer(fd)?.uid();
    if uid == 0 { Ok(()) } else { Err(WireError::NotRoot { uid }) }
}

pub(crate) fn peer_pid(fd: impl AsFd) -> Result<u32, WireError> {
    Ok(u32::try_from(peer(fd)?.pid()).unwrap_or(0))
}

/// The process that connected, as long as its end is open: then the pid is still its own.
#[cfg(feature = "tokio")]
pub(crate) fn peer_pidfd(fd: impl AsFd) -> Result<OwnedFd, WireError> {
    let pid = i32::try_from(peer_pid(&fd)?).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or(WireError::Closed)?;
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        .map_err(WireError::io("pidfd_open"))?;
    let mut end = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::empty())];
    let ended = retry(|| rustix::event::poll(&mut end, Some(&rustix::time::Timespec::default())))
        .map_err(WireError::io("poll"))?;
    if ended == 0 { Ok(pidfd) } else { Err(WireError::Closed) }
}

/// By nix: rustix cannot say "outside of our pid namespace", which is pid 0.
fn peer(fd: impl AsFd) -> Result<nix::sys::socket::UnixCredentials, WireError> {
    nix::sys::socket::getsockopt(&fd, nix::sys::socket::sockopt::PeerCredentials)
        .map_err(|errno| WireError::Io { action: "SO_PEERCRED", source: errno.into() })
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Sends one packet. `WouldBlock` comes back as [`WireError::Io`] on a non-blocking socket.
pub(crate) fn send_bytes(
    fd: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Result<(), WireError> {
    if fds.len() > MAX_FDS {
        return Err(WireError::TooManyFds);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(WireError::TooManyFds);
    }
    let flags = SendFlags::NOSIGNAL;
    retry(|| rustix::net::sendmsg(fd, &[IoSlice::new(bytes)], &mut control, flags))
        .map(|_| ())
        .map_err(|errno| match errno {
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => WireError::Closed,
            other => WireError::io("sendmsg")(other),
        })
}

/// A packet and its descriptors; `None` at the end of the connection.
pub(crate) type Packet = Option<(Vec<u8>, Vec<OwnedFd>)>;

/// Receives one packet; `None` at the end of the connection. An empty packet reads as the end: we never send one.
pub(crate) fn recv_bytes(fd: BorrowedFd<'_>) -> Result<Packet, WireError> {
    let mut bytes = vec![0; MAX_PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let result =
        retry(|| rustix::net::recvmsg(fd, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags));
    let message = match result {
        Ok(message) => message,
        Err(Errno::CONNRESET) => return Ok(None),
        Err(errno) => return Err(WireError::io("recvmsg")(errno)),
    };
    let mut fds = Vec::new();
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = ancillary {
            fds.extend(received);
        }
    }
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(WireError::TooManyFds);
    }
    if message.flags.contains(ReturnFlags::TRUNC) {
        return Err(WireError::TooLong);
    }
    if message.bytes == 0 {
        return Ok(None);
    }
    bytes.truncate(message.bytes);
    Ok(Some((bytes, fds)))
}

/// Waits until the descriptor is readable (or closed by the peer).
pub(crate) fn wait_readable(fd: &impl AsFd, timeout: Duration) -> Result<(), WireError> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = Timespec::try_from(left).ok();
        let mut fds = [PollFd::new(fd, PollFlags::IN)];
        match poll(&mut fds, wait.as_ref()) {
            Ok(0) => {
                let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                return Err(WireError::Timeout { millis });
            }
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(WireError::io("poll")(errno)),
        }
    }
}
