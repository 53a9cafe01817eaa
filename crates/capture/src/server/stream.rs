//! Reading the socket: whole headers, whole pages, short answers.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::CaptureError;
use crate::page::PAGE;
use crate::protocol::{LONG_HEADER, Layout, Message, Raw, SHORT_HEADER};

/// The stream and what was learned of it.
pub(super) struct Stream<'a> {
    socket: &'a OwnedFd,
    layout: Option<Layout>,
    pages: u64,
}

impl<'a> Stream<'a> {
    pub(super) fn new(socket: &'a OwnedFd) -> Self {
        Self { socket, layout: None, pages: 0 }
    }

    pub(super) fn layout(&self) -> Option<Layout> {
        self.layout
    }

    /// The next message.
    pub(super) fn next(&mut self) -> Result<Message, CaptureError> {
        let mut header = [0; LONG_HEADER];
        let layout = match self.layout {
            Some(layout) => {
                self.read(&mut header[..layout.header_bytes()])?;
                layout
            }
            None => self.first(&mut header)?,
        };
        Ok(Raw::decode(layout, &header).message()?)
    }

    /// The first message: only so many bytes are read as the shorter header has, until its kind is known.
    fn first(&mut self, header: &mut [u8; LONG_HEADER]) -> Result<Layout, CaptureError> {
        let mut short = [0; SHORT_HEADER];
        self.read(&mut short)?;
        header[..SHORT_HEADER].copy_from_slice(&short);
        let layout = Layout::detect(&short);
        self.read(&mut header[SHORT_HEADER..layout.header_bytes()])?;
        self.layout = Some(layout);
        Ok(layout)
    }

    /// The bytes of pages, to their place.
    pub(super) fn pages(&mut self, out: &mut [u8]) -> Result<(), CaptureError> {
        self.read(out)?;
        self.pages += (out.len() / PAGE) as u64;
        Ok(())
    }

    fn read(&self, mut out: &mut [u8]) -> Result<(), CaptureError> {
        while !out.is_empty() {
            match recv(self.socket, &mut *out, RecvFlags::WAITALL) {
                Ok((0, _)) | Err(Errno::CONNRESET) => {
                    return Err(CaptureError::StreamEnded { pages: self.pages });
                }
                Ok((n, _)) => out = &mut out[n..],
                Err(Errno::INTR) => {}
                Err(e) => return Err(CaptureError::Socket { attempt: "read", source: e.into() }),
            }
        }
        Ok(())
    }

    /// A short answer.
    pub(super) fn answer(&self, bytes: &[u8]) -> Result<(), CaptureError> {
        loop {
            match send(self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(n) if n == bytes.len() => return Ok(()),
                Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => {
                    return Err(CaptureError::StreamEnded { pages: self.pages });
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(CaptureError::Socket { attempt: "answer", source: e.into() }),
            }
        }
    }
}
