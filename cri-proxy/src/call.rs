//! One call, from its head to its trailers.
//!
//! ```text
//! head ─ looked into? ─no──────────────────────┬─► containerd ready ─► head sent ─┬─ ask ────► pumped ─┐
//!             │yes                             │                                  └─ answer ◄─ pumped ─┴─► over
//!             └► request read ─► before ─┬ Pass ┘        (after: once, before the answer is sent)
//!                                        └ Answer, End ─► over
//! ```
//! Whatever happens, a client that gave up is seen at every arrow, and containerd is told with the same reason.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::uri::{Authority, Scheme, Uri};
use http::{Request, Response, request};
use tokio::time::{Instant, timeout_at};

use crate::answer::{Answer, Gone};
use crate::ask::Ask;
use crate::containerd::{Away, Link};
use crate::cri::Method;
use crate::drain::Drain;
use crate::intercept::{Call, Intercept, Interest, Outcome, Verdict};
use crate::limits::{ATTEMPTS, MAX_HOLD, MAX_SEEN, QUIET};
use crate::message::{self, Collected, End};
use crate::pump::{self, Broken, Moved};
use crate::status::{GRPC_STATUS, GrpcCode, Status};

/// What all calls share.
pub(crate) struct Calls {
    pub(crate) intercept: Option<Arc<dyn Intercept>>,
    pub(crate) drain: Drain,
}

/// How a call ends that was not carried to its end.
enum Early {
    /// The client does not wait.
    Gone(Reason),
    /// We say how.
    Status(Status),
    /// Without words.
    Reset(Reason),
}

impl From<Gone> for Early {
    fn from(gone: Gone) -> Self {
        Self::Gone(gone.0)
    }
}

impl From<Away> for Early {
    fn from(away: Away) -> Self {
        Self::Status(away.status())
    }
}

/// Serves a call to its end, whatever that is.
pub(crate) async fn serve(
    calls: Arc<Calls>,
    link: Arc<Link>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let mut answer = Answer::new(respond, calls.drain.waiting());
    let (mut head, body) = request.into_parts();
    name_authority(&mut head.uri);
    let end = tokio::select! {
        biased;
        end = pass(&calls, &link, head, Ask::new(body), &mut answer) => end,
        () = calls.drain.cut() => Err(Early::Status(restarting())),
    };
    match end {
        Ok(()) => {}
        Err(Early::Gone(reason)) => answer.reset(reason),
        Err(Early::Reset(reason)) => answer.reset(reason),
        Err(Early::Status(status)) => answer.end(&status),
    }
}

/// Passes a call, unless who looks into it has another idea.
async fn pass(
    calls: &Calls,
    link: &Link,
    head: request::Parts,
    mut ask: Ask,
    answer: &mut Answer,
) -> Result<(), Early> {
    let seen = match &calls.intercept {
        Some(intercept) => look(intercept, &head, &mut ask, answer).await?,
        None => None,
    };
    let after = match &seen {
        Some(seen) => match seen.decide(answer).await? {
            Verdict::Pass => (seen.interest == Interest::Around).then_some(seen),
            Verdict::Answer(message) => return answer_ourselves(&message, answer).await,
            Verdict::End(status) => return Err(Early::Status(status)),
        },
        None => None,
    };
    let (response, mut to) = send_head(link, &head, ask.is_empty(), answer).await?;
    let end = tokio::select! {
        biased;
        reason = ask.send(&mut to) => Err(Early::Gone(reason)),
        end = receive(response, link, calls, after, answer) => end,
    };
    if let Err(Early::Gone(reason)) = end {
        to.send_reset(reason);
    }
    end
}

/// A call that is looked into.
struct Seen<'a> {
    intercept: &'a dyn Intercept,
    interest: Interest,
    call: Call,
    until: Instant,
}

/// Reads the request, if somebody wants to see it and it can be read.
async fn look<'a>(
    intercept: &'a Arc<dyn Intercept>,
    head: &request::Parts,
    ask: &mut Ask,
    answer: &mut Answer,
) -> Result<Option<Seen<'a>>, Early> {
    let Some(method) = Method::of_path(head.uri.path()) else { return Ok(None) };
    let interest = intercept.interest(method);
    if interest == Interest::Nothing {
        return Ok(None);
    }
    let begun = Instant::now();
    let timeout = head.headers.get("grpc-timeout").and_then(|v| timeout(v.as_bytes()));
    let read = answer.unless_gone(ask.look(MAX_SEEN)).await?;
    let message = read.map_err(|error| Early::Gone(error.reason().unwrap_or(Reason::CANCEL)))?;
    let request = message.and_then(|message| method.read(message).ok());
    let Some(request) = request else {
        tracing::debug!(method = method.name(), "a request that cannot be read passes unseen");
        return Ok(None);
    };
    let deadline = timeout.and_then(|timeout| begun.checked_add(timeout));
    Ok(Some(Seen {
        intercept: intercept.as_ref(),
        interest,
        call: Call { request, deadline: deadline.map(Instant::into_std) },
        until: deadline.unwrap_or(begun + MAX_HOLD),
    }))
}

impl Seen<'_> {
    async fn decide(&self, answer: &mut Answer) -> Result<Verdict, Early> {
        let before = timeout_at(self.until, self.intercept.before(&self.call));
        Ok(match answer.unless_gone(before).await? {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(absent)) => {
                tracing::info!(need = ?absent.need, reason = absent.reason, "nobody decides on a call");
                absent.verdict()
            }
            Err(_) => Verdict::End(Status::new(
                GrpcCode::DeadlineExceeded,
                "the call was held by Godwit until its deadline: see the log of godwit-agent",
            )),
        })
    }

    async fn tell(&self, outcome: &Outcome, answer: &mut Answer) -> Result<(), Early> {
        let after = timeout_at(self.until, self.intercept.after(&self.call, outcome));
        if answer.unless_gone(after).await?.is_err() {
            tracing::warn!("an answer was held until the deadline of its call, and passes now");
        }
        Ok(())
    }
}

async fn answer_ourselves(message: &[u8], answer: &mut Answer) -> Result<(), Early> {
    let Some(framed) = message::framed(message) else {
        let status = Status::new(GrpcCode::Internal, "an answer of Godwit is too long");
        return Err(Early::Status(status));
    };
    if let Some(to) = answer.begin(crate::status::head(), false)? {
        pump::push(to, framed, false).await.map_err(client_gone)?;
        pump::finish(to, Some(Status::ok().trailers())).map_err(client_gone)?;
    }
    Ok(())
}

/// Sends the head on a connection that takes it.
async fn send_head(
    link: &Link,
    head: &request::Parts,
    last: bool,
    answer: &mut Answer,
) -> Result<(ResponseFuture, SendStream<Bytes>), Early> {
    let mut attempts = ATTEMPTS;
    loop {
        let mut sender: SendRequest<Bytes> = answer.unless_gone(link.ready()).await??;
        attempts -= 1;
        match sender.send_request(Request::from_parts(head.clone(), ()), last) {
            Ok(sent) => return Ok(sent),
            // The connection went away in this moment: nothing was sent.
            Err(error) if attempts > 0 && (error.is_io() || error.is_go_away()) => {}
            Err(error) => {
                let message = format!("the head of this call cannot be passed on: {error}");
                return Err(Early::Status(Status::new(GrpcCode::Internal, message)));
            }
        }
    }
}

/// Carries the answer.
async fn receive(
    response: ResponseFuture,
    link: &Link,
    calls: &Calls,
    after: Option<&Seen<'_>>,
    answer: &mut Answer,
) -> Result<(), Early> {
    let gone = |error| containerd_gone(error, link);
    let response = answer.unless_gone(response).await?.map_err(gone)?;
    let (head, mut body) = response.into_parts();
    let head = Response::from_parts(head, ());
    // An answer that is nothing but trailers.
    let last = body.is_end_stream();
    if let Some(seen) = after {
        return receive_seen(head, body, last, link, seen, answer).await;
    }
    let Some(to) = answer.begin(head, last)? else { return Ok(()) };
    let moved = Moved::default();
    let quiet = async {
        calls.drain.leaving().await;
        moved.quiet_for(QUIET).await;
    };
    let carried = tokio::select! {
        biased;
        carried = pump::carry(&mut body, to, &moved) => carried,
        () = quiet => return Err(Early::Status(restarting())),
    };
    carried.map_err(|broken| match broken {
        Broken::Writer(error) => containerd_gone(error, link),
        gone @ Broken::Reader(_) => client_gone(gone),
    })
}

/// Carries an answer that somebody wants to see first.
async fn receive_seen(
    head: Response<()>,
    mut body: RecvStream,
    last: bool,
    link: &Link,
    seen: &Seen<'_>,
    answer: &mut Answer,
) -> Result<(), Early> {
    let read = answer.unless_gone(Collected::read(&mut body, MAX_SEEN)).await?;
    let read = read.map_err(|error| containerd_gone(error, link))?;
    let code = |map: &http::HeaderMap| map.get(GRPC_STATUS)?.to_str().ok()?.parse().ok();
    let trailers = match &read.end {
        End::Closed(Some(trailers)) => trailers,
        _ => head.headers(),
    };
    let outcome = Outcome { code: code(trailers), message: read.message() };
    seen.tell(&outcome, answer).await?;
    let Some(to) = answer.begin(head, last)? else { return Ok(()) };
    for chunk in read.chunks {
        pump::push(to, chunk, false).await.map_err(client_gone)?;
    }
    match read.end {
        End::Closed(trailers) => pump::finish(to, trailers),
        End::Open => pump::carry(&mut body, to, &Moved::default()).await,
    }
    .map_err(|broken| match broken {
        Broken::Writer(error) => containerd_gone(error, link),
        gone @ Broken::Reader(_) => client_gone(gone),
    })
}

fn client_gone(broken: Broken) -> Early {
    match broken {
        Broken::Reader(reason) => Early::Gone(reason),
        Broken::Writer(error) => Early::Gone(error.reason().unwrap_or(Reason::CANCEL)),
    }
}

/// gRPC's own words of a connection that ended, which clients look for who have to tell it from other reasons.
const GONE: &str = "error reading from server: EOF";

/// What the client is told when containerd gives a call up.
fn containerd_gone(error: h2::Error, link: &Link) -> Early {
    match error.reason() {
        Some(reason) if error.is_reset() && error.is_remote() => Early::Reset(reason),
        // It never looked at the call: the client may make it again, and gRPC's libraries do by themselves.
        Some(_) if error.is_go_away() && error.is_remote() => Early::Reset(Reason::REFUSED_STREAM),
        _ => Early::Status(Status::new(
            GrpcCode::Unavailable,
            format!(
                "containerd ({}) went away before it had answered ({error}); whether the call was carried out is not known; {GONE}",
                link.containerd().socket().display()
            ),
        )),
    }
}

fn restarting() -> Status {
    Status::new(GrpcCode::Unavailable, "godwit-cri-proxy restarts: make the call again")
}

/// HTTP/2 lets `:authority` be absent; the library that sends does not.
fn name_authority(uri: &mut Uri) {
    if uri.authority().is_some() {
        return;
    }
    let mut parts = std::mem::take(uri).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(Authority::from_static("localhost"));
    // A path and an authority always make an address.
    *uri = Uri::from_parts(parts).unwrap_or_default();
}

/// `grpc-timeout`: up to eight digits and a unit.
fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_as_grpc_writes_them() {
        assert_eq!(timeout(b"2S"), Some(Duration::from_secs(2)));
        assert_eq!(timeout(b"99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(timeout(b"100m"), Some(Duration::from_millis(100)));
        for bad in [&b""[..], b"S", b"2", b"2x", b"-2S", b"123456789S"] {
            assert_eq!(timeout(bad), None);
        }
    }

    #[test]
    fn a_call_without_authority_gets_one() {
        let mut uri = Uri::from_static("/a.B/C?x=1");
        name_authority(&mut uri);
        assert_eq!(uri, "http://localhost/a.B/C?x=1");
        let mut uri = Uri::from_static("http://me/a.B/C");
        name_authority(&mut uri);
        assert_eq!(uri, "http://me/a.B/C");
    }
}
