//! What is no HTTP/2, or stops in the middle of it, ends its own connection and nothing else.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::bed::Bed;
use crate::client::SOON;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Each with what it is.
fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    let after = |frame: &[u8]| [PREFACE, SETTINGS, frame].concat();
    vec![
        ("HTTP/1", b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec()),
        ("noise", (0..4096_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()),
        ("a frame longer than allowed", after(&[255, 255, 255, 0, 0, 0, 0, 0, 1])),
        ("data of a stream that is not there", after(&[0, 0, 1, 0, 0, 0, 0, 0, 1, 7])),
        ("headers that cannot be unpacked", after(&[0, 0, 2, 1, 4, 0, 0, 0, 1, 255, 255])),
        ("a stream number that is a server's", after(&[0, 0, 1, 1, 4, 0, 0, 0, 2, 0x82])),
        ("a continuation of nothing", after(&[0, 0, 1, 9, 4, 0, 0, 0, 1, 0x82])),
        ("settings of a wrong length", after(&[0, 0, 5, 4, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4])),
    ]
}

#[tokio::test]
async fn garbage_ends_its_own_connection_only() {
    let (bed, runtime) = Bed::up();
    let client = bed.client();
    let hanging = tokio::spawn({
        let client = client.clone();
        async move { client.unary("Hang", "").await }
    });
    runtime.seen.hanging(1).await;
    for (what, bytes) in garbage() {
        let mut stream = UnixStream::connect(bed.socket()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut said = vec![];
        // It may be a farewell, a GOAWAY, or a connection that is cut while we write.
        let read = timeout(SOON, stream.read_to_end(&mut said)).await;
        assert!(read.is_ok(), "{what}: the connection is kept");
        assert_eq!(client.unary("Echo", what).await.unwrap(), what);
    }
    assert!(!hanging.is_finished(), "a call of another connection was lost");
    hanging.abort();
}

#[tokio::test]
async fn a_client_that_stops_in_the_middle_takes_its_call_with_it() {
    let (bed, runtime) = Bed::up();
    let client = bed.client();
    // A head of "/test.v9.Invented/Up" and a message that is announced as longer than what comes.
    let mut head = vec![0x83, 0x86, 0x04, 20];
    head.extend_from_slice(b"/test.v9.Invented/Up");
    head.extend_from_slice(&[0x41, 9]);
    head.extend_from_slice(b"localhost");
    head.extend_from_slice(&[0x5f, 16]);
    head.extend_from_slice(b"application/grpc");
    let mut bytes = [PREFACE, SETTINGS].concat();
    bytes.extend_from_slice(&[0, 0, u8::try_from(head.len()).unwrap(), 1, 4, 0, 0, 0, 1]);
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(&[0, 0, 100, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    for length in [bytes.len(), bytes.len() - 3, bytes.len() - 20, PREFACE.len() + 3, 5] {
        let mut stream = UnixStream::connect(bed.socket()).await.unwrap();
        stream.write_all(&bytes[..length]).await.unwrap();
        assert_eq!(client.unary("Echo", "there").await.unwrap(), "there");
        drop(stream);
        assert_eq!(client.unary("Echo", "and after").await.unwrap(), "and after");
    }
    runtime.seen.hanging(0).await;
}
