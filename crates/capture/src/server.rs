//! Our end of CRIU's page stream: receives what a dump sends while the tasks are frozen.
//!
//! One thread reads the socket. The end is acknowledged, and only then does CRIU report its dump as complete, when every
//! byte is in our memory (CRIU passes references to pages: before the acknowledgement they may still be those of the
//! tasks). Closing our end, by [`AbortHandle::abort`] or by any error, makes CRIU abort and resume the tasks.

mod compare;
mod keep;
mod stream;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use godwit_image::Space;
use godwit_types::PageRange;
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair, sockopt,
};

use crate::protocol::{Message, ProtocolError};
use crate::{Arena, Baselines, CaptureError, FrozenRun, Received, Span};

use compare::Compare;
use keep::Keep;
use stream::Stream;

pub(crate) use compare::COMPARE_FIXED_BYTES;

/// What becomes of the bytes that arrive.
#[derive(Debug, Clone)]
pub enum Mode {
    /// All of them are kept.
    Keep,
    /// They are hashed as they arrive; kept is what differs from the baseline and is not zero.
    Compare {
        /// What is known.
        baselines: Arc<Baselines>,
        /// Threads that hash. Two saturate one page stream on most machines.
        threads: usize,
    },
}

/// A running receiver.
#[derive(Debug)]
pub struct PageServer {
    thread: Option<JoinHandle<Result<Received, CaptureError>>>,
    abort: AbortHandle,
}

/// Ends a receiver from another thread, or from a timer.
#[derive(Debug, Clone)]
pub struct AbortHandle {
    socket: Arc<OwnedFd>,
    aborted: Arc<AtomicBool>,
}

impl AbortHandle {
    /// Closes the stream: the receiver ends with [`CaptureError::Cancelled`], CRIU aborts its dump. After the
    /// acknowledgement it does nothing.
    pub fn abort(&self) {
        self.aborted.store(true, Ordering::Release);
        // It may be closed by the other side already: then there is nothing to end.
        let _ = shutdown(&*self.socket, Shutdown::Both);
    }
}

impl PageServer {
    /// Starts to receive into `arena`, which is prefaulted: call it before the freeze. Gives the end of the socket pair
    /// that CRIU inherits (`ps.fd`); it is close-on-exec here. Drop it after CRIU has been started, else a CRIU that
    /// dies goes unnoticed.
    ///
    /// # Errors
    /// No socket pair or thread can be had, or the arena is smaller than the fixed part of [`Mode::Compare`].
    pub fn start(arena: Arena, mode: Mode) -> Result<(Self, OwnedFd), CaptureError> {
        let (ours, criu) = sockets()?;
        let socket = Arc::new(ours);
        let abort = AbortHandle { socket: Arc::clone(&socket), aborted: Arc::default() };
        let taker: Box<dyn Taker + Send> = match mode {
            Mode::Keep => Box::new(Keep::new(&arena)?),
            Mode::Compare { baselines, threads } => {
                Box::new(Compare::start(arena, baselines, threads.max(1))?)
            }
        };
        let aborted = Arc::clone(&abort.aborted);
        let work =
            move || serve(Stream::new(&socket), taker).map_err(|e| told(e, &aborted, &socket));
        let thread = std::thread::Builder::new().name("page-server".to_owned()).spawn(work);
        let thread = Some(thread.map_err(|_| CaptureError::Thread)?);
        Ok((Self { thread, abort }, criu))
    }

    /// A handle that ends it.
    #[must_use]
    pub fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }

    /// Waits until the stream is complete and acknowledged, or has failed. Returns soon after CRIU's `post-dump`.
    ///
    /// # Errors
    /// The stream is broken, ends too early, does not fit the arena, or was aborted. CRIU aborts its dump then.
    pub fn finish(mut self) -> Result<Received, CaptureError> {
        let thread = self.thread.take().ok_or(CaptureError::Thread)?;
        thread.join().map_err(|_| CaptureError::Thread)?
    }
}

impl Drop for PageServer {
    /// One that nobody waits for is aborted.
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.abort.abort();
        }
    }
}

/// Closes the stream after an error, and calls the error by its cause.
fn told(e: CaptureError, aborted: &AtomicBool, socket: &OwnedFd) -> CaptureError {
    let by_us = aborted.load(Ordering::Acquire);
    // See `AbortHandle::abort`.
    let _ = shutdown(socket, Shutdown::Both);
    if by_us { CaptureError::Cancelled } else { e }
}

/// Bytes that may wait in the socket: four runs of CRIU's pipes.
const SOCKET_BUFFER: usize = 4 << 20;

fn sockets() -> Result<(OwnedFd, OwnedFd), CaptureError> {
    let failed = |e: rustix::io::Errno| CaptureError::Socket { attempt: "open", source: e.into() };
    let (ours, criu) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(failed)?;
    // Only speed depends on it, and without CAP_NET_ADMIN the kernel's own maximum holds.
    let _ = sockopt::set_socket_send_buffer_size_force(&criu, SOCKET_BUFFER);
    Ok((ours, criu))
}

/// What is done with pages as they arrive.
trait Taker {
    /// Takes the bytes of these pages out of the stream.
    fn take(
        &mut self,
        stream: &mut Stream<'_>,
        space: Space,
        range: PageRange,
        lazy: bool,
    ) -> Result<(), CaptureError>;

    /// Everything has arrived: gives it, with every byte in our memory.
    fn settle(self: Box<Self>) -> Result<Taken, CaptureError>;
}

/// Runs in any order, and the spans that they name.
struct Taken {
    runs: Vec<(Space, FrozenRun)>,
    spans: Vec<Span>,
}

fn serve(
    mut stream: Stream<'_>,
    mut taker: Box<dyn Taker + Send>,
) -> Result<Received, CaptureError> {
    let mut opened: BTreeMap<Space, Vec<FrozenRun>> = BTreeMap::new();
    loop {
        match stream.next()? {
            Message::Parent => stream.answer(&0i32.to_ne_bytes())?,
            Message::Open(space) => {
                if opened.insert(space, Vec::new()).is_some() {
                    return Err(ProtocolError::OpenedTwice.into());
                }
                stream.answer(&[0])?;
            }
            Message::Add { space, range, lazy } => {
                if !opened.contains_key(&space) {
                    return Err(ProtocolError::NotOpened.into());
                }
                taker.take(&mut stream, space, range, lazy)?;
            }
            Message::Close => break,
        }
    }
    let taken = taker.settle()?;
    for (space, run) in taken.runs {
        opened.entry(space).or_default().push(run);
    }
    let received = Received::new(opened, taken.spans, stream.layout())?;
    stream.answer(&0i32.to_ne_bytes())?;
    Ok(received)
}

#[cfg(test)]
mod tests;
