//! The local API: one request per connection, lines of JSON (`godwit_wire::api`).
//!
//! A request is carried out by a task of its own. Another one stands beside the client: it tells how far the work is as far as the
//! client reads, and cancels the work when the client is gone. No client holds the work up, however slowly it reads.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use godwit_engine::journal::{Journal, Watched};
use godwit_engine::{EngineError, Node, catalog, checkpoint, compat, roster, status};
use godwit_types::Code;
use godwit_wire::api::{Failure, MAX_REPLY, MAX_REQUEST, Progress, Reply, Request, StoreCommand};

use crate::cri::Desk;
use crate::diagnosis;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::{Duration, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often a waiting client is told how far its request is.
const TICK: Duration = Duration::from_millis(200);
/// For a client to read its answer when the agent is about to end.
const FAREWELL: Duration = Duration::from_secs(5);

/// Serves until cancelled, then waits for the requests in progress.
///
/// # Errors
/// The socket cannot be bound.
pub(crate) async fn serve(
    node: Arc<Node>,
    desk: Arc<Desk>,
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
                let (node, desk) = (Arc::clone(&node), Arc::clone(&desk));
                let (tasks, stop) = (tasks.clone(), stop.clone());
                tasks.clone().spawn(async move {
                    if let Err(error) = converse((node, desk), stream, &tasks, &stop).await {
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
    // Who connects from now on is told at once that nobody listens, and does not wait for what is in progress.
    drop(listener);
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

async fn converse(
    (node, desk): (Arc<Node>, Arc<Desk>),
    stream: UnixStream,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> std::io::Result<()> {
    let (read, write) = stream.into_split();
    let (mut lines, mut told) = (BufReader::new(read), Told::new(write));
    let Some(line) = stop.run_until_cancelled(first_line(&mut lines)).await else { return Ok(()) };
    let reply = match serde_json::from_slice::<Request>(&line?) {
        Ok(request) => {
            let (journal, watched) = Journal::begin();
            let cancel = CancellationToken::new();
            let cancelled = cancel.clone();
            let work = tasks
                .spawn(async move { carry_out(&node, &desk, request, journal, &cancelled).await });
            attend(work, cancel, &watched, &mut lines, &mut told).await
        }
        Err(error) => Reply::Failed(Failure {
            code: Code::Internal,
            message: "the request is not understood: are agent and CLI of the same version?".into(),
            causes: vec![error.to_string()],
        }),
    };
    let too_late = async {
        stop.cancelled().await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        told = told.end(&reply) => told,
        () = too_late => Ok(()),
    }
}

async fn first_line(lines: &mut BufReader<OwnedReadHalf>) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::new();
    lines.take(MAX_REQUEST as u64).read_until(b'\n', &mut line).await?;
    Ok(line)
}

/// Stands beside the client until the work has ended, however it ends. A client that is gone, or has closed its half, cancels it.
async fn attend(
    mut work: JoinHandle<Reply>,
    cancel: CancellationToken,
    watched: &Watched,
    lines: &mut BufReader<OwnedReadHalf>,
    told: &mut Told,
) -> Reply {
    // Should this be dropped: nobody is left to whom the work matters.
    let cancel = cancel.drop_guard();
    let mut ticks = interval(TICK);
    let mut byte = [0];
    loop {
        let gone = tokio::select! {
            reply = &mut work => return reply.unwrap_or_else(|error| broken(&error)),
            _ = ticks.tick() => watched.progress().is_some_and(|now| told.progress(now).is_err()),
            // A client says nothing more: whatever comes is the end.
            _ = lines.read(&mut byte) => true,
        };
        if gone {
            drop(cancel);
            return work.await.unwrap_or_else(|error| broken(&error));
        }
    }
}

/// A defect of ours, which ends an agent that is not built for tests.
fn broken(error: &tokio::task::JoinError) -> Reply {
    Reply::Failed(Failure {
        code: Code::Internal,
        message: "the agent broke off in the middle: its log says where".to_owned(),
        causes: vec![error.to_string()],
    })
}

/// What the client is told.
struct Told {
    write: OwnedWriteHalf,
    /// What the socket has not taken of a line.
    rest: Vec<u8>,
}

impl Told {
    fn new(write: OwnedWriteHalf) -> Self {
        Self { write, rest: Vec::new() }
    }

    /// Tells a progress if the client has read enough of what it was told before; never waits for it.
    fn progress(&mut self, progress: Progress) -> std::io::Result<()> {
        if self.rest.is_empty() {
            self.rest = line(&Reply::Progress(progress))?;
        }
        match self.write.try_write(&self.rest) {
            Ok(taken) => self.rest.drain(..taken),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        Ok(())
    }

    /// The last line; waits until the client has it.
    async fn end(&mut self, reply: &Reply) -> std::io::Result<()> {
        self.rest.extend(line_within(MAX_REPLY, reply)?);
        self.write.write_all(&self.rest).await
    }
}

/// A line that the client takes. One that is longer is not cut, but told.
fn line_within(most: usize, reply: &Reply) -> std::io::Result<Vec<u8>> {
    match line(reply)? {
        long if long.len() > most => line(&Reply::Failed(Failure {
            code: Code::Refused,
            message: "the answer is too long for the agent: ask the store itself, with --store URL"
                .into(),
            causes: vec![format!("{} bytes of at most {most}", long.len())],
        })),
        line => Ok(line),
    }
}

fn line(reply: &Reply) -> std::io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    Ok(line)
}

async fn carry_out(
    node: &Node,
    desk: &Arc<Desk>,
    request: Request,
    mut journal: Journal,
    cancel: &CancellationToken,
) -> Reply {
    let result = match request {
        Request::Checkpoint(request) => {
            let made = checkpoint::checkpoint(node, request, journal, cancel.clone()).await;
            json(made.map_err(EngineError::from))
        }
        Request::Status => {
            let status = cancel.run_until_cancelled(status::of(node)).await;
            json(status.ok_or(EngineError::Cancelled))
        }
        Request::Pods => {
            let pods = cancel.run_until_cancelled(roster::of(node)).await;
            json(pods.unwrap_or(Err(EngineError::Cancelled)))
        }
        Request::Diagnose => {
            let diagnosis = cancel.run_until_cancelled(diagnosis::of(node, desk.cluster())).await;
            json(diagnosis.ok_or(EngineError::Cancelled))
        }
        Request::TakePods { takes } => {
            let told = desk.take_pods(takes);
            json(cancel.run_until_cancelled(told).await.ok_or(EngineError::Cancelled))
        }
        Request::Cri(call) => {
            let decided = cancel.run_until_cancelled(desk.decide(call)).await;
            json(decided.unwrap_or(Err(EngineError::Cancelled)))
        }
        Request::Store { store, command } => {
            json(with_store(node, store, command, &mut journal, cancel).await)
        }
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
    journal: &mut Journal,
    cancel: &CancellationToken,
) -> Result<catalog::Answer, EngineError> {
    let (_, store) = node.store(store.as_deref())?;
    let mut answer = catalog::execute(store, command, journal, cancel).await?;
    if let catalog::Answer::Show(shown) = &mut answer {
        let compared = compat::compare(&shown.manifest.compat, &node.compat, node.lazy_pages);
        shown.here = Some(compared);
    }
    Ok(answer)
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

#[cfg(test)]
mod tests;
