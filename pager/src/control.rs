//! The conversation with the shim, from the first message to the pod's end.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use godwit_faults::{Hydrator, Settings};
use godwit_wire::pager::FIRST_CHILD;
use godwit_wire::{Socket, WireError};
use rustix::fs::OFlags;

use crate::agent::{Agent, Terms};
use crate::args::Args;
use crate::error::PagerError;
use crate::pod::Pod;
use crate::tell::{ShimSocket, Teller};
use crate::{doom, sys};

/// Progress is told this often.
const PROGRESS: Duration = Duration::from_secs(1);
/// A shim says `Hello` within this time.
const HELLO: Duration = Duration::from_secs(10);

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// All memory is where it belongs.
    Hydrated,
    /// The shim went away first; all tasks are dead.
    Killed,
}

impl End {
    pub(crate) fn exit_code(self) -> ExitCode {
        match self {
            Self::Hydrated => ExitCode::SUCCESS,
            Self::Killed => ExitCode::from(3),
        }
    }
}

/// Serves the pod until it is hydrated or dead.
///
/// # Errors
/// Nothing was served yet: the socket is not what it should be, or threads cannot be started.
pub(crate) fn run(args: &Args) -> Result<End, PagerError> {
    let fd = sys::inherited(args.socket).map_err(PagerError::os("taking the shim's socket"))?;
    let socket: Arc<ShimSocket> = Arc::new(Socket::from_fd(fd));
    socket.greet(HELLO).map_err(PagerError::wire("the shim"))?;
    rustix::fs::fcntl_setfl(&socket, OFlags::NONBLOCK)
        .map_err(PagerError::os("making the shim's socket non-blocking"))?;
    let teller = Teller::new(Arc::clone(&socket));
    let (path, deadline) = (args.frames.clone(), args.deadline());
    let agent = Agent::new(Terms { path, deadline, slots: args.slots });
    let settings =
        Settings { window: args.window(), first_child: FIRST_CHILD, ..Settings::default() };
    let hydrator = Hydrator::start(settings, agent.clone(), teller.clone())?;
    let mut pod = Pod::new(hydrator, agent, teller);
    listen(&socket, &mut pod);
    if pod.incomplete().next().is_none() {
        return Ok(End::Hydrated);
    }
    doom::kill(&pod);
    Ok(End::Killed)
}

/// Does what the shim says until it says no more.
fn listen(socket: &ShimSocket, pod: &mut Pod) {
    let mut told = Instant::now();
    loop {
        match socket.recv_timeout(PROGRESS) {
            Ok(Some(message)) => pod.take(message),
            Ok(None) => return,
            Err(WireError::Timeout { .. }) => {}
            Err(error) => {
                tracing::error!(%error, "the shim cannot be understood");
                return;
            }
        }
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            pod.progress();
        }
    }
}
