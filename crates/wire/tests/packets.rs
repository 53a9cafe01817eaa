//! Packets over real sockets: what arrives is what was sent, and what must be refused is.
#![allow(clippy::expect_used)] // helpers of tests, outside of `#[test]` functions

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use godwit_types::Code;
use godwit_wire::relay::RelayRequest;
use godwit_wire::shim_op::{Attach, FromShim, FromShimBody, Noted, Seal, ToShim, ToShimBody};
use godwit_wire::{Listener, MAX_FDS, MAX_PACKET, PROTOCOL, Refusal, Socket, WireError};

type Agent = Socket<ToShim, FromShim>;
type Shim = Socket<FromShim, ToShim>;

const SOON: Duration = Duration::from_secs(60);

fn pair() -> (Agent, Shim) {
    Socket::pair().expect("socketpair")
}

fn directory() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("sockets").join("a.sock");
    (dir, path)
}

fn seal_of(len: usize) -> Seal {
    Seal { entry: vec![9; len], reclaim_after_s: Some(7) }
}

#[test]
fn messages_arrive_in_order_with_their_descriptors() {
    let (agent, shim) = pair();
    let mut file = tempfile::tempfile().expect("file");
    file.write_all(b"spec").expect("write");
    let fds = vec![file.as_fd(); MAX_FDS];
    agent.send(Attach {}, &fds).expect("send");
    agent.send(seal_of(3), &[]).expect("send");

    let first = shim.recv().expect("recv").expect("open");
    assert_eq!(first.body, ToShimBody::Attach(Attach {}));
    assert_eq!(first.fds.len(), MAX_FDS);
    let mut copy = std::fs::File::from(first.fds.into_iter().next_back().expect("a descriptor"));
    let mut text = String::new();
    copy.seek(SeekFrom::Start(0)).expect("seek");
    copy.read_to_string(&mut text).expect("read");
    assert_eq!(text, "spec");
    let second = shim.recv().expect("recv").expect("open");
    assert_eq!(second.without_fds("Seal").expect("none"), ToShimBody::Seal(seal_of(3)));
}

#[test]
fn received_descriptors_are_close_on_exec() {
    let (agent, shim) = pair();
    agent.send(Attach {}, &[agent.as_fd()]).expect("send");
    let (_, [fd]) = shim.recv().expect("recv").expect("open").with_fds::<1>("Attach").expect("one");
    let flags = rustix::io::fcntl_getfd(&fd).expect("F_GETFD");
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
}

#[test]
fn too_many_descriptors_and_too_long_messages_are_not_sent() {
    let (agent, shim) = pair();
    let fds = vec![agent.as_fd(); MAX_FDS + 1];
    let sent = agent.send(Attach {}, &fds);
    assert!(matches!(sent, Err(WireError::TooManyFds)));
    assert!(matches!(agent.send(seal_of(MAX_PACKET), &[]), Err(WireError::TooLong)));
    agent.send(seal_of(MAX_PACKET - 64), &[]).expect("the longest one still fits");
    let received = shim.recv().expect("recv").expect("open");
    assert_eq!(received.body, ToShimBody::Seal(seal_of(MAX_PACKET - 64)));
}

#[test]
fn a_longer_packet_of_a_hostile_peer_is_an_error_and_not_a_cut_message() {
    let (agent, shim) = pair();
    let raw: OwnedFd = agent.into_fd();
    rustix::io::write(&raw, &vec![0; MAX_PACKET + 1]).expect("write");
    assert!(matches!(shim.recv(), Err(WireError::TooLong)));
}

#[test]
fn more_descriptors_than_allowed_from_a_hostile_peer_are_closed_and_an_error() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let (agent, shim) = pair();
    let (reader, writer) = rustix::pipe::pipe().expect("pipe");
    let raw: OwnedFd = agent.into_fd();
    let fds = vec![writer.as_fd(); MAX_FDS + 10];
    let mut space = vec![std::mem::MaybeUninit::uninit(); 4096];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let body = [std::io::IoSlice::new(&[1])];
    sendmsg(&raw, &body, &mut control, SendFlags::empty()).expect("sendmsg");
    assert!(matches!(shim.recv(), Err(WireError::TooManyFds)));
    drop(fds);
    drop(writer);
    // Every copy is closed: the pipe reads its end.
    assert_eq!(rustix::io::read(&reader, &mut [0u8; 1]).expect("read"), 0);
}

#[test]
fn the_peers_end_reads_as_none_and_sending_to_it_as_closed() {
    let (agent, shim) = pair();
    drop(agent);
    assert!(shim.recv().expect("recv").is_none());
    assert!(matches!(shim.send(Noted {}, &[]), Err(WireError::Closed)));
}

#[test]
fn a_wait_ends_at_its_limit_and_the_connection_is_still_of_use() {
    let (agent, shim) = pair();
    let waited = shim.recv_timeout(Duration::from_millis(5));
    assert!(matches!(waited, Err(WireError::Timeout { millis: 5 })));
    agent.send(Attach {}, &[]).expect("send");
    assert!(shim.recv_timeout(SOON).expect("recv").is_some());
}

#[test]
fn a_message_of_a_newer_version_is_unknown_and_an_empty_one_too() {
    let (agent, shim) = pair();
    let raw = agent.into_fd();
    // Field 1000, length-delimited, empty.
    rustix::io::write(&raw, &[0xc2, 0x3e, 0]).expect("write");
    assert!(matches!(shim.recv(), Err(WireError::UnknownMessage)));
}

#[test]
fn wrong_numbers_of_descriptors_are_named() {
    let (agent, shim) = pair();
    agent.send(Attach {}, &[agent.as_fd()]).expect("send");
    let received = shim.recv().expect("recv").expect("open");
    let error = received.with_fds::<2>("CriuStarted").expect_err("two were expected");
    assert_eq!(error.to_string(), "CriuStarted came with 1 file descriptors, 2 expected");
    assert_eq!(error.code(), Code::Corrupt);
}

#[test]
fn both_sides_greet_and_the_socket_is_for_root_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, path) = directory();
    let listener = Listener::bind(&path).expect("bind");
    let mode =
        |p: &std::path::Path| std::fs::metadata(p).expect("stat").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().expect("parent")), 0o700);
    let server = std::thread::spawn(move || {
        let shim: Shim = listener.accept_timeout(SOON).expect("accept");
        shim.greet(SOON).expect("greet");
        shim.peer_pid().expect("pid")
    });
    Agent::connect(&path).expect("connect");
    assert_eq!(server.join().expect("server"), std::process::id());
    assert!(!path.exists(), "a dropped listener removes its socket");
}

#[test]
fn another_protocol_is_refused_by_name() {
    let (agent, shim) = pair();
    let raw = agent.into_fd();
    rustix::io::write(&raw, &[0x08, 99, 0x12, 1, b'x', 0x1a, 1, b'2']).expect("write");
    let error = shim.greet(SOON).expect_err("refused");
    assert!(matches!(error, WireError::Protocol { theirs: 99, ours: PROTOCOL, .. }));
    assert_eq!(error.code(), Code::Refused);
}

#[test]
fn a_stale_socket_is_replaced_and_a_served_one_is_not() {
    let (_dir, path) = directory();
    let listener = Listener::bind(&path).expect("bind");
    assert!(Listener::bind(&path).is_err(), "somebody listens");
    // A process that died leaves its path behind: a second name survives the listener's clean-up.
    let stale = path.with_extension("stale");
    std::fs::hard_link(&path, &stale).expect("link");
    drop(listener);
    std::fs::rename(&stale, &path).expect("rename");
    let error = Agent::connect(&path).expect_err("nobody there");
    assert!(matches!(error, WireError::NobodyListens { .. }), "{error}");
    Listener::bind(&path).expect("the stale socket is replaced");
}

/// Connects until there is no more room; the connections, and what the next one is told. Within a deadline: one that waits for
/// room waits for ever here.
fn fill(path: &std::path::Path) -> (Vec<Agent>, WireError) {
    let (path, (done, filled)) = (path.to_owned(), std::sync::mpsc::channel());
    std::thread::spawn(move || {
        let mut waiting = Vec::new();
        let full = loop {
            match Agent::connect_silently(&path) {
                Ok(agent) => waiting.push(agent),
                Err(error) => break error,
            }
        };
        let _ = done.send((waiting, full));
    });
    filled.recv_timeout(SOON).expect("a connect waits for somebody to accept")
}

#[test]
fn a_listener_that_does_not_accept_is_busy_and_neither_waited_for_nor_taken_for_dead() {
    let (_dir, path) = directory();
    let listener = Listener::bind(&path).expect("bind");
    let (waiting, full) = fill(&path);
    assert!(matches!(full, WireError::Busy { .. }), "{full}");
    assert_eq!(full.code(), Code::Unavailable);
    assert!(Listener::bind(&path).is_err(), "it is bound by somebody that lives");
    assert!(godwit_wire::is_served(&path));
    for _ in &waiting {
        listener.accept_timeout::<FromShim, ToShim>(SOON).expect("accept");
    }
    let agent = Agent::connect_silently(&path).expect("there is room again");
    let flags = rustix::fs::fcntl_getfl(&agent).expect("F_GETFL");
    assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK), "its calls block");
    drop(listener);
    assert!(matches!(Agent::connect(&path), Err(WireError::NobodyListens { .. })));
}

#[cfg(feature = "tokio")]
#[test]
fn a_peer_that_is_busy_for_a_moment_is_waited_for_beside_other_work() {
    use godwit_wire::{AsyncListener, AsyncSocket};
    let (_dir, path) = directory();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let listener = AsyncListener::bind(&path).expect("bind");
        drop(fill(&path).0);
        let connecting = AsyncSocket::<ToShim, FromShim>::connect(&path);
        // Those that went away keep their places until they are accepted.
        let accepting = async {
            loop {
                let shim: AsyncSocket<FromShim, ToShim> = listener.accept().await.expect("accept");
                if shim.greet(SOON).await.is_ok() {
                    return;
                }
            }
        };
        let (connected, ()) = tokio::join!(connecting, accepting);
        connected.expect("connected when there was room");
    });
}

#[test]
fn a_relays_request_needs_no_greeting() {
    let (relay, shim) = Socket::<RelayRequest, RelayRequest>::pair().expect("pair");
    let request = RelayRequest { protocol: PROTOCOL, pid: 4, failure: String::new() };
    relay.send(request.clone(), &[relay.as_fd(), relay.as_fd()]).expect("send");
    let received = shim.recv().expect("recv").expect("open");
    let (body, [_runc, _criu]) = received.with_fds("RelayRequest").expect("two");
    assert_eq!(body, request);
}

#[cfg(feature = "tokio")]
#[test]
fn the_tokio_flavour_speaks_with_the_blocking_one() {
    use godwit_wire::{AsyncListener, AsyncSocket};
    let (_dir, path) = directory();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let listener = AsyncListener::bind(&path).expect("bind");
        let client_path = path.clone();
        let client = std::thread::spawn(move || {
            let agent = Agent::connect(&client_path).expect("connect");
            agent.send(Attach {}, &[agent.as_fd()]).expect("send");
            let answer = agent.recv_timeout(SOON).expect("recv").expect("open").body;
            assert_eq!(answer, FromShimBody::Refusal(Refusal::new(Code::Refused, "no")));
            agent.recv_timeout(SOON).expect("recv").is_none()
        });
        let shim: AsyncSocket<FromShim, ToShim> = listener.accept().await.expect("accept");
        shim.greet(SOON).await.expect("greet");
        let received = shim.recv_timeout(SOON).await.expect("recv").expect("open");
        assert_eq!(received.fds.len(), 1);
        let silent = shim.recv_timeout(Duration::from_millis(5)).await;
        assert!(matches!(silent, Err(WireError::Timeout { .. })));
        shim.send(Refusal::new(Code::Refused, "no"), &[]).await.expect("send");
        drop(shim);
        assert!(client.join().expect("client"));
    });
}
