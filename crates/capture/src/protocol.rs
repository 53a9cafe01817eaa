//! CRIU's page-server protocol (`criu/page-xfer.c`), the receiving side, without I/O.
//!
//! Each message is a header in native byte order: command (u32), pages, address, destination (u64). Until CRIU 4.1 the
//! number of pages is a u32 and the header has 24 bytes; since 4.2 it is a u64 behind 4 bytes of padding, 32 bytes. There
//! is no negotiation: the first message, which has neither pages nor address, tells them apart.

use godwit_image::Space;
use godwit_types::{PAGE_SIZE, PageNumber, PageRange};

/// Bytes of the shorter header: always safe to read first.
pub(crate) const SHORT_HEADER: usize = 24;
/// Bytes of the longer one.
pub(crate) const LONG_HEADER: usize = 32;

const CODE_MASK: u32 = 0xffff;
const FLAGS_SHIFT: u32 = 16;
const OPEN2: u32 = 4;
const PARENT: u32 = 5;
const ADD_F: u32 = 6;
const CLOSE: u32 = 0x1023;
const FORCE_CLOSE: u32 = 0x1024;

const FLAG_LAZY: u32 = 2;
const FLAG_PRESENT: u32 = 4;

const DST_TASK: u64 = 1;
const DST_SHMEM: u64 = 2;

/// Which header a CRIU sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// CRIU up to 4.1.
    Bytes24,
    /// CRIU 4.2 and later.
    Bytes32,
}

/// What the stream must not contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A command that a dump to a page server does not send.
    #[error("command {0:#x} is not known")]
    Command(u32),
    /// Pages without bytes, or that refer to a parent that we said we do not have.
    #[error("pages with flags {0:#x} are not expected")]
    Flags(u32),
    /// A destination that is neither a task nor shared memory.
    #[error("destination {0:#x} is not known")]
    Destination(u64),
    /// Pages of an address space that was not opened.
    #[error("pages arrive for an address space that was not opened")]
    NotOpened,
    /// An address space was opened twice.
    #[error("an address space is opened twice")]
    OpenedTwice,
    /// A run that is empty, not at a page, or wraps around.
    #[error("{pages} pages at {address:#x} are not a range of memory")]
    Range {
        /// How many pages.
        pages: u64,
        /// Where.
        address: u64,
    },
    /// A page that comes twice.
    #[error("page {0:#x} of an address space arrives twice")]
    Twice(u64),
}

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    /// Asks whether there is a parent; answered with an i32.
    Parent,
    /// Pages of this address space follow; answered with one byte.
    Open(Space),
    /// So many bytes of pages follow.
    Add { space: Space, range: PageRange, lazy: bool },
    /// The end; answered with an i32 when everything is in memory.
    Close,
}

/// A header as read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Raw {
    command: u32,
    pages: u64,
    address: u64,
    dst: u64,
}

impl Layout {
    /// Tells from the first 24 bytes of the stream. In the short form bytes 16 to 24 are the destination, which is
    /// never 0; in the long form they are the address of a message that has none. A stream that is closed at once is
    /// answered without waiting for 8 bytes that may not come.
    pub(crate) fn detect(first: &[u8; SHORT_HEADER]) -> Self {
        let closes = matches!(u32_at(first, 0) & CODE_MASK, CLOSE | FORCE_CLOSE);
        if closes || u64_at(first, 16) != 0 { Self::Bytes24 } else { Self::Bytes32 }
    }

    pub(crate) fn header_bytes(self) -> usize {
        match self {
            Self::Bytes24 => SHORT_HEADER,
            Self::Bytes32 => LONG_HEADER,
        }
    }
}

impl Raw {
    /// Reads the header at the front of `bytes`.
    pub(crate) fn decode(layout: Layout, bytes: &[u8; LONG_HEADER]) -> Self {
        let command = u32_at(bytes, 0);
        match layout {
            Layout::Bytes24 => Self {
                command,
                pages: u32_at(bytes, 4).into(),
                address: u64_at(bytes, 8),
                dst: u64_at(bytes, 16),
            },
            Layout::Bytes32 => Self {
                command,
                pages: u64_at(bytes, 8),
                address: u64_at(bytes, 16),
                dst: u64_at(bytes, 24),
            },
        }
    }

    /// What it means.
    pub(crate) fn message(self) -> Result<Message, ProtocolError> {
        match self.command & CODE_MASK {
            PARENT => Ok(Message::Parent),
            OPEN2 => Ok(Message::Open(self.space()?)),
            ADD_F => self.add(),
            CLOSE | FORCE_CLOSE => Ok(Message::Close),
            code => Err(ProtocolError::Command(code)),
        }
    }

    fn add(self) -> Result<Message, ProtocolError> {
        let flags = self.command >> FLAGS_SHIFT;
        if flags & !FLAG_LAZY != FLAG_PRESENT {
            return Err(ProtocolError::Flags(flags));
        }
        let (space, range) = (self.space()?, self.range()?);
        Ok(Message::Add { space, range, lazy: flags & FLAG_LAZY != 0 })
    }

    fn range(self) -> Result<PageRange, ProtocolError> {
        let Self { pages, address, .. } = self;
        let end = pages.checked_mul(PAGE_SIZE).and_then(|n| address.checked_add(n));
        if end.is_none() || pages == 0 || !address.is_multiple_of(PAGE_SIZE) {
            return Err(ProtocolError::Range { pages, address });
        }
        Ok(PageRange::new(PageNumber::of_address(address), pages))
    }

    fn space(self) -> Result<Space, ProtocolError> {
        let unknown = ProtocolError::Destination(self.dst);
        let id = self.dst >> 8;
        match self.dst & 0xff {
            DST_TASK => u32::try_from(id).map(Space::Task).map_err(|_| unknown),
            DST_SHMEM => Ok(Space::Shmem(id)),
            _ => Err(unknown),
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(out)
}

/// The sending side, for tests that play CRIU.
#[cfg(test)]
pub(crate) mod sender {
    use super::*;

    pub(crate) fn dst(space: Space) -> u64 {
        match space {
            Space::Task(id) => u64::from(id) << 8 | DST_TASK,
            Space::Shmem(id) => id << 8 | DST_SHMEM,
        }
    }

    pub(crate) fn header(
        layout: Layout,
        command: u32,
        pages: u64,
        address: u64,
        dst: u64,
    ) -> Vec<u8> {
        let mut out = command.to_ne_bytes().to_vec();
        match layout {
            Layout::Bytes24 => out.extend((pages as u32).to_ne_bytes()),
            Layout::Bytes32 => {
                out.extend([0xaa; 4]);
                out.extend(pages.to_ne_bytes());
            }
        }
        out.extend(address.to_ne_bytes());
        out.extend(dst.to_ne_bytes());
        out
    }

    pub(crate) fn open(layout: Layout, space: Space) -> Vec<u8> {
        header(layout, OPEN2, 0, 0, dst(space))
    }

    pub(crate) fn parent(layout: Layout, space: Space) -> Vec<u8> {
        header(layout, PARENT, 0, 0, dst(space))
    }

    pub(crate) fn add(layout: Layout, space: Space, range: PageRange, lazy: bool) -> Vec<u8> {
        let flags = FLAG_PRESENT | if lazy { FLAG_LAZY } else { 0 };
        let command = ADD_F | flags << FLAGS_SHIFT;
        header(layout, command, range.count, range.first.address(), dst(space))
    }

    pub(crate) fn close(layout: Layout) -> Vec<u8> {
        header(layout, FORCE_CLOSE, 0, 0, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn padded(bytes: &[u8]) -> [u8; LONG_HEADER] {
        let mut out = [0; LONG_HEADER];
        out[..bytes.len()].copy_from_slice(bytes);
        out
    }

    #[test]
    fn both_headers_are_told_apart_by_the_first_message_and_read() {
        let range = PageRange::new(PageNumber(0x7f00), 300);
        for layout in [Layout::Bytes24, Layout::Bytes32] {
            for space in [Space::Task(1), Space::Shmem(77)] {
                for first in [sender::open(layout, space), sender::parent(layout, space)] {
                    let head: [u8; SHORT_HEADER] = first[..SHORT_HEADER].try_into().unwrap();
                    assert_eq!(Layout::detect(&head), layout);
                }
                let add = sender::add(layout, space, range, true);
                assert_eq!(add.len(), layout.header_bytes());
                let read = Raw::decode(layout, &padded(&add)).message();
                assert_eq!(read, Ok(Message::Add { space, range, lazy: true }));
            }
        }
    }

    #[test]
    fn what_a_dump_never_sends_is_refused() {
        let raw = |command, pages, address, dst| Raw { command, pages, address, dst }.message();
        let add = ADD_F | FLAG_PRESENT << FLAGS_SHIFT;
        assert_eq!(raw(7, 1, 0, 1), Err(ProtocolError::Command(7)));
        for flags in [0, 1, 2, 5, 12] {
            let command = ADD_F | flags << FLAGS_SHIFT;
            assert_eq!(raw(command, 1, 0, 0x101), Err(ProtocolError::Flags(flags)));
        }
        assert!(raw(add, 0, 0, 0x101).is_err());
        assert!(raw(add, 1, 5, 0x101).is_err());
        assert!(raw(add, 1 << 60, 4096, 0x101).is_err());
        assert!(raw(add, 1, 4096, 0x103).is_err());
        assert!(raw(add, 1, 4096, u64::MAX - 254).is_err());
    }
}
