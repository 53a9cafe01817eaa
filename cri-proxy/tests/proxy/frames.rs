//! Between bare HTTP/2 peers: heads, trailers and resets, byte for byte and frame for frame.

use std::future::poll_fn;
use std::path::Path;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{PingPong, Reason, RecvStream, client, server};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::bed::Bed;
use crate::client::SOON;

/// containerd's side of one connection.
pub(crate) struct Peer(server::Connection<UnixStream, Bytes>);

impl Peer {
    pub(crate) async fn accept(listener: &UnixListener) -> Self {
        let (stream, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
        Self(server::handshake(stream).await.unwrap())
    }

    /// The next call. The connection lives on behind it.
    pub(crate) async fn call(&mut self) -> (Request<RecvStream>, SendResponse<Bytes>) {
        timeout(SOON, self.0.accept()).await.unwrap().unwrap().unwrap()
    }

    /// No more calls than those that are there.
    pub(crate) fn leave(&mut self) {
        self.0.graceful_shutdown();
    }

    /// Lets the connection live by itself; calls that come are dropped.
    pub(crate) fn live(mut self) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move { while self.0.accept().await.is_some() {} })
    }
}

/// kubelet's side of one connection.
pub(crate) async fn connect(socket: &Path) -> client::SendRequest<Bytes> {
    connect_and_ping(socket).await.0
}

/// The same, and pings on it: who answers one has read all that was said before.
pub(crate) async fn connect_and_ping(socket: &Path) -> (client::SendRequest<Bytes>, PingPong) {
    let stream = UnixStream::connect(socket).await.unwrap();
    let (sender, mut connection) = client::handshake(stream).await.unwrap();
    let pings = connection.ping_pong().unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    (sender.ready().await.unwrap(), pings)
}

/// A proxy, a client's side, and containerd's listener.
async fn up() -> (Bed, client::SendRequest<Bytes>, UnixListener) {
    let bed = Bed::without_runtime(None);
    let listener = UnixListener::bind(bed.containerd()).unwrap();
    let client = connect(&bed.socket()).await;
    (bed, client, listener)
}

pub(crate) fn request(path: &str) -> Request<()> {
    let uri = format!("http://localhost{path}");
    Request::post(uri).header("content-type", "application/grpc").body(()).unwrap()
}

/// Names in any order, values of one name in theirs, and bytes as they are.
fn strange_metadata() -> HeaderMap {
    let mut map = HeaderMap::new();
    let mut add = |name: &'static str, value: &[u8]| {
        map.append(name, HeaderValue::from_bytes(value).unwrap());
    };
    add("content-type", b"application/grpc+proto");
    add("te", b"trailers");
    add("grpc-timeout", b"7200123m");
    add("user-agent", b"grpc-go/1.99.0-dev");
    add("trace-bin", b"AAEC/w==");
    add("trace-bin", b"");
    add("many", b"one");
    add("many", b"two, three");
    add("many", b"one");
    add("high", &[0x80, 0xff, b' ', b'%']);
    add("empty", b"");
    map
}

async fn body_of(mut body: RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut all = vec![];
    while let Some(chunk) = body.data().await {
        let chunk = chunk.unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        all.extend_from_slice(&chunk);
    }
    (all, body.trailers().await.unwrap())
}

#[tokio::test]
async fn heads_bodies_and_trailers_pass_byte_for_byte() {
    let (_bed, mut client, listener) = up().await;
    let mut asked = Request::post("https://some.where:77/a.B/C?d=%20e").body(()).unwrap();
    *asked.headers_mut() = strange_metadata();
    let (response, mut send) = client.send_request(asked.clone(), false).unwrap();
    send.send_data(Bytes::from_static(b"no gRPC framing"), false).unwrap();
    send.send_trailers(strange_metadata()).unwrap();

    let mut peer = Peer::accept(&listener).await;
    let (heard, mut respond) = peer.call().await;
    let connection = peer.live();
    assert_eq!(heard.uri(), asked.uri());
    assert_eq!(heard.method(), asked.method());
    assert_eq!(heard.headers(), &strange_metadata());
    let (body, trailers) = body_of(heard.into_body()).await;
    assert_eq!((body.as_slice(), trailers), (&b"no gRPC framing"[..], Some(strange_metadata())));

    let mut head = Response::builder().status(207).body(()).unwrap();
    *head.headers_mut() = strange_metadata();
    let mut answer = respond.send_response(head, false).unwrap();
    answer.send_data(Bytes::from_static(&[0, 0, 0, 0, 9, 1]), false).unwrap();
    answer.send_trailers(strange_metadata()).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 207);
    assert_eq!(response.headers(), &strange_metadata());
    let (body, trailers) = body_of(response.into_body()).await;
    assert_eq!((body, trailers), (vec![0, 0, 0, 0, 9, 1], Some(strange_metadata())));
    connection.abort();
}

#[tokio::test]
async fn an_answer_that_is_nothing_but_trailers_stays_so() {
    let (_bed, mut client, listener) = up().await;
    // The client has not ended its request: containerd does not want to hear it.
    let (response, mut send) = client.send_request(request("/a.B/C"), false).unwrap();
    let mut peer = Peer::accept(&listener).await;
    let (heard, mut respond) = peer.call().await;
    let only = Response::builder().header("grpc-status", "12").body(()).unwrap();
    respond.send_response(only, true).unwrap();
    // As servers do it: RST_STREAM(NO_ERROR) behind the answer.
    drop((heard, respond));
    let connection = peer.live();
    let response = timeout(SOON, response).await.unwrap().unwrap();
    assert_eq!(response.headers().get("grpc-status").unwrap(), "12");
    assert!(response.body().is_end_stream(), "one frame, not two");
    let reason = timeout(SOON, poll_fn(|cx| send.poll_reset(cx))).await.unwrap().unwrap();
    assert_eq!(reason, Reason::NO_ERROR);
    connection.abort();
}

#[tokio::test]
async fn resets_pass_in_both_directions_with_their_reason() {
    let (_bed, mut client, listener) = up().await;
    let (response, mut send) = client.send_request(request("/a.B/C"), false).unwrap();
    let mut peer = Peer::accept(&listener).await;
    let (mut heard, _respond) = peer.call().await;
    send.send_reset(Reason::INADEQUATE_SECURITY);
    let (second, _) = client.send_request(request("/a.B/D"), true).unwrap();
    let (_, mut respond) = peer.call().await;
    let connection = peer.live();
    let error = timeout(SOON, heard.body_mut().data()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::INADEQUATE_SECURITY));
    drop(response);
    // Before an answer has begun.
    respond.send_reset(Reason::REFUSED_STREAM);
    let error = timeout(SOON, second).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM));
    connection.abort();
}

#[tokio::test]
async fn a_reset_in_the_middle_of_an_answer_passes() {
    let (_bed, mut client, listener) = up().await;
    let (response, _) = client.send_request(request("/a.B/C"), true).unwrap();
    let mut peer = Peer::accept(&listener).await;
    let (_heard, mut respond) = peer.call().await;
    let connection = peer.live();
    let mut answer = respond.send_response(Response::new(()), false).unwrap();
    answer.send_data(Bytes::from_static(b"half"), false).unwrap();
    let mut body = timeout(SOON, response).await.unwrap().unwrap().into_body();
    assert_eq!(timeout(SOON, body.data()).await.unwrap().unwrap().unwrap(), "half");
    answer.send_reset(Reason::ENHANCE_YOUR_CALM);
    let error = timeout(SOON, body.data()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
    connection.abort();
}

#[tokio::test]
async fn a_client_that_gives_up_half_an_answer_is_heard() {
    let (_bed, mut client, listener) = up().await;
    let (response, mut send) = client.send_request(request("/a.B/C"), false).unwrap();
    send.send_data(Bytes::from_static(b"all of it"), true).unwrap();
    let mut peer = Peer::accept(&listener).await;
    let (_heard, mut respond) = peer.call().await;
    let connection = peer.live();
    let mut answer = respond.send_response(Response::new(()), false).unwrap();
    let response = timeout(SOON, response).await.unwrap().unwrap();
    send.send_reset(Reason::CANCEL);
    let reason = timeout(SOON, poll_fn(|cx| answer.poll_reset(cx))).await.unwrap().unwrap();
    assert_eq!(reason, Reason::CANCEL);
    drop(response);
    connection.abort();
}
