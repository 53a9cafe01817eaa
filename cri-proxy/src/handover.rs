//! Replacing the process without a moment in which nobody serves: a successor is started with the listening socket as its standard
//! input, and when it serves, this process takes no more clients and ends with its last call.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::error::ProxyError;
use crate::limits::SUCCESSOR;

/// Set for a successor: it says [`READY`] on its standard output.
const TELL: &str = "GODWIT_CRI_PROXY_SUCCESSOR";
const READY: &str = "ready\n";

/// How a successor is started: as this process was, by the same path, where there may be a newer program by now.
#[derive(Debug, Clone)]
pub struct Successor {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Successor {
    /// Of this process; asked at its start.
    ///
    /// # Errors
    /// The system does not say which program this is.
    pub fn of_this_process() -> std::io::Result<Self> {
        let mut words = std::env::args_os();
        // A path is kept as it was typed: it may be a link that an upgrade points elsewhere.
        let program = match words.next().map(PathBuf::from) {
            Some(typed) if typed.components().count() > 1 => std::path::absolute(typed)?,
            _ => std::env::current_exe()?,
        };
        Ok(Self { program, arguments: words.collect() })
    }

    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// It does not begin to serve: it is ended, and nothing has changed.
    ///
    /// # Cancellation
    /// Dropped, it ends what it has started.
    pub async fn start(&self, listener: impl AsFd) -> Result<Child, ProxyError> {
        let failed = |reason| ProxyError::Successor { program: self.program.clone(), reason };
        let mut starting = self.spawn(listener).map_err(|error| failed(error.to_string()))?;
        let mut said = String::new();
        let told = match starting.0.as_mut().and_then(|child| child.stdout.take()) {
            Some(stdout) => timeout(SUCCESSOR, BufReader::new(stdout).read_line(&mut said)).await,
            None => Ok(Ok(0)),
        };
        let reason = match told {
            Ok(Ok(_)) if said == READY => None,
            Ok(Ok(_)) => Some("it ended before it served; its log says why".to_owned()),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("it did not serve within {SUCCESSOR:?}")),
        };
        match (reason, starting.0.take()) {
            (None, Some(child)) => Ok(child),
            (reason, child) => {
                drop(Starting(child));
                Err(failed(reason.unwrap_or_default()))
            }
        }
    }

    fn spawn(&self, listener: impl AsFd) -> std::io::Result<Starting> {
        let socket: OwnedFd = listener.as_fd().try_clone_to_owned()?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            // sd_listen_fds(3), counted from standard input.
            .env("LISTEN_FDS", "1")
            .env("LISTEN_FDS_FIRST_FD", "0")
            .env_remove("LISTEN_PID")
            .env(TELL, "1")
            .stdin(Stdio::from(socket))
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Starting(Some(child)))
    }
}

/// A successor that does not serve yet.
struct Starting(Option<Child>);

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended by itself.
            let _ = child.start_kill();
        }
    }
}

/// Tells a predecessor, if there is one, that calls are served.
pub fn tell_predecessor() {
    if std::env::var_os(TELL).is_some() {
        let mut stdout = std::io::stdout();
        // A predecessor that is gone needs no word.
        let _ = stdout.write_all(READY.as_bytes()).and_then(|()| stdout.flush());
    }
}
