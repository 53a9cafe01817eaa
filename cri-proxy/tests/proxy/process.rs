//! The program itself, as systemd or a person starts it, and a client that follows gRPC's rules when a server leaves.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::{Reason, RecvStream};
use http::Response;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::client::SOON;
use crate::frames::request;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_godwit-cri-proxy");

/// A running proxy and what it logs.
pub(crate) struct Proxy {
    pub(crate) child: Child,
    log: watch::Receiver<String>,
}

impl Proxy {
    /// With a socket of its own making.
    pub(crate) fn listening(program: &Path, socket: &Path, containerd: &Path) -> Self {
        let mut command = Command::new(program);
        command.arg("--listen").arg(socket).arg("--containerd").arg(containerd);
        Self::start(command.stdin(Stdio::null()))
    }

    /// With a socket of the system's, as systemd gives it: here as the descriptor 0.
    pub(crate) fn inheriting(socket: &UnixListener, containerd: &Path) -> Self {
        let socket = OwnedFd::from(socket.try_clone().unwrap());
        let mut command = Command::new(PROGRAM);
        command.arg("--containerd").arg(containerd);
        command.env("LISTEN_FDS", "1").env("LISTEN_FDS_FIRST_FD", "0").env_remove("LISTEN_PID");
        Self::start(command.stdin(Stdio::from(socket)))
    }

    fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (write, log) = watch::channel(String::new());
        tokio::spawn(async move {
            // A successor writes on the same pipe.
            while let Ok(Some(line)) = lines.next_line().await {
                write.send_modify(|log| *log += &(line + "\n"));
            }
        });
        Self { child, log }
    }

    /// Until this is in the log so many times.
    pub(crate) async fn says(&self, words: &str, times: usize) {
        let mut log = self.log.clone();
        let said = log.wait_for(|log| log.matches(words).count() >= times);
        let said = timeout(SOON, said).await.is_ok_and(|said| said.is_ok());
        assert!(said, "no {words:?} in: {}", self.log.borrow().as_str());
    }

    /// It and its successors are so many.
    pub(crate) fn has_served(&self, count: usize) {
        let log = self.log.borrow();
        assert_eq!(log.matches("serving containerd").count(), count, "{}", log.as_str());
    }

    pub(crate) fn signal(&self, signal: &str) {
        assert!(send(signal, &self.child.id().unwrap().to_string()));
    }

    /// To the successor's successor, and so on: 1 is its own.
    pub(crate) fn signal_successor(&self, number: usize, signal: &str) {
        assert!(send(signal, &self.successors()[number - 1]));
    }

    fn successors(&self) -> Vec<String> {
        let log = self.log.borrow();
        let lines = log.lines().filter(|line| line.contains("a successor serves"));
        lines.map(|line| line.rsplit("pid=").next().unwrap_or_default().to_owned()).collect()
    }

    /// Until it has ended well.
    pub(crate) async fn ends(&mut self) {
        let status = timeout(SOON, self.child.wait()).await.unwrap().unwrap();
        assert!(status.success(), "{status}: {}", self.log.borrow().as_str());
    }
}

impl Drop for Proxy {
    /// Successors are nobody's children when their predecessor has ended.
    fn drop(&mut self) {
        for pid in self.successors() {
            send("KILL", &pid);
        }
    }
}

fn send(signal: &str, pid: &str) -> bool {
    let sent = std::process::Command::new("kill").args(["-s", signal, pid]).status();
    sent.is_ok_and(|sent| sent.success())
}

/// A client that, as gRPC's libraries do, goes to a new connection when the server leaves the one it has, and makes calls again
/// that the server says it never looked at.
pub(crate) struct Patient {
    socket: PathBuf,
    connection: Option<SendRequest<Bytes>>,
}

impl Patient {
    pub(crate) fn of(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), connection: None }
    }

    async fn connected(&mut self) -> SendRequest<Bytes> {
        if let Some(connection) = self.connection.take()
            && let Ok(ready) = connection.ready().await
        {
            self.connection = Some(ready.clone());
            return ready;
        }
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (connection, driver) = client::handshake(stream).await.unwrap();
        tokio::spawn(async move {
            let _ = driver.await;
        });
        self.connection = Some(connection.clone());
        connection
    }

    /// The head and the body of an answer; it fails where kubelet's call would.
    pub(crate) async fn call(&mut self, path: &str) -> Response<RecvStream> {
        timeout(SOON, async {
            loop {
                let mut connection = self.connected().await;
                let Ok((response, mut send)) = connection.send_request(request(path), false) else {
                    self.connection = None;
                    continue;
                };
                // An empty message.
                let _ = send.send_data(Bytes::from_static(&[0; 5]), true);
                match response.await {
                    Ok(response) => return response,
                    Err(error) if error.is_go_away() && error.is_remote() => self.connection = None,
                    Err(error) if error.reason() == Some(Reason::REFUSED_STREAM) => {}
                    Err(error) => panic!("a call failed: {error}"),
                }
            }
        })
        .await
        .unwrap()
    }

    /// One call to its end, which must be a good one.
    pub(crate) async fn echo(&mut self) {
        let status = end_of(self.call("/test.v9.Invented/Echo").await).await;
        assert_eq!(status, (0, String::new()));
    }
}

/// The status of an answer, and its sentence.
pub(crate) async fn end_of(response: Response<RecvStream>) -> (u32, String) {
    let (head, mut body) = response.into_parts();
    let mut trailers = head.headers;
    if !body.is_end_stream() {
        while let Some(chunk) = timeout(SOON, body.data()).await.unwrap() {
            let length = chunk.unwrap().len();
            body.flow_control().release_capacity(length).unwrap();
        }
        trailers.extend(body.trailers().await.unwrap().unwrap());
    }
    let text = |name| trailers.get(name).map(|v| v.to_str().unwrap().to_owned());
    (text("grpc-status").unwrap().parse().unwrap(), text("grpc-message").unwrap_or_default())
}
