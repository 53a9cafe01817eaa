//! The local API: one request per connection, lines of JSON (`godwit_wire::api`).

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use godwit_engine::journal::{Journal, Watched};
use godwit_engine::{EngineError, Node, catalog, checkpoint, status};
use godwit_types::Code;
use godwit_wire::api::{Failure, MAX_LINE, Reply, Request, StoreCommand};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Duration, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often a waiting client is told how far its request is.
const TICK: Duration = Duration::from_millis(200);

/// Serves until cancelled, then waits for the requests in progress.
///
/// # Errors
/// The socket cannot be bound.
pub(crate) async fn serve(
    node: Arc<Node>,
    path: &Path,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let listener = bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let node = Arc::clone(&node);
                tasks.spawn(async move {
                    if let Err(error) = converse(&node, stream).await {
                        tracing::debug!(error = %error, "a client went away");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(error = %error, "a client could not be accepted");
                tokio::time::sleep(TICK).await;
            }
        }
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// Root's alone: the directory is 0700 and so is the socket.
fn bind(path: &Path) -> std::io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, mode)?;
    Ok(listener)
}

async fn converse(node: &Node, stream: UnixStream) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read);
    let mut line = Vec::new();
    (&mut lines).take(MAX_LINE as u64).read_until(b'\n', &mut line).await?;
    let reply = match serde_json::from_slice::<Request>(&line) {
        Ok(request) => match attend(node, request, &mut lines, &mut write).await? {
            Some(reply) => reply,
            None => return Ok(()),
        },
        Err(error) => Reply::Failed(Failure {
            code: Code::Internal,
            message: "the request is not understood: are agent and CLI of the same version?".into(),
            causes: vec![error.to_string()],
        }),
    };
    send(&mut write, &reply).await
}

/// Works on a request, telling its progress; `None` if the client closed the connection, which cancels it.
async fn attend(
    node: &Node,
    request: Request,
    lines: &mut BufReader<OwnedReadHalf>,
    write: &mut OwnedWriteHalf,
) -> std::io::Result<Option<Reply>> {
    let (journal, watched) = Journal::begin();
    let cancel = CancellationToken::new();
    let work = carry_out(node, request, journal, cancel.clone());
    tokio::pin!(work);
    let mut ticks = interval(TICK);
    let mut byte = [0];
    loop {
        tokio::select! {
            reply = &mut work => return Ok(Some(reply)),
            _ = ticks.tick() => tell(&watched, write).await?,
            // A client says nothing more: whatever comes is the end.
            _ = lines.read(&mut byte) => {
                cancel.cancel();
                work.await;
                return Ok(None);
            }
        }
    }
}

async fn tell(watched: &Watched, write: &mut OwnedWriteHalf) -> std::io::Result<()> {
    match watched.progress() {
        Some(progress) => send(write, &Reply::Progress(progress)).await,
        None => Ok(()),
    }
}

async fn send(write: &mut OwnedWriteHalf, reply: &Reply) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    write.write_all(&line).await
}

async fn carry_out(
    node: &Node,
    request: Request,
    journal: Journal,
    cancel: CancellationToken,
) -> Reply {
    let result = match request {
        Request::Checkpoint(request) => {
            let made = checkpoint::checkpoint(node, request, journal, cancel).await;
            json(made.map_err(EngineError::from))
        }
        Request::Status => json(Ok(status::of(node).await)),
        Request::Store { store, command } => json(with_store(node, store, command).await),
    };
    match result {
        Ok(result) => Reply::Done { result },
        Err(error) => Reply::Failed(failure(&error)),
    }
}

async fn with_store(
    node: &Node,
    store: Option<String>,
    command: StoreCommand,
) -> Result<catalog::Answer, EngineError> {
    let (_, store) = node.store(store.as_deref())?;
    Ok(catalog::execute(store, command).await?)
}

fn json<T: serde::Serialize>(
    result: Result<T, EngineError>,
) -> Result<serde_json::Value, EngineError> {
    result.and_then(|value| serde_json::to_value(value).map_err(EngineError::Encode))
}

/// A failure with its chain; logged here, once.
fn failure(error: &EngineError) -> Failure {
    let causes = std::iter::successors(std::error::Error::source(error), |e| e.source());
    let causes: Vec<String> = causes.map(ToString::to_string).collect();
    tracing::warn!(code = %error.code(), error = %error, ?causes, "a request failed");
    Failure { code: error.code(), message: error.to_string(), causes }
}
