//! One packet of CRIU's `SOCK_SEQPACKET` socket: bytes and descriptors.
//!
//! Owns framing and limits. Does not look into the bytes.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType,
};

use crate::Error;

/// Largest packet that is sent or taken: a request of runc with a hundred mounts is below 64 KiB.
pub const MAX_PACKET: usize = 256 * 1024;
/// Most descriptors in one packet; CRIU sends at most one (`orphan-pts-master`).
pub const MAX_FDS: usize = 16;

/// Bytes and descriptors as they travel.
#[derive(Debug, Default)]
pub struct Packet {
    /// The encoded message.
    pub bytes: Vec<u8>,
    /// What came, or goes, with it.
    pub fds: Vec<OwnedFd>,
}

impl From<Vec<u8>> for Packet {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, fds: Vec::new() }
    }
}

/// One end of a `SOCK_SEQPACKET` connection. Closed on exec.
#[derive(Debug)]
pub struct SeqPacket(OwnedFd);

impl SeqPacket {
    /// Two connected ends. CRIU takes the process that calls this for its peer: descriptor *numbers* in a request
    /// (`images_dir_fd`, `work_dir_fd`) are looked up in that process.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn pair() -> Result<(Self, Self), Error> {
        let (a, b) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|e| socket("create", e))?;
        for end in [&a, &b] {
            rustix::net::sockopt::set_socket_send_buffer_size(end, 4 * MAX_PACKET)
                .map_err(|e| socket("size", e))?;
        }
        Ok((Self(a), Self(b)))
    }

    /// Sends one packet; blocks while the peer's queue is full.
    ///
    /// # Errors
    /// [`Error::Socket`] when the peer is gone, [`Error::TooLarge`] beyond the limits.
    pub fn send(&self, packet: &Packet) -> Result<(), Error> {
        self.send_flags(packet, SendFlags::NOSIGNAL).map_err(|e| socket("write to", e))
    }

    /// Sends one packet unless that would block.
    ///
    /// # Errors
    /// `WouldBlock` when the peer's queue is full; otherwise as [`SeqPacket::send`].
    pub fn try_send(&self, packet: &Packet) -> io::Result<()> {
        self.send_flags(packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).map_err(Into::into)
    }

    /// Takes the next packet; blocks until there is one. `None`: the peer closed its end.
    ///
    /// # Errors
    /// [`Error::Socket`], or [`Error::TooLarge`] beyond the limits (the packet is lost).
    pub fn recv(&self) -> Result<Option<Packet>, Error> {
        self.recv_flags(RecvFlags::empty()).map_err(|e| socket("read from", e))
    }

    /// Takes the next packet if there is one. `None`: the peer closed its end.
    ///
    /// # Errors
    /// `WouldBlock` when there is none yet; otherwise as [`SeqPacket::recv`].
    pub fn try_recv(&self) -> io::Result<Option<Packet>> {
        self.recv_flags(RecvFlags::DONTWAIT).map_err(Into::into)
    }

    /// Looks at the next packet's bytes and leaves it in the queue (its descriptors are dropped with the look).
    ///
    /// # Errors
    /// As [`SeqPacket::recv`].
    pub fn peek(&self) -> Result<Option<Vec<u8>>, Error> {
        let packet = self.recv_flags(RecvFlags::PEEK).map_err(|e| socket("read from", e))?;
        Ok(packet.map(|p| p.bytes))
    }

    /// As [`SeqPacket::peek`], without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when there is none yet; otherwise as [`SeqPacket::recv`].
    pub fn try_peek(&self) -> io::Result<Option<Vec<u8>>> {
        let packet = self.recv_flags(RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
        Ok(packet.map(|p| p.bytes))
    }

    /// Ends the connection in both directions, also for a thread that is blocked in [`SeqPacket::recv`].
    pub fn shutdown(&self) {
        // Fails only if the peer has ended it already.
        let _ = rustix::net::shutdown(&self.0, Shutdown::Both);
    }

    fn send_flags(&self, packet: &Packet, flags: SendFlags) -> rustix::io::Result<()> {
        if packet.bytes.len() > MAX_PACKET || packet.fds.len() > MAX_FDS {
            return Err(rustix::io::Errno::MSGSIZE);
        }
        let fds: Vec<BorrowedFd<'_>> = packet.fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(rustix::io::Errno::MSGSIZE);
        }
        retry(|| {
            rustix::net::sendmsg(&self.0, &[IoSlice::new(&packet.bytes)], &mut control, flags)
        })?;
        Ok(())
    }

    fn recv_flags(&self, flags: RecvFlags) -> rustix::io::Result<Option<Packet>> {
        let mut bytes = vec![0; MAX_PACKET];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        let got = retry(|| {
            rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)
        })?;
        let fds = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect::<Vec<OwnedFd>>();
        if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(rustix::io::Errno::MSGSIZE);
        }
        if got.bytes == 0 {
            return Ok(None);
        }
        bytes.truncate(got.bytes);
        Ok(Some(Packet { bytes, fds }))
    }
}

impl From<OwnedFd> for SeqPacket {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<SeqPacket> for OwnedFd {
    fn from(socket: SeqPacket) -> Self {
        socket.0
    }
}

impl AsFd for SeqPacket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn socket(action: &'static str, errno: rustix::io::Errno) -> Error {
    if errno == rustix::io::Errno::MSGSIZE {
        return Error::TooLarge { limit: MAX_PACKET };
    }
    Error::Socket { action, source: errno.into() }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_arrives_with_its_descriptors() {
        let (a, b) = SeqPacket::pair().unwrap();
        let (x, y) = SeqPacket::pair().unwrap();
        a.send(&Packet { bytes: b"hello".to_vec(), fds: vec![y.into()] }).unwrap();
        assert_eq!(b.peek().unwrap().unwrap(), b"hello");
        let mut got = b.recv().unwrap().unwrap();
        assert_eq!((got.bytes.as_slice(), got.fds.len()), (b"hello".as_slice(), 1));
        let y = SeqPacket::from(got.fds.remove(0));
        y.send(&b"through it".to_vec().into()).unwrap();
        assert_eq!(x.recv().unwrap().unwrap().bytes, b"through it");
    }

    #[test]
    fn an_end_that_is_closed_reads_as_none_and_an_empty_queue_as_would_block() {
        let (a, b) = SeqPacket::pair().unwrap();
        assert_eq!(b.try_recv().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(a);
        assert!(b.recv().unwrap().is_none());
    }

    #[test]
    fn what_is_too_large_is_refused_on_both_sides() {
        let (a, b) = SeqPacket::pair().unwrap();
        let big = Packet::from(vec![0; MAX_PACKET + 1]);
        assert!(matches!(a.send(&big), Err(Error::TooLarge { .. })));
        rustix::net::send(a.as_fd(), &big.bytes, SendFlags::empty()).unwrap();
        assert!(matches!(b.recv(), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn shutdown_wakes_a_blocked_reader() {
        let (a, b) = SeqPacket::pair().unwrap();
        std::thread::scope(|s| {
            let reader = s.spawn(|| b.recv().unwrap().is_none());
            a.shutdown();
            assert!(reader.join().unwrap());
        });
    }
}
