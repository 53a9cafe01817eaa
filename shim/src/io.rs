//! The standard streams of one process.
//!
//! A process always has anonymous pipes (or a pseudo terminal) of which the shim holds the other ends; the shim copies
//! between them and what containerd named: FIFOs, a logging program (`binary://`) or a file (`file://`). So the process
//! never notices a restart of containerd, CRIU finds only pipes, and an operation can make sure that everything that was
//! written has left the pipes ([`Io::drain`]).
//!
//! End of file: the process sees it on stdin when CloseIO was called *and* the last writer of the FIFO is gone;
//! containerd sees it on the output FIFOs when the last process that holds the pipe is gone.

pub mod console;
pub mod copy;
pub mod fd;
pub mod fifo;
pub mod logger;
pub mod sink;

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Gid, Uid, fchown};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::task::JoinHandle;

use crate::error::{Error, Result};
use crate::reaper::Reaper;
use console::ConsoleSocket;
use copy::Output;
use fd::AsyncPipe;
use logger::Logger;
use sink::Sink;

/// What containerd wants for the streams of a process; an empty path means none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stdio {
    /// FIFO to read from.
    pub stdin: String,
    /// FIFO to write to, or `binary://program?arg`, or `file:///path`.
    pub stdout: String,
    /// Like stdout; ignored with a terminal.
    pub stderr: String,
    /// A pseudo terminal instead of pipes.
    pub terminal: bool,
}

/// For whom streams are made.
#[derive(Debug, Clone)]
pub struct Owner {
    /// The process (told to loggers).
    pub id: String,
    /// containerd's namespace (told to loggers).
    pub namespace: String,
    /// Owner of the pipes.
    pub uid: u32,
    /// Group of the pipes.
    pub gid: u32,
}

/// The ends for the process. Drop them as soon as runc was started, or nobody ever sees an end of file.
#[derive(Debug, Default)]
pub struct ChildEnds {
    /// Readable.
    pub stdin: Option<OwnedFd>,
    /// Writable.
    pub stdout: Option<OwnedFd>,
    /// Writable.
    pub stderr: Option<OwnedFd>,
}

impl ChildEnds {
    /// What they are to `/proc` (`pipe:[123]`); empty where there is none.
    fn names(&self) -> Result<[String; 3]> {
        let name = |end: &Option<OwnedFd>| {
            let stat = end.as_ref().map(rustix::fs::fstat).transpose();
            let stat = stat.map_err(Error::io("look at a pipe"))?;
            Ok(stat.map(|stat| format!("pipe:[{}]", stat.st_ino)).unwrap_or_default())
        };
        Ok([name(&self.stdin)?, name(&self.stdout)?, name(&self.stderr)?])
    }
}

/// The shim's side, not copying yet.
#[derive(Debug)]
pub struct Prepared {
    stdin: Option<(AsyncPipe, OwnedFd)>,
    to_process: Option<AsyncPipe>,
    outputs: Vec<(Option<AsyncPipe>, Sink)>,
    pipes: [String; 3],
    logger: Option<Logger>,
    /// Where runc sends the pseudo terminal, if the process has one.
    pub console: Option<ConsoleSocket>,
}

/// The shim's side, copying.
#[derive(Debug)]
pub struct Io {
    outputs: Vec<Output>,
    pipes: [String; 3],
    stdin: Mutex<Stdin>,
    terminal: Option<Arc<AsyncPipe>>,
    logger: tokio::sync::Mutex<Option<Logger>>,
}

#[derive(Debug, Default)]
struct Stdin {
    /// Our own writer of the FIFO: while it lives, the reader sees no end of file.
    keeper: Option<OwnedFd>,
    copy: Option<JoinHandle<()>>,
}

impl Prepared {
    /// Opens what containerd named and makes the pipes (or the console socket).
    ///
    /// # Errors
    /// A path that is not there, an unknown scheme, a logger that does not start.
    pub async fn new(stdio: &Stdio, owner: &Owner, reaper: &Reaper) -> Result<(Self, ChildEnds)> {
        let sinks = sink::open(stdio, owner, reaper).await?;
        let stdin = fifo::open_stdin(&stdio.stdin)?;
        let mut prepared = Self {
            stdin,
            to_process: None,
            outputs: Vec::new(),
            pipes: Default::default(),
            logger: sinks.logger,
            console: None,
        };
        let mut ends = ChildEnds::default();
        if stdio.terminal {
            prepared.console = Some(ConsoleSocket::new()?);
            // A terminal that nobody reads blocks its processes.
            prepared.outputs.push((None, sinks.stdout.unwrap_or(Sink::Nothing)));
            return Ok((prepared, ends));
        }
        if prepared.stdin.is_some() {
            let (read, write) = pipe(owner, Side::Read)?;
            ends.stdin = Some(read);
            prepared.to_process = Some(AsyncPipe::new(write)?);
        }
        for (sink, end) in [(sinks.stdout, &mut ends.stdout), (sinks.stderr, &mut ends.stderr)] {
            let Some(sink) = sink else { continue };
            let (read, write) = pipe(owner, Side::Write)?;
            *end = Some(write);
            prepared.outputs.push((Some(AsyncPipe::new(read)?), sink));
        }
        prepared.pipes = ends.names()?;
        Ok((prepared, ends))
    }

    /// Starts copying; with a terminal, first takes it from the console socket (runc has sent it).
    ///
    /// # Errors
    /// The terminal did not come.
    pub async fn start(self) -> Result<Io> {
        let terminal = match &self.console {
            Some(socket) => Some(Arc::new(AsyncPipe::new(socket.receive().await?)?)),
            None => None,
        };
        let mut stdin = Stdin::default();
        let target = terminal.clone().or(self.to_process.map(Arc::new));
        if let (Some((source, keeper)), Some(target)) = (self.stdin, target) {
            stdin.keeper = Some(keeper);
            stdin.copy = Some(tokio::spawn(copy::input(source, target)));
        }
        let mut outputs = Vec::new();
        for (pipe, sink) in self.outputs {
            if let Some(source) = pipe.map(Arc::new).or_else(|| terminal.clone()) {
                outputs.push(Output::start(source, sink));
            }
        }
        let logger = tokio::sync::Mutex::new(self.logger);
        Ok(Io { outputs, pipes: self.pipes, stdin: Mutex::new(stdin), terminal, logger })
    }
}

impl Io {
    /// Lets the process see the end of its stdin once every writer of the FIFO is gone.
    pub fn close_stdin(&self) {
        self.stdin.lock().unwrap_or_else(PoisonError::into_inner).keeper = None;
    }

    /// The pipes of its standard streams as `/proc` names them (`pipe:[123]`; empty: none), wherever the process has moved them.
    #[must_use]
    pub fn pipes(&self) -> &[String; 3] {
        &self.pipes
    }

    /// Changes the size of the terminal, if there is one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        match &self.terminal {
            Some(terminal) => console::resize(terminal, columns, rows),
            None => Ok(()),
        }
    }

    /// Returns when everything that is in the pipes now has been handed to containerd. Call it when the processes are
    /// frozen; the caller sets the deadline (a reader that is gone and a full FIFO make it wait).
    pub async fn drain(&self) {
        for output in &self.outputs {
            output.drain().await;
        }
    }

    /// The process is over: stops reading its stdin.
    pub fn exited(&self) {
        let mut stdin = self.stdin.lock().unwrap_or_else(PoisonError::into_inner);
        stdin.keeper = None;
        if let Some(copy) = stdin.copy.take() {
            copy.abort();
        }
    }

    /// Waits at most `patience` for the outputs to reach their end, then closes them. Ends the logger.
    pub async fn finish(&self, patience: Duration) {
        self.exited();
        let all = async {
            for output in &self.outputs {
                output.ended().await;
            }
        };
        // A process that left our view may hold a pipe for ever; its last words are not waited for.
        let _ = tokio::time::timeout(patience, all).await;
        for output in &self.outputs {
            output.stop().await;
        }
        if let Some(logger) = self.logger.lock().await.take() {
            logger.end().await;
        }
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        self.exited();
    }
}

enum Side {
    Read,
    Write,
}

/// A pipe whose end for the process belongs to the given user.
fn pipe(owner: &Owner, process_end: Side) -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(Error::io("make a pipe"))?;
    let end = match process_end {
        Side::Read => &read,
        Side::Write => &write,
    };
    fchown(end, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))
        .map_err(Error::io("give a pipe to the container's user"))?;
    Ok((read, write))
}
