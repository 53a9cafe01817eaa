//! Proxies that end, are replaced, and fail to be replaced, under calls of clients that follow gRPC's rules.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use godwit_cri_proxy::server::Order;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::bed::Bed;
use crate::client::SOON;
use crate::process::{PROGRAM, Patient, Proxy, end_of};
use crate::runtime::Runtime;

/// Calls without a pause, none of which may fail.
struct Load {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    fn on(socket: &Path, clients: usize) -> Self {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..clients).map(|_| {
            let (stop, made) = (Arc::clone(&stop), Arc::clone(&made));
            let mut client = Patient::of(socket);
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    client.echo().await;
                    made.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        Self { tasks: tasks.collect(), stop, made }
    }

    /// Until that many more calls have been made.
    async fn goes_on(&self, calls: usize) {
        let until = self.made.load(Ordering::Relaxed) + calls;
        let made = async {
            while self.made.load(Ordering::Relaxed) < until {
                assert!(!self.tasks.iter().any(JoinHandle::is_finished), "a call failed");
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, made).await.unwrap();
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_restart_with_an_inherited_socket_fails_no_call() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, containerd) = (dir.path().join("cri.sock"), dir.path().join("containerd.sock"));
    let _runtime = Runtime::serve(&containerd);
    // systemd's part.
    let held = UnixListener::bind(&socket).unwrap();
    let mut proxy = Proxy::inheriting(&held, &containerd);
    let load = Load::on(&socket, 3);
    for _ in 0..5 {
        load.goes_on(100).await;
        proxy.signal("TERM");
        proxy.ends().await;
        proxy = Proxy::inheriting(&held, &containerd);
    }
    load.goes_on(100).await;
    load.end().await;
}

#[tokio::test]
async fn a_hand_over_fails_no_call_and_waits_for_those_that_last() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, containerd) = (dir.path().join("cri.sock"), dir.path().join("containerd.sock"));
    let runtime = Runtime::serve(&containerd);
    let mut proxy = Proxy::listening(Path::new(PROGRAM), &socket, &containerd);
    proxy.says("serving", 1).await;
    let node = socket.metadata().unwrap().ino();
    let load = Load::on(&socket, 3);
    load.goes_on(100).await;
    let mut client = Patient::of(&socket);
    let long =
        tokio::spawn(async move { end_of(client.call("/test.v9.Invented/Hang").await).await });
    let mut client = Patient::of(&socket);
    let stream = client.call("/test.v9.Invented/Trickle").await;
    runtime.seen.hanging(2).await;

    proxy.signal("HUP");
    proxy.says("serving", 2).await;
    // The stream is quiet; kubelet asks for a new one.
    let (code, words) = end_of(stream).await;
    assert_eq!((code, words.as_str()), (14, "godwit-cri-proxy restarts: make the call again"));
    load.goes_on(500).await;
    runtime.seen.hanging(1).await;
    assert!(!long.is_finished(), "a call that lasts is not cut");
    assert!(proxy.child.try_wait().unwrap().is_none(), "its proxy lives as long");
    assert_eq!(socket.metadata().unwrap().ino(), node, "the socket is the same");

    // Told to end, it does not wait any more.
    proxy.signal("TERM");
    let (code, words) = timeout(SOON, long).await.unwrap().unwrap();
    assert_eq!((code, words.as_str()), (14, "godwit-cri-proxy restarts: make the call again"));
    proxy.ends().await;
    load.goes_on(100).await;
    load.end().await;
}

/// A proxy with a call that lasts, its successor with another one, and the successor's successor.
struct Three {
    proxy: Proxy,
    calls: Vec<JoinHandle<(u32, String)>>,
    client: Patient,
    _runtime: Runtime,
    _dir: tempfile::TempDir,
}

impl Three {
    async fn up() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [socket, containerd] =
            ["cri.sock", "containerd.sock"].map(|name| dir.path().join(name));
        let runtime = Runtime::serve(&containerd);
        let proxy = Proxy::listening(Path::new(PROGRAM), &socket, &containerd);
        let mut calls = Vec::new();
        for number in 0..2 {
            proxy.says("serving containerd", number + 1).await;
            let mut client = Patient::of(&socket);
            let hangs = async move { end_of(client.call("/test.v9.Invented/Hang").await).await };
            calls.push(tokio::spawn(hangs));
            runtime.seen.hanging(number + 1).await;
            match number {
                0 => proxy.signal("HUP"),
                _ => proxy.signal_successor(1, "HUP"),
            }
            // Before that a predecessor takes clients, too.
            proxy.says("a successor serves", number + 1).await;
        }
        Self { proxy, calls, client: Patient::of(&socket), _runtime: runtime, _dir: dir }
    }
}

#[tokio::test]
async fn who_has_handed_over_to_somebody_that_is_lost_ends_and_so_do_those_before_it() {
    let mut three = Three::up().await;
    three.proxy.signal_successor(2, "KILL");
    three.proxy.says("is_lost=true", 2).await;
    // Nobody is left that keeps whoever started them from starting another one.
    three.proxy.ends().await;
}

#[tokio::test]
async fn who_has_handed_over_is_not_missed() {
    let Three { mut proxy, calls, mut client, _runtime, _dir } = Three::up().await;
    // Its successor's last call ends.
    calls[1].abort();
    proxy.says("is_lost=false", 1).await;
    assert!(proxy.child.try_wait().unwrap().is_none(), "its own call lasts");
    client.echo().await;
    // There is somebody that serves: nobody else is asked for.
    proxy.signal("HUP");
    proxy.says("of a process that serves no more", 1).await;
    proxy.has_served(3);
    client.echo().await;
    proxy.signal("TERM");
    proxy.ends().await;
    client.echo().await;
    proxy.has_served(3);
}

#[tokio::test]
async fn a_successor_that_does_not_serve_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, containerd) = (dir.path().join("cri.sock"), dir.path().join("containerd.sock"));
    let _runtime = Runtime::serve(&containerd);
    let program = dir.path().join("godwit-cri-proxy");
    std::fs::copy(PROGRAM, &program).unwrap();
    let mut proxy = Proxy::listening(&program, &socket, &containerd);
    proxy.says("serving", 1).await;
    let load = Load::on(&socket, 2);
    load.goes_on(50).await;
    let broken = dir.path().join("broken");
    std::fs::write(&broken, "#!/bin/sh\necho not today >&2\nexit 3\n").unwrap();
    std::fs::set_permissions(&broken, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(&broken, &program).unwrap();
    proxy.signal("HUP");
    proxy.says("did not take over: it ended before it served", 1).await;
    proxy.says("not today", 1).await;
    load.goes_on(50).await;
    std::fs::remove_file(&program).unwrap();
    proxy.signal("HUP");
    proxy.says("did not take over", 2).await;
    load.goes_on(50).await;
    load.end().await;
    proxy.signal("TERM");
    proxy.ends().await;
}

#[tokio::test]
async fn a_second_proxy_on_a_socket_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, containerd) = (dir.path().join("cri.sock"), dir.path().join("containerd.sock"));
    let mut first = Proxy::listening(Path::new(PROGRAM), &socket, &containerd);
    first.says("serving", 1).await;
    let mut second = Proxy::listening(Path::new(PROGRAM), &socket, &containerd);
    assert!(!timeout(SOON, second.child.wait()).await.unwrap().unwrap().success());
    second.says("another process serves", 1).await;
    first.signal("TERM");
    first.ends().await;
    let third = Proxy::listening(Path::new(PROGRAM), &socket, &containerd);
    third.says("serving", 1).await;
}

#[tokio::test]
async fn a_proxy_without_a_socket_says_how_it_gets_one() {
    let output = std::process::Command::new(PROGRAM).env_remove("LISTEN_FDS").output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("systemctl start godwit-cri-proxy.socket"), "{said}");
}

#[tokio::test]
async fn stopping_waits_for_calls_and_takes_new_ones_meanwhile() {
    let (bed, runtime) = Bed::up();
    let client = bed.client();
    let hanging = tokio::spawn({
        let client = client.clone();
        async move { client.unary("Hang", "").await }
    });
    runtime.seen.hanging(1).await;
    bed.orders.send(Order::Stop).await.unwrap();
    for _ in 0..100 {
        assert_eq!(bed.client().unary("Echo", "new").await.unwrap(), "new");
    }
    assert!(!bed.served.is_finished());
    hanging.abort();
    // Nobody waits any more: it ends, and its clients' connections with it.
    timeout(SOON, bed.served).await.unwrap().unwrap();
    drop(client);
}

#[tokio::test]
async fn calls_that_do_not_end_are_told_when_the_patience_is_over() {
    let (bed, runtime) = Bed::up();
    let client = bed.client();
    let hanging = tokio::spawn({
        let client = client.clone();
        async move { client.unary("Hang", "").await }
    });
    runtime.seen.hanging(1).await;
    bed.orders.send(Order::Stop).await.unwrap();
    bed.orders.send(Order::Stop).await.unwrap();
    let error = timeout(SOON, hanging).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unavailable);
    assert_eq!(error.message(), "godwit-cri-proxy restarts: make the call again");
    timeout(SOON, bed.served).await.unwrap().unwrap();
    runtime.seen.hanging(0).await;
}
