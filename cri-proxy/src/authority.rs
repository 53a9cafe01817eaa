//! What a client calls the server, made readable for the HTTP/2 library.
//!
//! A gRPC client that is given a socket's path may say it as `:authority`, with a percent sign for each slash
//! (`%2Frun%2Fgodwit%2Fcri.sock`). containerd does not look at it. The HTTP/2 library refuses such a call, since no URI has it. So each
//! percent sign there becomes a `-`, before the library reads it. Nothing else is changed; the length stays, so that both sides' tables of
//! header fields (RFC 7541 §2.3.2) evict the same ones.
//!
//! A client calls its server by one name: when the first call's is fine, the rest of the connection passes unseen.

mod block;
mod huffman;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a client says first (RFC 9113 §3.4).
const PREFACE: usize = 24;
/// Of every frame: 24 bits of length, type, flags, stream.
const FRAME_HEADER: usize = 9;
/// The longest frame that the library takes. Of one that is longer, or becomes so, nothing is changed.
const LONGEST: usize = 16 << 10;
const HEADERS: u8 = 1;
/// What is asked of the socket at once.
const CHUNK: usize = 16 << 10;

/// A client's socket.
#[derive(Debug)]
pub(crate) struct Named<S> {
    stream: S,
    /// Nothing has to be seen any more.
    passing: bool,
    /// A name was changed: it may be said again.
    renaming: bool,
    preface: usize,
    /// Bytes that are not a whole frame yet.
    begun: BytesMut,
    /// Bytes that may be read.
    ready: BytesMut,
}

impl<S> Named<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            passing: false,
            renaming: false,
            preface: PREFACE,
            begun: BytesMut::new(),
            ready: BytesMut::new(),
        }
    }

    /// Moves what is known to be right.
    fn sort(&mut self) {
        let preface = self.preface.min(self.begun.len());
        self.preface -= preface;
        self.ready.unsplit(self.begun.split_to(preface));
        while !self.passing {
            let Some(length) = frame_length(&self.begun) else { return };
            if length > FRAME_HEADER + LONGEST {
                break;
            }
            if self.begun.len() < length {
                return;
            }
            let frame = self.begun.split_to(length);
            if frame[3] != HEADERS {
                self.ready.unsplit(frame);
                continue;
            }
            match block::rename(&frame) {
                Some(renamed) => {
                    self.renaming = true;
                    self.ready.extend_from_slice(&renamed);
                }
                None => {
                    self.passing = !self.renaming;
                    self.ready.unsplit(frame);
                }
            }
        }
        self.pass();
    }

    fn pass(&mut self) {
        self.passing = true;
        self.ready.unsplit(self.begun.split());
    }

    fn hand_out(&mut self, buffer: &mut ReadBuf<'_>) {
        let length = self.ready.len().min(buffer.remaining());
        buffer.put_slice(&self.ready[..length]);
        self.ready.advance(length);
    }
}

/// Of the frame that begins here, with its header.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let header = bytes.get(..FRAME_HEADER)?;
    let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
    Some(FRAME_HEADER + usize::try_from(length).ok()?)
}

impl<S: AsyncRead + Unpin> AsyncRead for Named<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.ready.is_empty() {
            if this.passing {
                return Pin::new(&mut this.stream).poll_read(context, buffer);
            }
            let mut chunk = [0; CHUNK];
            let mut read = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                this.pass();
            } else {
                this.begun.extend_from_slice(read.filled());
                this.sort();
            }
        }
        this.hand_out(buffer);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Named<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
