//! The client's side of the agent's local API.

use std::convert::Infallible;
use std::path::Path;

use godwit_types::Code;
use godwit_wire::api::{Failure, MAX_REPLY, Reply, Request};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::sync::CancellationToken;

use crate::failure;
use crate::progress::Shown;

/// Sends one request, shows its progress, returns its result. When cancelled the agent is told, and still says how it ended; dropping
/// the future cancels the request, too.
///
/// # Errors
/// What the agent says, or why it cannot be asked.
pub(crate) async fn ask(
    socket: &Path,
    request: &Request,
    shown: &mut Shown,
    cancel: &CancellationToken,
) -> Result<serde_json::Value, Failure> {
    let stream = UnixStream::connect(socket).await.map_err(|e| unreachable(socket, &e))?;
    let (read, mut write) = stream.into_split();
    let mut line = serde_json::to_vec(request).map_err(failure::internal)?;
    line.push(b'\n');
    write.write_all(&line).await.map_err(|e| lost(&e))?;
    tokio::select! {
        result = answer(read, shown) => result,
        never = close_when_cancelled(write, cancel) => match never {},
    }
}

async fn answer(read: OwnedReadHalf, shown: &mut Shown) -> Result<serde_json::Value, Failure> {
    let mut lines = BufReader::new(read);
    loop {
        let text = whole_line(&mut lines).await?;
        match serde_json::from_slice(&text).map_err(failure::internal)? {
            Reply::Progress(progress) => shown.update(progress),
            Reply::Done { result } => return Ok(result),
            Reply::Failed(failure) => return Err(failure),
        }
    }
}

/// The next line with its end: what lacks its end was cut.
async fn whole_line(lines: &mut BufReader<OwnedReadHalf>) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let bounded = &mut lines.take(MAX_REPLY as u64);
    bounded.read_until(b'\n', &mut text).await.map_err(|e| lost(&e))?;
    match text.last() {
        Some(b'\n') => Ok(text),
        _ if text.len() == MAX_REPLY => Err(failure::new(
            Code::Internal,
            "the agent's answer has no end: are agent and CLI of the same version?",
        )),
        _ => Err(failure::new(
            Code::Unavailable,
            "the agent went away during the request: `godwit status` and `godwit list` tell how it ended",
        )),
    }
}

/// Closing our half is what cancels a request; the other half stays open for its end.
async fn close_when_cancelled(mut write: OwnedWriteHalf, cancel: &CancellationToken) -> Infallible {
    cancel.cancelled().await;
    // It fails only when the agent is gone: the other half says so.
    let _ = write.shutdown().await;
    std::future::pending().await
}

fn unreachable(socket: &Path, error: &std::io::Error) -> Failure {
    let hint = match error.kind() {
        std::io::ErrorKind::PermissionDenied => "it is root's alone: run as root",
        _ => "is godwit-agent running? (with --store URL no agent is needed)",
    };
    let message = format!("cannot reach the agent at {}: {hint}", socket.display());
    Failure { causes: vec![error.to_string()], ..failure::new(Code::Unavailable, &message) }
}

fn lost(error: &std::io::Error) -> Failure {
    Failure {
        causes: vec![error.to_string()],
        ..failure::new(Code::Unavailable, "the connection to the agent broke")
    }
}
