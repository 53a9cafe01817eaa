//! A client that calls its server by the path of a socket, as Go's does for some of its targets.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::bed::Bed;
use crate::client::SOON;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const PATH: &[u8] = b"/test.v9.Invented/Echo";
const SERVER: &[u8] = b"%2Frun%2Fgodwit%2Fcri.sock";
/// "%2Fcri" in HPACK's code, and its length.
const COMPRESSED: &[u8] = &[0x85, 0x54, 0x58, 0x49, 0x61, 0xbf];
const TYPE: &[u8] = b"application/grpc";
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;

fn string(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text].concat()
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let header = [0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, stream];
    [&header, payload].concat()
}

/// A call with an empty message. POST, http, the path and these fields.
fn call(stream: u8, fields: &[u8]) -> Vec<u8> {
    let head = [&[0x83, 0x86, 0x04], &string(PATH)[..], fields].concat();
    [frame(1, 4, stream, &head), frame(0, END_STREAM, stream, &[0; 5])].concat()
}

/// Reads to the end of a stream; false if it was reset.
async fn is_answered(client: &mut UnixStream, stream: u8) -> bool {
    loop {
        let mut header = [0; 9];
        client.read_exact(&mut header).await.unwrap();
        let mut payload = vec![0; usize::from(header[1]) << 8 | usize::from(header[2])];
        client.read_exact(&mut payload).await.unwrap();
        let is_end = header[3] == RST_STREAM || header[3] <= 1 && header[4] & END_STREAM != 0;
        if is_end && header[8] == stream {
            return header[3] != RST_STREAM;
        }
    }
}

#[tokio::test]
async fn a_server_may_be_called_by_the_path_of_its_socket() {
    let (bed, _runtime) = Bed::up();
    let typed = [&[0x5f], &string(TYPE)[..]].concat();
    // In full, from the table, and in full again.
    let calls = [
        call(1, &[&[0x41], &string(SERVER)[..], &typed].concat()),
        call(3, &[0xbf, 0xbe]),
        call(5, &[&[0x41], COMPRESSED, &[0xbf]].concat()),
    ];
    let opening = [PREFACE, SETTINGS, &frame(4, 1, 0, &[])].concat();
    for at_once in [1, 7, 4096] {
        let mut client = UnixStream::connect(bed.socket()).await.unwrap();
        let all = [&opening[..], &calls.concat()].concat();
        for part in all.chunks(at_once) {
            client.write_all(part).await.unwrap();
        }
        for stream in [1, 3, 5] {
            let answered = timeout(SOON, is_answered(&mut client, stream)).await;
            assert!(answered.unwrap(), "call {stream}, {at_once} bytes at once");
        }
    }
    assert_eq!(bed.client().unary("Echo", "localhost").await.unwrap(), "localhost");
}
