//! Bytes of one direction of a call: as fast as the other side takes them, none of them looked at.
//!
//! A chunk is taken out of the receive window only when the other side's window has room for it, so a slow reader slows its writer,
//! and [`limits`](crate::limits) bound what lies here.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;

/// How a direction ended early.
#[derive(Debug)]
pub(crate) enum Broken {
    /// Whoever writes went away or gave up.
    Writer(h2::Error),
    /// Whoever reads went away or gave up.
    Reader(Reason),
}

/// What has moved: one for each chunk that came, one for each that went on. Odd while one is under way.
#[derive(Debug, Default)]
pub(crate) struct Moved(AtomicU64);

impl Moved {
    fn step(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Until the writer has had nothing to say for `time`.
    pub(crate) async fn quiet_for(&self, time: Duration) {
        loop {
            let before = self.0.load(Ordering::Relaxed);
            tokio::time::sleep(time).await;
            if before.is_multiple_of(2) && before == self.0.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

/// One event of the direction.
enum Event {
    Data(Bytes),
    End,
}

/// Carries everything that is left of `from`, trailers included.
///
/// # Errors
/// Either side is gone. What was carried stays carried.
///
/// # Cancellation
/// Dropped, it leaves both streams open, with a part of the bytes carried.
pub(crate) async fn carry(
    from: &mut RecvStream,
    to: &mut SendStream<Bytes>,
    moved: &Moved,
) -> Result<(), Broken> {
    loop {
        match next(from, to).await? {
            Event::End => break,
            Event::Data(chunk) => {
                let length = chunk.len();
                let last = from.is_end_stream();
                moved.step();
                push(to, chunk, last).await?;
                moved.step();
                // Fails for a stream that is closed: then nobody waits for the capacity.
                let _ = from.flow_control().release_capacity(length);
                if last {
                    return Ok(());
                }
            }
        }
    }
    let trailers = poll_fn(|cx| watching(to, cx, |cx| from.poll_trailers(cx))).await?;
    finish(to, trailers.map_err(Broken::Writer)?)
}

/// Ends the direction.
///
/// # Errors
/// The reader is gone.
pub(crate) fn finish(
    to: &mut SendStream<Bytes>,
    trailers: Option<HeaderMap>,
) -> Result<(), Broken> {
    match trailers {
        Some(trailers) => to.send_trailers(trailers),
        None => to.send_data(Bytes::new(), true),
    }
    .map_err(reader_gone)
}

/// The next chunk; the reader's leaving is seen while there is none.
async fn next(from: &mut RecvStream, to: &mut SendStream<Bytes>) -> Result<Event, Broken> {
    match poll_fn(|cx| watching(to, cx, |cx| from.poll_data(cx))).await? {
        Some(Ok(chunk)) => Ok(Event::Data(chunk)),
        Some(Err(error)) => Err(Broken::Writer(error)),
        None => Ok(Event::End),
    }
}

/// Sends a chunk in as many parts as the reader's window makes of it.
///
/// # Errors
/// The reader is gone.
pub(crate) async fn push(
    to: &mut SendStream<Bytes>,
    mut chunk: Bytes,
    last: bool,
) -> Result<(), Broken> {
    loop {
        to.reserve_capacity(chunk.len());
        let room = match to.capacity() {
            0 if !chunk.is_empty() => room(to).await?,
            room => room,
        };
        let part = chunk.split_to(room.min(chunk.len()));
        to.send_data(part, last && chunk.is_empty()).map_err(reader_gone)?;
        if chunk.is_empty() {
            return Ok(());
        }
    }
}

/// Waits for room in the reader's window.
async fn room(to: &mut SendStream<Bytes>) -> Result<usize, Broken> {
    let granted = poll_fn(|cx| {
        // Both wake the same task.
        if let Poll::Ready(reset) = to.poll_reset(cx) {
            return Poll::Ready(Err(Broken::Reader(reset.unwrap_or(Reason::CANCEL))));
        }
        to.poll_capacity(cx).map(Ok)
    });
    match granted.await? {
        Some(Ok(room)) => Ok(room),
        Some(Err(error)) => Err(reader_gone(error)),
        None => Err(Broken::Reader(Reason::CANCEL)),
    }
}

/// Polls the writer unless the reader is gone.
fn watching<T>(
    to: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
    writer: impl FnOnce(&mut Context<'_>) -> Poll<T>,
) -> Poll<Result<T, Broken>> {
    if let Poll::Ready(ready) = writer(cx) {
        return Poll::Ready(Ok(ready));
    }
    // A reader whose connection is gone gave everything up.
    to.poll_reset(cx).map(|reset| Err(Broken::Reader(reset.unwrap_or(Reason::CANCEL))))
}

#[allow(clippy::needless_pass_by_value, reason = "it is the shape that map_err wants")]
fn reader_gone(error: h2::Error) -> Broken {
    Broken::Reader(error.reason().unwrap_or(Reason::CANCEL))
}
