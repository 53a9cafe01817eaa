//! The shim's socket: one per pod, root only.

use std::path::Path;
use std::time::Duration;

use godwit_wire::{AsyncListener, WireError};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::warn;

use super::input::{Input, Served};

/// How long an agent may take for its greeting.
const GREETING: Duration = Duration::from_secs(5);
/// Pause after an error of accept that would come again at once (no descriptor left).
const PAUSE: Duration = Duration::from_millis(100);

/// Binds the socket and serves it until the task is aborted; the path goes with it.
///
/// # Errors
/// The path cannot be bound.
pub(super) fn serve(path: &Path, inputs: mpsc::Sender<Input>) -> Result<JoinHandle<()>, WireError> {
    let listener = AsyncListener::bind(path)?;
    Ok(tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok(socket) => greet(socket, inputs.clone()),
                Err(why) => {
                    warn!(%why, "an agent could not connect");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }))
}

/// Removes the socket of a shim that is dead.
pub(super) fn remove_stale(path: &Path) {
    if !is_served(path) {
        // Its absence is what we want.
        let _ = std::fs::remove_file(path);
    }
}

fn is_served(path: &Path) -> bool {
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let address = SocketAddrUnix::new(path);
    socket.and_then(|socket| connect(&socket, &address?)).is_ok()
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
    use super::*;

    #[tokio::test]
    async fn only_the_socket_of_a_dead_shim_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("default+web.sock");
        let served = serve(&path, mpsc::channel(1).0).unwrap();
        remove_stale(&path);
        assert!(path.exists());
        served.abort();
        served.await.unwrap_err();
        // As a killed shim leaves it: bound once, with nobody behind it.
        drop(std::os::unix::net::UnixDatagram::bind(&path).unwrap());
        remove_stale(&path);
        assert!(!path.exists());
    }
}
