//! What is bounded: memory by windows, not time.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use godwit_cri_proxy::limits::{MAX_CONNECTIONS, PREFACE, SEND_BUFFER, STREAM_WINDOW};
use tokio::net::UnixStream;

use crate::bed::Bed;
use crate::client::SOON;
use crate::process::{PROGRAM, Patient, Proxy};
use crate::runtime::Runtime;

const MESSAGE: usize = 64 << 10;
/// Of the client's and the server's libraries: their windows and buffers, and a message on each side.
const PEERS: usize = 4 << 20;

#[tokio::test]
async fn a_reader_that_does_not_read_stops_its_writer_and_nobody_else() {
    let (bed, runtime) = Bed::up();
    let client = bed.client();
    let mut stream = client.down("Endless", vec![7; MESSAGE]).await.unwrap();
    for i in 0..500 {
        let word = format!("call {i}");
        assert_eq!(client.unary("Echo", word.clone()).await.unwrap(), word);
    }
    let written = runtime.seen.written.load(Ordering::Relaxed) * MESSAGE;
    let bound = STREAM_WINDOW as usize + SEND_BUFFER + PEERS;
    assert!(written <= bound, "{written} bytes were taken from the writer, at most {bound} may be");
    for _ in 0..1000 {
        assert_eq!(stream.next().await.unwrap().unwrap(), vec![7; MESSAGE]);
    }
}

#[tokio::test]
async fn fifty_streams_that_nobody_reads_do_not_hold_up_the_other_calls() {
    let (bed, _runtime) = Bed::up();
    let client = bed.client();
    let mut streams = vec![];
    for _ in 0..50 {
        streams.push(client.down("Endless", vec![7; MESSAGE]).await.unwrap());
    }
    let other = bed.client();
    for client in [&client, &other] {
        let message = vec![1; 1 << 20];
        assert!(client.unary("Echo", message.clone()).await.unwrap() == message);
    }
}

#[tokio::test]
async fn a_stream_of_small_messages_that_is_read_late_does_not_end_its_connection() {
    let (bed, runtime) = Bed::up();
    let client = bed.client();
    let mut stream = client.down("Endless", "x").await.unwrap();
    // Long enough for both windows to be full of frames of six bytes.
    for _ in 0..500 {
        assert_eq!(client.unary("Echo", "x").await.unwrap(), "x");
    }
    let before = runtime.seen.written.load(Ordering::Relaxed);
    for _ in 0..before + 1000 {
        assert_eq!(stream.next().await.unwrap().unwrap(), "x");
    }
}

#[tokio::test]
async fn a_stream_outlives_idle_hours() {
    let (bed, runtime) = Bed::up();
    let mut stream = bed.client().down("Trickle", "event").await.unwrap();
    for _ in 0..2 {
        runtime.seen.drop.notify_one();
        assert_eq!(stream.next().await.unwrap().unwrap(), "event");
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(26 * 3600)).await;
        tokio::time::resume();
    }
    runtime.seen.drop.notify_one();
    assert_eq!(stream.next().await.unwrap().unwrap(), "event");
}

#[tokio::test]
async fn a_client_that_says_nothing_is_sent_away() {
    let (bed, _runtime) = Bed::up();
    let mut silent = UnixStream::connect(bed.socket()).await.unwrap();
    // It is accepted before the clock goes on: clients are taken in turn.
    assert_eq!(bed.client().unary("Echo", "x").await.unwrap(), "x");
    tokio::time::pause();
    tokio::time::advance(PREFACE).await;
    tokio::time::resume();
    let mut end = vec![];
    let read = tokio::io::AsyncReadExt::read_to_end(&mut silent, &mut end);
    tokio::time::timeout(SOON, read).await.unwrap().unwrap();
}

#[tokio::test]
async fn clients_beyond_the_limit_wait_until_one_leaves() {
    // Both ends of all connections are in this process.
    godwit_cri_proxy::resources::make_room();
    let (bed, _runtime) = Bed::up();
    let mut others = vec![];
    for _ in 0..MAX_CONNECTIONS {
        others.push(UnixStream::connect(bed.socket()).await.unwrap());
    }
    let call = tokio::spawn({
        let client = bed.client();
        async move { client.unary("Echo", Bytes::from("at last")).await }
    });
    // Their order in the queue is that of their coming: this one is behind all of them.
    tokio::task::yield_now().await;
    assert!(!call.is_finished());
    others.pop();
    assert_eq!(call.await.unwrap().unwrap(), "at last");
}

/// Memory of its own, KiB.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_clients_took_goes_back_to_the_system_when_they_have_left() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, containerd) = (dir.path().join("cri.sock"), dir.path().join("containerd.sock"));
    let _runtime = Runtime::serve(&containerd);
    let proxy = Proxy::listening(Path::new(PROGRAM), &socket, &containerd);
    proxy.says("serving", 1).await;
    let pid = proxy.child.id().unwrap();
    let mut clients: Vec<_> = (0..200).map(|_| Patient::of(&socket)).collect();
    for client in &mut clients {
        client.echo().await;
    }
    let busy = memory(pid);
    drop(clients);
    let given_back = async {
        while memory(pid) > busy / 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let given_back = tokio::time::timeout(SOON, given_back).await;
    assert!(given_back.is_ok(), "{} KiB of {busy} are kept", memory(pid));
}
