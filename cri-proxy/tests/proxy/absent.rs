//! containerd that is away, goes away, comes back, or asks to be left.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use h2::Ping;
use http::Response;
use tokio::net::UnixListener;
use tokio::time::timeout;
use tonic::Code;

use crate::bed::Bed;
use crate::client::SOON;
use crate::frames::{Peer, connect, connect_and_ping, request};

#[tokio::test]
async fn a_call_waits_for_a_containerd_that_is_about_to_come() {
    const CALLS: usize = 10;
    let bed = Bed::without_runtime(None);
    let (mut client, mut pings) = connect_and_ping(&bed.socket()).await;
    let mut calls = vec![];
    for _ in 0..CALLS {
        client = client.ready().await.unwrap();
        calls.push(client.send_request(request("/a.B/Early"), true).unwrap().0);
    }
    // The proxy has them.
    timeout(SOON, pings.ping(Ping::opaque())).await.unwrap().unwrap();
    let listener = UnixListener::bind(bed.containerd()).unwrap();
    let mut runtime = Peer::accept(&listener).await;
    for _ in 0..CALLS {
        let (asked, mut answer) = runtime.call().await;
        assert_eq!(asked.uri().path(), "/a.B/Early");
        answer.send_response(Response::new(()), true).unwrap();
    }
    let living = runtime.live();
    for call in calls {
        assert_eq!(timeout(SOON, call).await.unwrap().unwrap().status(), 200);
    }
    living.abort();
}

#[tokio::test]
async fn calls_to_a_containerd_that_stays_away_fail_with_a_sentence_and_then_at_once() {
    let bed = Bed::without_runtime(None);
    let client = bed.client();
    let first = client.unary("Echo", "").await.unwrap_err();
    let said = format!("containerd does not answer on {}", bed.containerd().display());
    assert_eq!(first.code(), Code::Unavailable);
    assert!(first.message().starts_with(&said), "{first:?}");
    assert!(first.message().contains("systemctl status containerd"), "{first:?}");
    // Far more calls than could each have waited.
    let begun = Instant::now();
    for _ in 0..200 {
        assert_eq!(client.unary("Echo", "").await.unwrap_err().code(), Code::Unavailable);
    }
    assert!(begun.elapsed() < 200 * Duration::from_secs(3));
    let _runtime = bed.runtime();
    assert_eq!(client.unary("Echo", "back").await.unwrap(), "back");
}

#[tokio::test]
async fn calls_that_containerd_had_when_it_went_away_fail_and_the_next_ones_do_not() {
    let (bed, runtime) = Bed::up();
    let client = bed.client();
    let hanging = tokio::spawn({
        let client = client.clone();
        async move { client.unary("Hang", "").await }
    });
    let mut stream = client.down("Trickle", "event").await.unwrap();
    runtime.seen.hanging(2).await;
    runtime.seen.drop.notify_one();
    assert_eq!(stream.next().await.unwrap().unwrap(), "event");
    drop(runtime);
    let error = hanging.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error:?}");
    assert!(error.message().contains("whether the call was carried out is not known"), "{error:?}");
    // gRPC's own words.
    assert!(error.message().ends_with("error reading from server: EOF"), "{error:?}");
    let error = timeout(SOON, stream.next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error:?}");
    let _runtime = bed.runtime();
    assert_eq!(
        client.unary("Echo", "on the same connection").await.unwrap(),
        "on the same connection"
    );
}

#[tokio::test]
async fn a_containerd_that_takes_no_more_calls_ends_those_it_has_and_is_connected_to_anew() {
    let bed = Bed::without_runtime(None);
    let listener = UnixListener::bind(bed.containerd()).unwrap();
    let mut client = connect(&bed.socket()).await;
    let (first, _) = client.send_request(request("/a.B/First"), true).unwrap();
    let mut peer = Peer::accept(&listener).await;
    let (_, mut respond) = peer.call().await;
    peer.leave();
    let leaving = peer.live();
    // Calls go to the old connection, which drops them, until GOAWAY has arrived; to a new one then.
    let second = loop {
        let (answer, _) = client.send_request(request("/a.B/Second"), true).unwrap();
        let mut answer = tokio::spawn(answer);
        tokio::select! {
            peer = Peer::accept(&listener) => break (peer, answer),
            refused = &mut answer => assert!(refused.unwrap().unwrap_err().is_reset()),
        }
    };
    let (mut peer, answer) = second;
    let (heard, mut respond_second) = peer.call().await;
    assert_eq!(heard.uri().path(), "/a.B/Second");
    let connection = peer.live();
    respond_second.send_response(Response::new(()), true).unwrap();
    timeout(SOON, answer).await.unwrap().unwrap().unwrap();
    respond.send_response(Response::builder().status(201).body(()).unwrap(), true).unwrap();
    assert_eq!(timeout(SOON, first).await.unwrap().unwrap().status(), 201);
    timeout(SOON, leaving).await.unwrap().unwrap();
    connection.abort();
}
