//! The socket on which CRIU hands over each task's userfaultfd (`lazy-pages.socket` in its work directory).
//!
//! Protocol (CRIU 4.x, `uffd.c`): one stream connection; for each task an `i32` with its pid inside the pid namespace, followed,
//! unless it is negative (a zombie), by one byte that carries the descriptor. The number [`FINISHED`] in place of a pid ends it.
//! An end without that number means that the restore failed.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use godwit_wire::Watched;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use tokio::io::Interest;

use crate::error::{Error, Result};

/// The name that CRIU connects to, relative to its work directory.
pub const SOCKET: &str = "lazy-pages.socket";
/// "RESTORE_FINISHED": no task follows.
const FINISHED: u32 = 0x5253_5446;
/// Most tasks of one restore; beyond it the peer is not a CRIU.
const MAX_TASKS: usize = 1 << 16;

/// The bound socket, before CRIU connects.
#[derive(Debug)]
pub struct LazySocket {
    listener: Watched,
    path: PathBuf,
}

/// CRIU's connection.
#[derive(Debug)]
pub struct LazyStream {
    stream: Watched,
    seen: usize,
    /// Bytes of the next number that have come.
    bytes: [u8; 4],
    have: usize,
    /// A task whose descriptor has not come yet.
    awaited: Option<i32>,
}

/// What CRIU says on it.
#[derive(Debug)]
pub enum Said {
    /// A task and its userfaultfd.
    Task {
        /// Its pid inside the pid namespace.
        vpid: i32,
        /// Its userfaultfd.
        uffd: OwnedFd,
    },
    /// All tasks are beyond their restore.
    Finished,
}

impl LazySocket {
    /// Binds the socket in CRIU's work directory.
    ///
    /// # Errors
    /// The directory is not there, or its path is too long for a socket.
    pub fn bind(work: &Path) -> Result<Self> {
        let path = work.join(SOCKET);
        let attempt = || format!("bind {}", path.display());
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let bound = || -> io::Result<OwnedFd> {
            let fd =
                rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            rustix::net::bind(&fd, &SocketAddrUnix::new(&path)?)?;
            rustix::net::listen(&fd, 1)?;
            Ok(fd)
        };
        let listener = bound().and_then(Watched::new).map_err(Error::io(attempt()))?;
        Ok(Self { listener, path })
    }

    /// Waits for CRIU.
    ///
    /// # Errors
    /// As the system call.
    pub async fn accept(&self) -> Result<LazyStream> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accept = |fd: BorrowedFd<'_>| Ok(rustix::net::accept_with(fd, flags)?);
        let fd = self.listener.ready(Interest::READABLE, accept).await;
        let stream = fd.and_then(Watched::new).map_err(Error::io("accept CRIU's page faults"))?;
        Ok(LazyStream { stream, seen: 0, bytes: [0; 4], have: 0, awaited: None })
    }
}

impl Drop for LazySocket {
    fn drop(&mut self) {
        // Its directory is removed with the attempt anyway.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl LazyStream {
    /// The next task. Zombies are left out. Cancel safe.
    ///
    /// # Errors
    /// CRIU closed it before the end, or sent something else: the restore has failed.
    pub async fn next(&mut self) -> Result<Said> {
        loop {
            if let Some(vpid) = self.awaited {
                let received = self.stream.ready(Interest::READABLE, receive).await;
                self.awaited = None;
                let uffd = received.map_err(Error::io("receive a userfaultfd"))?;
                return Ok(Said::Task { vpid, uffd });
            }
            let number = self.number().await.map_err(broken)?;
            self.seen += 1;
            if number.cast_unsigned() == FINISHED {
                return Ok(Said::Finished);
            }
            if self.seen > MAX_TASKS {
                return Err(Error::Refused("CRIU announces too many tasks".into()));
            }
            self.awaited = Some(number).filter(|vpid| *vpid >= 0);
        }
    }

    /// Whether something of CRIU is there to be read now.
    #[must_use]
    pub fn has_more(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0)
    }

    async fn number(&mut self) -> io::Result<i32> {
        while self.have < self.bytes.len() {
            let rest = self.bytes.get_mut(self.have..).unwrap_or_default();
            let read = |fd: BorrowedFd<'_>| Ok(rustix::io::read(fd, &mut *rest)?);
            self.have += match self.stream.ready(Interest::READABLE, read).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => read,
            };
        }
        self.have = 0;
        Ok(i32::from_le_bytes(self.bytes))
    }
}

/// CRIU's own words say more; see `attempt`.
fn broken(why: io::Error) -> Error {
    Error::Runtime { verb: "restore", said: format!("CRIU closed its page fault socket: {why}") }
}

impl AsFd for LazyStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// One byte and the one descriptor that comes with it.
fn receive(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut byte = [0; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = rustix::net::recvmsg(fd, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    match descriptor {
        Some(descriptor) if got.bytes == 1 => Ok(descriptor),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "no descriptor came with the task")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

    use super::*;

    fn criu(work: &Path) -> OwnedFd {
        let fd = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::connect(&fd, &SocketAddrUnix::new(work.join(SOCKET)).unwrap()).unwrap();
        fd
    }

    fn say(fd: &OwnedFd, number: i32) {
        assert_eq!(rustix::io::write(fd, &number.to_le_bytes()).unwrap(), 4);
    }

    fn hand_over(fd: &OwnedFd, what: &OwnedFd) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [what.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        rustix::net::sendmsg(fd, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
    }

    #[tokio::test]
    async fn tasks_come_with_their_descriptors_zombies_are_left_out_and_the_end_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let socket = LazySocket::bind(dir.path()).unwrap();
        let criu = criu(dir.path());
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        for vpid in [1, 7] {
            say(&criu, vpid);
            hand_over(&criu, &writer);
        }
        say(&criu, -9);
        say(&criu, FINISHED.cast_signed());
        drop(writer);
        let mut stream = socket.accept().await.unwrap();
        for expected in [1, 7] {
            let Said::Task { vpid, uffd } = stream.next().await.unwrap() else { panic!("a task") };
            assert_eq!(vpid, expected);
            rustix::io::write(&uffd, b"!").unwrap();
        }
        assert!(matches!(stream.next().await.unwrap(), Said::Finished));
        assert_eq!(rustix::io::read(&reader, &mut [0u8; 8]).unwrap(), 2);
    }

    #[tokio::test]
    async fn an_end_before_the_finish_and_a_task_without_a_descriptor_are_failures() {
        let dir = tempfile::tempdir().unwrap();
        let socket = LazySocket::bind(dir.path()).unwrap();
        drop(criu(dir.path()));
        let mut stream = socket.accept().await.unwrap();
        assert!(stream.next().await.is_err());
        let criu = criu(dir.path());
        let mut stream = socket.accept().await.unwrap();
        say(&criu, 1);
        rustix::io::write(&criu, b"x").unwrap();
        assert!(stream.next().await.is_err());
    }
}
