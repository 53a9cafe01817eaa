//! What passes: every kind of method, messages of every size, many at once, and how calls end.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use tonic::{Code, Request};

use crate::bed::Bed;
use crate::client::{SOON, invented};
use crate::runtime::TOGETHER;

#[tokio::test]
async fn every_kind_of_method_of_an_invented_service_passes() {
    let (bed, _runtime) = Bed::up();
    let client = bed.client();
    assert_eq!(client.unary("Echo", "hello").await.unwrap(), "hello");
    assert_eq!(client.unary("Echo", "").await.unwrap(), "", "an empty message");
    let words = vec![Bytes::from("a"), Bytes::from(""), Bytes::from("bc")];
    assert_eq!(client.up(words).await.unwrap(), "abc");
    assert_eq!(client.up(vec![]).await.unwrap(), "", "no message at all");
    let letters: Vec<Bytes> =
        client.down("Down", "xyz").await.unwrap().try_collect().await.unwrap();
    assert_eq!(letters, ["x", "y", "z"]);
    let none: Vec<Bytes> = client.down("Down", "").await.unwrap().try_collect().await.unwrap();
    assert_eq!(none, [""; 0]);
}

#[tokio::test]
async fn both_sides_of_a_call_speak_in_turn() {
    let (bed, _runtime) = Bed::up();
    let (say, said) = tokio::sync::mpsc::channel(1);
    let said = tokio_stream::wrappers::ReceiverStream::new(said);
    let mut heard = bed.client().both(said).await.unwrap();
    for word in ["one", "two", "three"] {
        say.send(Bytes::from(word)).await.unwrap();
        assert_eq!(heard.next().await.unwrap().unwrap(), word);
    }
    drop(say);
    assert!(heard.next().await.is_none());
}

#[tokio::test]
async fn an_error_passes_with_its_sentence_its_details_and_its_metadata() {
    let (bed, _runtime) = Bed::up();
    let error = bed.client().unary("Fail", "").await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::ResourceExhausted, "100 % \u{fc}ber"));
    assert_eq!(error.details(), [0, 255, 7]);
    assert_eq!(error.metadata().get("why").unwrap(), "because");
    let missing = bed.client().unary("Missing", "").await.unwrap_err();
    assert_eq!(missing.message(), "there is no such method");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_64_mib_pass_in_both_directions() {
    let (bed, _runtime) = Bed::up();
    let message: Vec<u8> = (0..64_u32 << 20).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect();
    let answer = bed.client().unary("Echo", message.clone()).await.unwrap();
    assert!(answer == message, "{} bytes came back changed", answer.len());
}

#[tokio::test]
async fn two_hundred_calls_are_there_at_once() {
    let (bed, _runtime) = Bed::up();
    let client = bed.client();
    let calls = (0..TOGETHER).map(|i| {
        let client = client.clone();
        async move { (i, client.unary("Together", format!("call {i}")).await.unwrap()) }
    });
    for (i, answer) in futures::future::join_all(calls).await {
        assert_eq!(answer, format!("call {i}"));
    }
}

#[tokio::test]
async fn a_call_that_is_given_up_is_given_up_at_containerd() {
    let (bed, runtime) = Bed::up();
    let client = bed.client();
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.unary("Hang", "").await }
    });
    runtime.seen.hanging(1).await;
    call.abort();
    tokio::time::timeout(SOON, runtime.seen.hanging(0)).await.unwrap();
    let stream = client.down("Trickle", "drop").await.unwrap();
    runtime.seen.hanging(1).await;
    drop(stream);
    tokio::time::timeout(SOON, runtime.seen.hanging(0)).await.unwrap();
    assert_eq!(client.unary("Echo", "and on").await.unwrap(), "and on");
}

#[tokio::test]
async fn calls_of_a_client_that_is_gone_are_given_up_at_containerd() {
    let (bed, runtime) = Bed::up();
    let other = bed.client();
    assert_eq!(other.unary("Echo", "here").await.unwrap(), "here");
    let client = bed.client();
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.unary("Hang", "").await })
        })
        .collect();
    runtime.seen.hanging(3).await;
    calls.iter().for_each(tokio::task::JoinHandle::abort);
    drop(client);
    tokio::time::timeout(SOON, runtime.seen.hanging(0)).await.unwrap();
    assert_eq!(other.unary("Echo", "still").await.unwrap(), "still");
}

#[tokio::test]
async fn a_deadline_ends_a_call_at_both_ends() {
    let (bed, runtime) = Bed::up();
    let mut request = Request::new(Bytes::new());
    request.set_timeout(Duration::from_millis(200));
    let error = bed.client().at(invented("Hang"), request).await.unwrap_err();
    // Client and server have the same deadline, either may be first.
    assert!(matches!(error.code(), Code::DeadlineExceeded | Code::Cancelled), "{error:?}");
    tokio::time::timeout(SOON, runtime.seen.hanging(0)).await.unwrap();
}
