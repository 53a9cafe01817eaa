//! The answer of a call, on its way to the client: how far it is, and how it can still end.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::Response;

use crate::drain::Waiting;
use crate::status::Status;

/// The client gave the call up, or its connection is gone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gone(pub(crate) Reason);

/// An answer.
pub(crate) struct Answer {
    state: State,
}

enum State {
    /// Nothing has been said.
    Silent { respond: SendResponse<Bytes>, _waiting: Waiting },
    /// The head has been sent, the end not.
    Begun(SendStream<Bytes>),
    /// All has been said.
    Over,
}

impl Answer {
    pub(crate) fn new(respond: SendResponse<Bytes>, waiting: Waiting) -> Self {
        Self { state: State::Silent { respond, _waiting: waiting } }
    }

    /// Sends the head; `last`: there is nothing else. Returns where the rest goes.
    ///
    /// # Errors
    /// The client is gone, or was told something already.
    pub(crate) fn begin(
        &mut self,
        head: Response<()>,
        last: bool,
    ) -> Result<Option<&mut SendStream<Bytes>>, Gone> {
        let State::Silent { respond, .. } = &mut self.state else {
            return Err(Gone(Reason::INTERNAL_ERROR));
        };
        let stream = respond
            .send_response(head, last)
            .map_err(|error| Gone(error.reason().unwrap_or(Reason::CANCEL)))?;
        self.state = if last { State::Over } else { State::Begun(stream) };
        Ok(match &mut self.state {
            State::Begun(stream) => Some(stream),
            State::Silent { .. } | State::Over => None,
        })
    }

    /// Ends the call with our own words, whatever has been said so far. A client that is gone does not hear them.
    pub(crate) fn end(&mut self, status: &Status) {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Silent { mut respond, .. } => {
                let _ = respond.send_response(status.answer(), true);
            }
            State::Begun(mut stream) => {
                let _ = stream.send_trailers(status.trailers());
            }
            State::Over => {}
        }
    }

    /// Ends the call as containerd did: without words.
    pub(crate) fn reset(&mut self, reason: Reason) {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Silent { mut respond, .. } => respond.send_reset(reason),
            State::Begun(mut stream) => stream.send_reset(reason),
            State::Over => {}
        }
    }

    /// Does something for as long as the client waits for it.
    ///
    /// # Errors
    /// It does not wait any more; the future is dropped.
    pub(crate) async fn unless_gone<F: Future>(&mut self, future: F) -> Result<F::Output, Gone> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            self.poll_gone(cx).map(Err)
        })
        .await
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Gone> {
        let reset = match &mut self.state {
            State::Silent { respond, .. } => respond.poll_reset(cx),
            State::Begun(stream) => stream.poll_reset(cx),
            State::Over => return Poll::Pending,
        };
        reset.map(|reset| Gone(reset.unwrap_or(Reason::CANCEL)))
    }
}
