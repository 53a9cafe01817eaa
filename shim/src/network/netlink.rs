//! Words with the kernel over netlink (`include/uapi/linux/netlink.h`): messages out, answers in.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::set_socket_timeout;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType,
    netlink::SocketAddrNetlink, recv, sendto, socket_with, sockopt::Timeout,
};

/// `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_DUMP`, `NLM_F_CREATE`.
pub(super) const REQUEST: u16 = 0x1;
pub(super) const ACK: u16 = 0x4;
pub(super) const DUMP: u16 = 0x300;
pub(super) const CREATE: u16 = 0x400;
/// `NLMSG_ERROR` (also every acknowledgement), `NLMSG_DONE`.
pub(super) const ERROR: u16 = 2;
pub(super) const DONE: u16 = 3;
/// `NLA_F_NESTED`
const NESTED: u16 = 0x8000;
/// Bytes of a message's head, and of an attribute's.
const HEAD: usize = 16;
/// More than the kernel puts into one answer.
const ANSWER: usize = 64 << 10;
/// The kernel answers before `sendto` returns; longer only if its answer was lost.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) use rustix::net::netlink::{NETFILTER, SOCK_DIAG};

/// A socket.
#[derive(Debug)]
pub(super) struct Netlink(OwnedFd);

/// A message of the kernel's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) kind: u16,
    pub(super) body: Vec<u8>,
}

impl Netlink {
    pub(super) fn connect(protocol: Protocol) -> io::Result<Self> {
        let kind = (AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC);
        let fd = socket_with(kind.0, kind.1, kind.2, Some(protocol))?;
        set_socket_timeout(&fd, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self(fd))
    }

    /// Sends messages at once.
    pub(super) fn send(&mut self, messages: &[u8]) -> io::Result<()> {
        let kernel = SocketAddrNetlink::new(0, 0);
        match sendto(&self.0, messages, SendFlags::empty(), &kernel)? == messages.len() {
            true => Ok(()),
            false => Err(io::Error::other("the kernel took half a message")),
        }
    }

    /// The next answers.
    pub(super) fn receive(&mut self) -> io::Result<Vec<Answer>> {
        let mut bytes = vec![0; ANSWER];
        let (_, length) = recv(&self.0, &mut bytes[..], RecvFlags::empty())?;
        parse(bytes.get(..length).ok_or_else(cut)?)
    }

    /// Sends messages that all want an acknowledgement, and waits for as many, or for the first error: for messages that it cannot read
    /// at all the kernel says one, whatever their number.
    pub(super) fn ask(&mut self, messages: &[u8], count: usize) -> io::Result<()> {
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
}

impl Answer {
    /// What an answer of the kind [`ERROR`] says.
    pub(super) fn result(&self) -> io::Result<()> {
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

/// A message.
pub(super) fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
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
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An attribute that holds attributes.
pub(super) fn nested(kind: u16, inside: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &inside.concat())
}

/// A number in an attribute, as netfilter has them.
pub(super) fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

/// A name in an attribute.
pub(super) fn text(kind: u16, value: &str) -> Vec<u8> {
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
        let nothing = Answer { kind: ERROR, body: vec![0] };
        assert!(nothing.result().is_err());
    }

    #[test]
    fn attributes_are_padded_and_say_their_own_length() {
        assert_eq!(text(1, "ab"), [7, 0, 1, 0, b'a', b'b', 0, 0]);
        assert_eq!(nested(4, &[number(1, 3)]), [12, 0, 4, 0x80, 8, 0, 1, 0, 0, 0, 0, 3]);
    }
}
