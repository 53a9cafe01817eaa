//! Accepting clients, and how all of it ends.
//!
//! ```text
//! serving ─Stop─► settling ─nobody waits, or SETTLE─► draining (DRAIN) ─┬─ all ended ─────────────► over
//!    └────HandedOver─────────────► draining (DRAIN_HANDED_OVER) ─Stop─┘ └─ cut, FAREWELL ─────────► over
//! ```
//! *Settling* still takes clients and calls: a moment is looked for in which no call waits for its answer, so that nobody meets the
//! time in which a stopped proxy does not take connections. *Draining* takes no clients; they wait in the socket's queue, which
//! systemd or the successor holds. Each connection is told to make new calls elsewhere, and is served until its calls have ended;
//! streams that are quiet end at once, with `UNAVAILABLE`, as they would when containerd restarts.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::call::Calls;
use crate::connection;
use crate::containerd::Containerd;
use crate::drain::Drain;
use crate::intercept::Intercept;
use crate::limits::{DRAIN, DRAIN_HANDED_OVER, FAREWELL, MAX_CONNECTIONS, SETTLE};
use crate::notify::{self, State};
use crate::resources;

/// Between two tries to accept when the system has no room.
const BREATH: Duration = Duration::from_millis(100);

/// What a server is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// End. The second one ends it sooner.
    Stop,
    /// Somebody else takes the clients from now on: end when the calls have ended.
    HandedOver,
}

/// Where calls go.
pub struct Options {
    /// containerd's socket.
    pub containerd: PathBuf,
    /// Who looks into calls.
    pub intercept: Option<Arc<dyn Intercept>>,
}

struct Server {
    containerd: Arc<Containerd>,
    calls: Arc<Calls>,
    tasks: TaskTracker,
    places: Arc<Semaphore>,
    /// Told when a client has left.
    left: Arc<Notify>,
}

/// Serves until an order ends it, and returns the last one. Needs a runtime on which tasks of connections may be left behind: it ends
/// with the process.
pub async fn serve(
    listener: UnixListener,
    options: Options,
    mut orders: mpsc::Receiver<Order>,
) -> Order {
    let server = Server {
        containerd: Arc::new(Containerd::new(options.containerd)),
        calls: Arc::new(Calls { intercept: options.intercept, drain: Drain::default() }),
        tasks: TaskTracker::new(),
        places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        left: Arc::default(),
    };
    let order = tokio::select! {
        order = orders.recv() => order.unwrap_or(Order::Stop),
        never = server.accept_all(&listener) => match never {},
    };
    if order == Order::Stop {
        notify::tell(State::Stopping);
        tracing::info!("stopping: waiting for a moment without calls");
        tokio::select! {
            _ = timeout(SETTLE, server.calls.drain.nobody_waits()) => {}
            _ = orders.recv() => {}
            never = server.accept_all(&listener) => match never {},
        }
    }
    drop(listener);
    server.drain(order, orders).await
}

impl Server {
    async fn accept_all(&self, listener: &UnixListener) -> std::convert::Infallible {
        tokio::select! {
            never = self.accept(listener) => never,
            never = resources::give_back(&self.left) => never,
        }
    }

    async fn accept(&self, listener: &UnixListener) -> std::convert::Infallible {
        loop {
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { continue };
            match listener.accept().await {
                Ok((stream, _)) => self.welcome(stream, place),
                Err(error) => {
                    tracing::warn!(error = %error, "a client could not be accepted");
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    }

    fn welcome(&self, stream: UnixStream, place: OwnedSemaphorePermit) {
        let (containerd, calls) = (Arc::clone(&self.containerd), Arc::clone(&self.calls));
        let (tasks, left) = (self.tasks.clone(), Arc::clone(&self.left));
        self.tasks.spawn(async move {
            connection::serve(stream, containerd, calls, tasks).await;
            drop(place);
            left.notify_one();
        });
    }

    async fn drain(&self, mut order: Order, mut orders: mpsc::Receiver<Order>) -> Order {
        self.calls.drain.leave();
        self.tasks.close();
        let mut ended = false;
        if order == Order::HandedOver {
            tokio::select! {
                all = timeout(DRAIN_HANDED_OVER, self.tasks.wait()) => ended = all.is_ok(),
                () = stopped(&mut orders) => order = Order::Stop,
            }
        }
        if order == Order::Stop {
            ended = timeout(DRAIN, self.tasks.wait()).await.is_ok();
        }
        if ended {
            tracing::info!("all calls have ended");
            return order;
        }
        self.calls.drain.cut_all();
        if timeout(FAREWELL, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                tasks = self.tasks.len(),
                "clients that do not take the end of their calls"
            );
        }
        order
    }
}

/// Until somebody says stop.
async fn stopped(orders: &mut mpsc::Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        if order == Order::Stop {
            return;
        }
    }
    futures::future::pending().await
}
