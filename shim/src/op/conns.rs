//! The connections of one pod: numbered, read by a task each, written by the actor.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use godwit_ownership::shim::Conn;
use godwit_wire::agent_op::ToAgentBody;
use godwit_wire::failpoint::site;
use godwit_wire::shim_op::FromShimBody;
use godwit_wire::{AsyncSocket, Envelope, Received};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use super::input::{Asked, Input, Served};

/// How long a peer may leave its queue full before it is given up.
const PATIENCE: Duration = Duration::from_secs(2);

/// All live connections.
#[derive(Debug)]
pub(super) struct Conns {
    next: u32,
    live: BTreeMap<Conn, Link>,
    inputs: mpsc::Sender<Input>,
}

#[derive(Debug)]
struct Link {
    end: End,
    reader: JoinHandle<()>,
    /// Cancelled when its end was read, before the actor hears of it.
    over: CancellationToken,
}

#[derive(Debug)]
enum End {
    Served(Arc<Served>),
    Asked(Arc<Asked>),
}

impl Conns {
    pub(super) fn new(inputs: mpsc::Sender<Input>) -> Self {
        Self { next: 0, live: BTreeMap::new(), inputs }
    }

    /// Takes an agent's connection and reads it from now on.
    pub(super) fn serve(&mut self, socket: Served) -> Conn {
        let conn = self.number();
        let (socket, over) = (Arc::new(socket), CancellationToken::new());
        let end = over.clone().drop_guard();
        let reader = read(Arc::clone(&socket), conn, self.inputs.clone(), Input::Message, end);
        self.live.insert(conn, Link { end: End::Served(socket), reader, over });
        conn
    }

    /// Takes a connection to the agent and reads it from now on.
    pub(super) fn ask(&mut self, socket: Asked) -> Conn {
        let conn = self.number();
        let (socket, over) = (Arc::new(socket), CancellationToken::new());
        let end = over.clone().drop_guard();
        let reader = read(Arc::clone(&socket), conn, self.inputs.clone(), Input::Answer, end);
        self.live.insert(conn, Link { end: End::Asked(socket), reader, over });
        conn
    }

    /// Whether its end was not heard yet.
    pub(super) fn is_live(&self, conn: Conn) -> bool {
        self.live.contains_key(&conn)
    }

    /// Cancelled when this connection is over: for what the actor waits for itself, and cannot hear the end meanwhile.
    pub(super) fn over(&self, conn: Conn) -> CancellationToken {
        self.live.get(&conn).map_or_else(cancelled, |link| link.over.clone())
    }

    /// The process of an agent that has connected; `None`: it is gone, or of another pid namespace.
    pub(super) fn agent(&self, conn: Conn) -> Option<OwnedFd> {
        let Some(Link { end: End::Served(socket), .. }) = self.live.get(&conn) else { return None };
        socket.peer_pidfd().inspect_err(|why| debug!(%why, "an agent without a pidfd")).ok()
    }

    /// Whether this connection was made by the shim.
    pub(super) fn is_question(&self, conn: Conn) -> bool {
        self.live.get(&conn).is_some_and(|link| matches!(link.end, End::Asked(_)))
    }

    /// Answers or tells an agent that has connected. A connection that is gone, or does not take it, is ignored: its end is heard.
    pub(super) async fn tell(
        &mut self,
        conn: Conn,
        body: impl Into<FromShimBody>,
        fds: &[BorrowedFd<'_>],
    ) {
        let Some(Link { end: End::Served(socket), .. }) = self.live.get(&conn) else { return };
        let body = body.into();
        let kind = body.kind();
        let sent = tokio::time::timeout(PATIENCE, socket.send(body, fds)).await;
        self.sent(conn, kind, sent.map_err(|_| ()).map(|sent| sent.is_ok()));
    }

    /// Tells the agent that was asked.
    pub(super) async fn reply(&mut self, conn: Conn, body: impl Into<ToAgentBody>) {
        let Some(Link { end: End::Asked(socket), .. }) = self.live.get(&conn) else { return };
        let body = body.into();
        let kind = body.kind();
        let sent = tokio::time::timeout(PATIENCE, socket.send(body, &[])).await;
        self.sent(conn, kind, sent.map_err(|_| ()).map(|sent| sent.is_ok()));
    }

    fn sent(&mut self, conn: Conn, kind: &'static str, sent: Result<bool, ()>) {
        site(&format!("shim.{kind}.sent"));
        match sent {
            Ok(true) => {}
            Ok(false) => debug!(kind, "the agent is gone and was not told"),
            Err(()) => {
                warn!(kind, "the agent does not read; its connection is given up");
                self.close(conn);
            }
        }
    }

    /// Closes a connection; its end is told to the actor like any other.
    pub(super) fn close(&mut self, conn: Conn) {
        let Some(link) = self.live.remove(&conn) else { return };
        link.reader.abort();
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            // An actor that is gone needs no word.
            let _ = inputs.send(Input::Ended(conn)).await;
        });
    }

    /// Forgets a connection whose end was heard.
    pub(super) fn forget(&mut self, conn: Conn) {
        self.live.remove(&conn);
    }

    fn number(&mut self) -> Conn {
        self.next += 1;
        Conn(self.next)
    }
}

/// Reads a connection to its end.
fn read<S: Envelope + 'static, R: Envelope + 'static>(
    socket: Arc<AsyncSocket<S, R>>,
    conn: Conn,
    inputs: mpsc::Sender<Input>,
    input: fn(Conn, Received<R::Body>) -> Input,
    end: DropGuard,
) -> JoinHandle<()>
where
    R::Body: Send,
{
    tokio::spawn(async move {
        loop {
            let message = match socket.recv().await {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(why) => {
                    warn!(%why, "the connection of an agent is given up");
                    // Its end follows; an actor that is gone needs no word.
                    let _ = inputs.send(Input::Unreadable(conn, why)).await;
                    break;
                }
            };
            site(&format!("shim.{}.received", R::kind(&message.body)));
            if inputs.send(input(conn, message)).await.is_err() {
                return;
            }
        }
        drop(end);
        // An actor that is gone needs no word.
        let _ = inputs.send(Input::Ended(conn)).await;
    })
}

fn cancelled() -> CancellationToken {
    let over = CancellationToken::new();
    over.cancel();
    over
}

impl Drop for Link {
    fn drop(&mut self) {
        // Closes the last copy of the socket with it.
        self.reader.abort();
    }
}
