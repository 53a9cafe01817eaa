//! The request of a call, on its way to containerd: what was read of it for an intercept, then the rest.

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};

use crate::message::{Collected, End};
use crate::pump::{self, Broken, Moved};

/// A request.
pub(crate) struct Ask {
    read: Collected,
    body: RecvStream,
}

impl Ask {
    pub(crate) fn new(body: RecvStream) -> Self {
        Self { read: Collected::default(), body }
    }

    /// Reads the request so far as `limit` allows; what was read is sent all the same.
    ///
    /// # Errors
    /// The client went away.
    pub(crate) async fn look(&mut self, limit: usize) -> Result<Option<Bytes>, h2::Error> {
        self.read = Collected::read(&mut self.body, limit).await?;
        Ok(self.read.message())
    }

    /// Whether there is nothing to send but the head.
    pub(crate) fn is_empty(&self) -> bool {
        self.read.chunks.is_empty()
            && match self.read.end {
                End::Closed(None) => true,
                End::Closed(Some(_)) => false,
                End::Open => self.body.is_end_stream(),
            }
    }

    /// Sends all of it. Returns why the client gave up; for ever pending once there is nothing more to send or nobody to take it:
    /// then the answer says how the call ends.
    ///
    /// # Cancellation
    /// Dropped when the answer is complete.
    pub(crate) async fn send(self, to: &mut SendStream<Bytes>) -> Reason {
        match self.try_send(to).await {
            Err(Broken::Writer(error)) => error.reason().unwrap_or(Reason::CANCEL),
            Ok(()) | Err(Broken::Reader(_)) => futures::future::pending().await,
        }
    }

    async fn try_send(mut self, to: &mut SendStream<Bytes>) -> Result<(), Broken> {
        if self.is_empty() {
            return Ok(());
        }
        let whole = self.read.end == End::Closed(None);
        let mut chunks = self.read.chunks.into_iter().peekable();
        while let Some(chunk) = chunks.next() {
            pump::push(to, chunk, whole && chunks.peek().is_none()).await?;
        }
        match self.read.end {
            End::Closed(None) => Ok(()),
            End::Closed(Some(trailers)) => pump::finish(to, Some(trailers)),
            End::Open => pump::carry(&mut self.body, to, &Moved::default()).await,
        }
    }
}
