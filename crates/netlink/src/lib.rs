//! Words with the kernel over netlink (`include/uapi/linux/netlink.h`): messages out, answers in.
//!
//! Owns: the socket ([`Netlink`]), how messages and attributes are written and read, and how one learns that a kernel has no tables of
//! netfilter's ([`nf_tables`]). Does not own what is said: kinds and bodies are of who asks. Nothing beyond the end of an answer is
//! read, and no answer is waited for without an end. It speaks in the network namespace of the thread that connects.

pub mod nf_tables;

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::set_socket_timeout;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType,
    netlink::SocketAddrNetlink, recv, sendto, socket_with, sockopt::Timeout,
};

/// `NLM_F_ACK`: an acknowledgement is wanted.
pub const ACK: u16 = 0x4;
/// `NLM_F_CREATE`: it is made if it is not there.
pub const CREATE: u16 = 0x400;
/// `NLM_F_REQUEST`, `NLM_F_DUMP`.
const REQUEST: u16 = 0x1;
const DUMP: u16 = 0x300;
/// `NLMSG_ERROR` (also every acknowledgement), `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLA_F_NESTED`
const NESTED: u16 = 0x8000;
/// Bytes of a message's head.
const HEAD: usize = 16;
/// More than the kernel puts into one answer.
const ANSWER: usize = 64 << 10;
/// The kernel answers before `sendto` returns; longer only if its answer was lost.
const PATIENCE: Duration = Duration::from_secs(5);

pub use rustix::net::netlink::{NETFILTER, SOCK_DIAG};

/// A socket.
#[derive(Debug)]
pub struct Netlink(OwnedFd);

/// A message of the kernel's.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    kind: u16,
    body: Vec<u8>,
}

impl Netlink {
    /// To this part of the kernel.
    ///
    /// # Errors
    /// The kernel does not have it.
    pub fn connect(protocol: Protocol) -> io::Result<Self> {
        let kind = (AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC);
        let fd = socket_with(kind.0, kind.1, kind.2, Some(protocol))?;
        set_socket_timeout(&fd, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self(fd))
    }

    /// Sends messages at once.
    fn send(&mut self, messages: &[u8]) -> io::Result<()> {
        let kernel = SocketAddrNetlink::new(0, 0);
        match sendto(&self.0, messages, SendFlags::empty(), &kernel)? == messages.len() {
            true => Ok(()),
            false => Err(io::Error::other("the kernel took half a message")),
        }
    }

    /// The next answers.
    fn receive(&mut self) -> io::Result<Vec<Answer>> {
        let mut bytes = vec![0; ANSWER];
        // Its whole length, also where it does not fit: then it is cut.
        let (_, length) = recv(&self.0, &mut bytes[..], RecvFlags::TRUNC)?;
        parse(bytes.get(..length).ok_or_else(cut)?)
    }

    /// Sends messages that all want an acknowledgement, and waits for as many, or for the first error: for messages that it cannot read
    /// at all the kernel says one, whatever their number.
    ///
    /// # Errors
    /// What the kernel says, as its number; or its answer is cut or does not come.
    pub fn ask(&mut self, messages: &[u8], count: usize) -> io::Result<()> {
        self.send(messages)?;
        let mut seen = 0;
        while seen < count {
            for answer in self.receive()?.iter().filter(|answer| answer.kind == ERROR) {
                answer.result()?;
                seen += 1;
            }
        }
        Ok(())
    }

    /// Asks for all that there are, and reads the answers that are of the question's kind, as those of `sock_diag(7)` are.
    ///
    /// # Errors
    /// As of [`Self::ask`].
    pub fn dump<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        self.send(&message(kind, DUMP, body))?;
        let mut found = Vec::new();
        loop {
            for answer in self.receive()? {
                match answer.kind {
                    // What could not be told is said at the end, too.
                    DONE => return answer.result().map(|()| found),
                    ERROR => answer.result()?,
                    other if other == kind => found.extend(read(&answer.body)),
                    _ => {}
                }
            }
        }
    }
}

impl Answer {
    /// What an answer of the kind [`ERROR`] or [`DONE`] says.
    fn result(&self) -> io::Result<()> {
        let code = self.body.first_chunk().map(|code| i32::from_ne_bytes(*code));
        match code.ok_or_else(cut)? {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(-code)),
        }
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is cut")
}

fn parse(mut bytes: &[u8]) -> io::Result<Vec<Answer>> {
    let mut answers = Vec::new();
    while let Some(([a, b, c, d, e, f, ..], _)) = bytes.split_first_chunk::<HEAD>() {
        let length = u32::from_ne_bytes([*a, *b, *c, *d]) as usize;
        let body = bytes.get(HEAD..length).ok_or_else(cut)?.to_vec();
        answers.push(Answer { kind: u16::from_ne_bytes([*e, *f]), body });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(answers)
}

/// The attributes in these bytes, kind and value, up to the first that is cut: that one is an error, and the last.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = io::Result<(u16, &[u8])>> {
    std::iter::from_fn(move || {
        let ([a, b, c, d], _) = bytes.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([*a, *b]));
        let value = bytes.get(4..length);
        bytes = value.and(bytes.get(length.next_multiple_of(4)..)).unwrap_or_default();
        Some(value.map(|value| (u16::from_ne_bytes([*c, *d]), value)).ok_or_else(cut))
    })
}

/// A message.
#[must_use]
pub fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEAD + body.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((REQUEST | flags).to_ne_bytes());
    // Sequence and port: one question at a time, and the kernel knows who asks.
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An attribute.
#[must_use]
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An attribute that holds attributes.
#[must_use]
pub fn nested(kind: u16, inside: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &inside.concat())
}

/// A number in an attribute, as netfilter has them.
#[must_use]
pub fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

/// A name in an attribute.
#[must_use]
pub fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_are_written_and_cut_ones_are_not() {
        let two = [message(5, ACK, b"abc"), message(ERROR, 0, &(-2_i32).to_ne_bytes())].concat();
        let read = parse(&two).unwrap();
        assert_eq!(read[0], Answer { kind: 5, body: b"abc".to_vec() });
        assert_eq!(read[1].result().unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(parse(&two[..18]).is_err());
        let (longer, shorter) = ([[200, 0, 0, 0]; 4].concat(), [[8, 0, 0, 0]; 4].concat());
        assert!(parse(&longer).is_err() && parse(&shorter).is_err());
        assert_eq!(parse(&[1, 2, 3]).unwrap(), []);
        let nothing = Answer { kind: ERROR, body: vec![0] };
        assert!(nothing.result().is_err());
    }

    #[test]
    fn attributes_are_padded_and_say_their_own_length() {
        assert_eq!(text(1, "ab"), [7, 0, 1, 0, b'a', b'b', 0, 0]);
        assert_eq!(nested(4, &[number(1, 3)]), [12, 0, 4, 0x80, 8, 0, 1, 0, 0, 0, 0, 3]);
    }

    #[test]
    fn attributes_are_read_as_they_are_written_and_cut_ones_end_them() {
        let two = [text(1, "ab"), number(2, 3)].concat();
        let read: io::Result<Vec<_>> = attributes(&two).collect();
        assert_eq!(read.unwrap(), [(1, b"ab\0".as_slice()), (2, &[0, 0, 0, 3])]);
        // Of the last the padding may be missing, and what is shorter than a head is none.
        let read: io::Result<Vec<_>> = attributes(&two[..7]).collect();
        assert_eq!(read.unwrap().len(), 1);
        assert_eq!(attributes(&two[..11]).count(), 1);
        for cut in [&two[..6], &two[..14], &[0; 8], &[3, 0, 1, 0, 0]] {
            assert!(attributes(cut).last().unwrap().is_err() && attributes(cut).count() <= 2);
        }
    }

    #[test]
    fn all_are_told_or_why_they_are_not() {
        let _one = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let mut diag = Netlink::connect(SOCK_DIAG).unwrap();
        let mut all = |family| {
            let states = [255; 4];
            let request = [[family, 0, 0, 0], states, [0; 4], [0; 4], [0; 4], [0; 4]].concat();
            diag.dump(20, &request, |body| body.first().copied())
        };
        let unix = all(1).unwrap();
        assert!(!unix.is_empty() && unix.iter().all(|family| *family == 1), "{unix:?}");
        // The kernel has no such family; the same socket can be asked again.
        all(255).unwrap_err();
        assert!(!all(1).unwrap().is_empty());
    }
}
