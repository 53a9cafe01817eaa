//! Pseudo terminals: runc makes them and sends the master over a socket.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use godwit_types::names::RUN_DIR;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};

use crate::error::{Error, Result};

/// How long the terminal may take to arrive once runc has succeeded.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(30);

/// Numbers the sockets of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A socket on which runc sends the master of a terminal; its file is removed on drop. It is not in the bundle because
/// the path of a socket is limited to 107 bytes.
#[derive(Debug)]
pub struct ConsoleSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl ConsoleSocket {
    /// Binds a new one.
    ///
    /// # Errors
    /// The run directory cannot be written.
    pub fn new() -> Result<Self> {
        let attempt = || Error::io(format!("make a console socket in {RUN_DIR}"));
        std::fs::create_dir_all(RUN_DIR).map_err(attempt())?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(RUN_DIR).join(format!("pty-{}-{number}.sock", std::process::id()));
        // A file of an earlier process of the same number.
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(attempt())?;
        Ok(Self { path, listener })
    }

    /// For `--console-socket`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the master that runc has sent.
    ///
    /// # Errors
    /// Nothing came, or something else.
    pub async fn receive(&self) -> Result<OwnedFd> {
        let receiving = async {
            let (stream, _) = self.listener.accept().await?;
            stream.async_io(Interest::READABLE, || take_fd(&stream)).await
        };
        match tokio::time::timeout(RECEIVE_TIMEOUT, receiving).await {
            Ok(received) => received.map_err(Error::io("take the terminal from runc")),
            Err(_) => Err(Error::Cancelled("runc did not send a terminal within 30 s".into())),
        }
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Changes the size of the terminal behind `master`.
///
/// # Errors
/// It is no terminal.
pub fn resize(master: &impl AsFd, columns: u16, rows: u16) -> Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).map_err(Error::io("resize the terminal"))
}

fn take_fd(stream: &UnixStream) -> std::io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 4096];
    let mut parts = [IoSliceMut::new(&mut name)];
    let received = recvmsg(stream, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    match fds.pop() {
        Some(fd) if fds.is_empty() && !received.flags.contains(ReturnFlags::CTRUNC) => Ok(fd),
        _ => Err(std::io::Error::other("the message does not carry exactly one descriptor")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    use super::*;

    #[tokio::test]
    async fn the_descriptor_that_runc_sends_is_taken_and_the_socket_goes_with_it() {
        let socket = ConsoleSocket::new().unwrap();
        let path = socket.path().to_owned();
        let sending = path.clone();
        let runc = tokio::task::spawn_blocking(move || {
            let stream = std::os::unix::net::UnixStream::connect(sending).unwrap();
            let file = std::fs::File::open("/dev/null").unwrap();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let fds = [file.as_fd()];
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
            sendmsg(&stream, &[IoSlice::new(b"/dev/ptmx")], &mut ancillary, SendFlags::empty())
                .unwrap();
        });
        let fd = socket.receive().await.unwrap();
        runc.await.unwrap();
        assert!(rustix::fs::fstat(&fd).is_ok());
        drop(socket);
        assert!(!path.exists());
    }
}
