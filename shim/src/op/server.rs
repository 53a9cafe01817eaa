//! The shim's socket: one per pod, root only.

use std::path::{Path, PathBuf};
use std::time::Duration;

use godwit_wire::{AsyncListener, WireError, is_served};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use super::input::{Input, Served};
use crate::error::chain;

/// How long an agent may take for its greeting.
const GREETING: Duration = Duration::from_secs(5);
/// Pause after an error of bind or accept that would come again at once (somebody listens there, no descriptor left).
const PAUSE: Duration = Duration::from_millis(100);

/// Binds the socket and serves it until the task is aborted; the path goes with it. A path that cannot be bound now is bound when
/// it can be: the shim before this one keeps it until it has told containerd everything, and may still do so when a container of
/// the same name is made.
pub(super) fn serve(path: PathBuf, inputs: mpsc::Sender<Input>) -> JoinHandle<()> {
    let bound = AsyncListener::bind(&path);
    tokio::spawn(async move {
        let listener = match bound {
            Ok(listener) => listener,
            Err(why) => bind_later(&path, &why).await,
        };
        info!(path = %path.display(), "operations are served");
        loop {
            match listener.accept().await {
                Ok(socket) => greet(socket, inputs.clone()),
                Err(why) => {
                    warn!(%why, "an agent could not connect");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    })
}

async fn bind_later(path: &Path, why: &WireError) -> AsyncListener {
    // The pod's life does not depend on it.
    error!(why = chain(why), path = %path.display(), "no operation is possible on this pod until its socket can be bound");
    loop {
        tokio::time::sleep(PAUSE).await;
        if let Ok(listener) = AsyncListener::bind(path) {
            return listener;
        }
    }
}

/// Removes the socket of a shim that is dead.
pub(super) fn remove_stale(path: &Path) {
    if !is_served(path) {
        // Its absence is what we want.
        let _ = std::fs::remove_file(path);
    }
}

/// Beside the listener: one that does not greet keeps nobody else out.
fn greet(socket: Served, inputs: mpsc::Sender<Input>) {
    tokio::spawn(async move {
        match socket.greet(GREETING).await {
            Ok(()) => {
                // An actor that is gone needs no agent.
                let _ = inputs.send(Input::Accepted(socket)).await;
            }
            Err(why) => warn!(%why, "an agent did not greet"),
        }
    });
}

#[cfg(test)]
mod tests {
    use godwit_wire::AsyncSocket;
    use godwit_wire::shim_op::{FromShim, ToShim};

    use super::*;

    #[tokio::test]
    async fn only_the_socket_of_a_dead_shim_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("default+web.sock");
        let served = serve(path.clone(), mpsc::channel(1).0);
        remove_stale(&path);
        assert!(path.exists());
        served.abort();
        served.await.unwrap_err();
        // As a killed shim leaves it: bound once, with nobody behind it.
        drop(std::os::unix::net::UnixDatagram::bind(&path).unwrap());
        remove_stale(&path);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_shim_that_follows_one_that_is_about_to_end_is_served_when_that_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("default+web.sock");
        let (former, mut heard) = (serve(path.clone(), mpsc::channel(1).0), mpsc::channel(1));
        let served = serve(path.clone(), heard.0);
        former.abort();
        former.await.unwrap_err();
        let agent = async {
            loop {
                match AsyncSocket::<ToShim, FromShim>::connect(&path).await {
                    Ok(agent) => return agent,
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            }
        };
        let _agent = tokio::time::timeout(Duration::from_secs(60), agent).await.unwrap();
        assert!(matches!(heard.1.recv().await, Some(Input::Accepted(_))));
        served.abort();
        served.await.unwrap_err();
        assert!(!path.exists());
    }
}
