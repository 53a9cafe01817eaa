//! The shim's socket: one per pod, root only.

use std::path::Path;
use std::time::Duration;

use godwit_wire::{AsyncListener, WireError};
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
