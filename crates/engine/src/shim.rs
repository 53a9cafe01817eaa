//! The agent's side of a shim's operation socket.
//!
//! Owns: one connection, its questions and answers, and the reading of what the shim says unasked. Decides nothing: what a
//! message means for ownership is `godwit-ownership`'s.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use godwit_types::{Code, PodKey, names};
use godwit_wire::shim_op::{
    Attach, BeginCheckpoint, Container, Containers, CriuStarted, Freeze, FromShim, FromShimBody,
    Frozen, Status, ToShim, ToShimBody,
};
use godwit_wire::{AsyncSocket, Received, Refusal, WireError, failpoint, memfd};

/// Longest `config.json` that is read.
const MAX_SPEC: u64 = 16 << 20;
/// Longest wait for an answer that needs no freezing, killing or exit of CRIU.
const QUICK: Duration = Duration::from_secs(10);
/// Longest wait for an answer that does.
const SLOW: Duration = Duration::from_secs(60);

/// What a shim refused, reported, or failed to answer.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// No shim listens: the container does not run under Godwit, or not at all.
    #[error(
        "no running container {key} of runtime io.containerd.godwit.v2: `ctr -n NAMESPACE task ls` shows what runs"
    )]
    NoShim {
        /// The pod key.
        key: PodKey,
    },
    /// The connection failed.
    #[error("the operation socket of the shim failed")]
    Wire(#[from] WireError),
    /// The shim said no; the sentence is its own.
    #[error("{}", .0.reason)]
    Refused(Refusal),
    /// Some task could not be frozen; the pod was thawed.
    #[error("cannot freeze: {stuck}; the container runs on, try again later")]
    CannotFreeze {
        /// The tasks that did not stop.
        stuck: String,
    },
    /// A CRIU died and took the container with it.
    #[error(
        "container {container} was damaged and killed ({reason}); continue it from its last checkpoint"
    )]
    Damaged {
        /// The container.
        container: String,
        /// What was seen.
        reason: String,
    },
    /// The pod ran between the dump and the seal.
    #[error(
        "container {container} was not frozen without a gap ({reason}); nothing was committed, it runs on"
    )]
    NotContinuous {
        /// The container.
        container: String,
        /// What was seen.
        reason: String,
    },
    /// The container ended in the middle.
    #[error("container {container} exited with status {status} during the checkpoint")]
    Exited {
        /// The container.
        container: String,
        /// 128 + signal for a death by signal.
        status: u32,
    },
}

impl ShimError {
    /// What it means to the caller.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NoShim { .. } => Code::NotFound,
            Self::Wire(source) => source.code(),
            Self::Refused(refusal) => refusal.means(),
            Self::CannotFreeze { .. } => Code::Unavailable,
            Self::NotContinuous { .. } | Self::Exited { .. } => Code::Precondition,
            Self::Damaged { .. } => Code::Internal,
        }
    }
}

/// A container of the operation with what came beside its message.
#[derive(Debug)]
pub struct Subject {
    /// As the shim knows it.
    pub container: Container,
    /// Its init.
    pub init: OwnedFd,
    /// Its `config.json`.
    pub spec: Vec<u8>,
}

/// The pod of an operation.
#[derive(Debug)]
pub struct Subjects {
    /// Ids of the pod, without its containers.
    pub pod: Containers,
    /// Its containers.
    pub containers: Vec<Subject>,
}

/// A connection to one shim. As an operation it lives as long as this value: dropping it before the seal thaws the pod.
#[derive(Debug)]
pub struct Shim {
    socket: AsyncSocket<ToShim, FromShim>,
}

/// Path of a shim's socket.
#[must_use]
pub fn socket_path(directory: &Path, key: &PodKey) -> PathBuf {
    directory.join(format!("{key}.sock"))
}

impl Shim {
    /// Whether the shim of this pod has a socket.
    #[must_use]
    pub fn listens(key: &PodKey) -> bool {
        socket_path(Path::new(names::SHIM_SOCKETS), key).exists()
    }

    /// Connects to the shim of this pod.
    ///
    /// # Errors
    /// [`ShimError::NoShim`] if nobody listens there.
    pub async fn connect(key: &PodKey) -> Result<Self, ShimError> {
        let path = socket_path(Path::new(names::SHIM_SOCKETS), key);
        match AsyncSocket::connect(&path).await {
            Ok(socket) => Ok(Self { socket }),
            Err(WireError::NobodyListens { .. }) => Err(ShimError::NoShim { key: key.clone() }),
            Err(error) => Err(error.into()),
        }
    }

    /// What the shim is and holds.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn attach(&self) -> Result<Status, ShimError> {
        match self.ask(Attach {}, &[], QUICK).await?.body {
            FromShimBody::Status(status) => Ok(status),
            other => Err(other.unexpected("Status").into()),
        }
    }

    /// Begins the pod's one operation.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn begin(&self, begin: BeginCheckpoint) -> Result<Subjects, ShimError> {
        let answer = self.ask(begin, &[], QUICK).await?;
        let FromShimBody::Containers(mut pod) = answer.body else {
            return Err(answer.body.unexpected("Containers").into());
        };
        let containers = subjects(std::mem::take(&mut pod.containers), answer.fds)?;
        Ok(Subjects { pod, containers })
    }

    /// Tells of a CRIU session.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn criu_started(
        &self,
        container: &str,
        pidfd: BorrowedFd<'_>,
    ) -> Result<(), ShimError> {
        let message = CriuStarted { container: container.to_owned() };
        failpoint::site("criu-started.before");
        let answer = self.ask(message, &[pidfd], QUICK).await?.body;
        failpoint::site("criu-started.answered");
        match answer {
            FromShimBody::Noted(_) => Ok(()),
            other => Err(other.unexpected("Noted").into()),
        }
    }

    /// Freezes every container of the operation.
    ///
    /// # Errors
    /// [`ShimError::CannotFreeze`]: thawed again, the operation is over.
    pub async fn freeze(&self, deadline: Duration) -> Result<Frozen, ShimError> {
        let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        failpoint::site("freeze.before");
        match self.ask(Freeze { deadline_ms }, &[], SLOW).await?.body {
            FromShimBody::Frozen(frozen) => Ok(frozen),
            FromShimBody::FreezeTimeout(timeout) => {
                let stuck = timeout.tasks.iter().map(|t| {
                    format!("task {} ({}) is in state {} at {}", t.tid, t.comm, t.state, t.wchan)
                });
                let stuck = match stuck.collect::<Vec<_>>().join(", ") {
                    none if none.is_empty() => "its cgroup does not say FROZEN in time".to_owned(),
                    stuck => stuck,
                };
                Err(ShimError::CannotFreeze { stuck })
            }
            other => Err(other.unexpected("Frozen").into()),
        }
    }

    /// Sends a message of ownership (`Thaw`, `Seal`, `Stopped`, …) and gives the answer as it is.
    ///
    /// # Errors
    /// [`ShimError`]; a refusal is an error.
    pub async fn tell(&self, body: impl Into<ToShimBody>) -> Result<FromShimBody, ShimError> {
        Ok(self.ask(body, &[], SLOW).await?.body)
    }

    async fn ask(
        &self,
        body: impl Into<ToShimBody>,
        fds: &[BorrowedFd<'_>],
        patience: Duration,
    ) -> Result<Received<FromShimBody>, ShimError> {
        let body = body.into();
        let sent = sent(&body);
        self.socket.send(body, fds).await?;
        failpoint::site(sent);
        let answer = self.socket.recv_timeout(patience).await?.ok_or(WireError::Closed)?;
        settle_unasked(answer)
    }

    /// Waits until the shim says something unasked: the operation is over then. For use beside other work.
    pub async fn ended(&self) -> ShimError {
        match self.socket.recv().await {
            Ok(Some(message)) => match settle_unasked(message) {
                Ok(other) => other.body.unexpected("nothing").into(),
                Err(error) => error,
            },
            Ok(None) => WireError::Closed.into(),
            Err(error) => error.into(),
        }
    }
}

/// The name of the failpoint between a message and its answer.
fn sent(message: &ToShimBody) -> &'static str {
    match message {
        ToShimBody::Attach(_) => "attach.sent",
        ToShimBody::BeginCheckpoint(_) => "begin.sent",
        ToShimBody::CriuStarted(_) => "criu-started.sent",
        ToShimBody::Freeze(_) => "freeze.sent",
        ToShimBody::Thaw(_) => "thaw.sent",
        ToShimBody::Seal(_) => "seal.sent",
        ToShimBody::Unseal(_) => "unseal.sent",
        ToShimBody::Stopped(_) => "stopped.sent",
        ToShimBody::Moved(_) => "moved.sent",
        ToShimBody::Cancel(_) => "cancel.sent",
        ToShimBody::WriteFence(fence) if fence.stands => "stands.sent",
        ToShimBody::WriteFence(_) => "hold.sent",
        ToShimBody::ResumeHeld(_) => "resume.sent",
        ToShimBody::AbortHeld(_) => "abort.sent",
    }
}

/// Messages that end the operation become errors.
fn settle_unasked(message: Received<FromShimBody>) -> Result<Received<FromShimBody>, ShimError> {
    match message.body {
        FromShimBody::Refusal(refusal) => Err(ShimError::Refused(refusal)),
        FromShimBody::Damaged(damaged) => {
            Err(ShimError::Damaged { container: damaged.container, reason: damaged.reason })
        }
        FromShimBody::Aborted(aborted) => {
            let why = aborted.why.unwrap_or_else(|| {
                Refusal::new(Code::Cancelled, "the shim ended the operation without a reason")
            });
            Err(ShimError::Refused(why))
        }
        FromShimBody::Exited(exited) => {
            Err(ShimError::Exited { container: exited.container, status: exited.status })
        }
        FromShimBody::NotContinuous(gap) if gap.damaged => {
            Err(ShimError::Damaged { container: gap.container, reason: gap.reason })
        }
        FromShimBody::NotContinuous(gap) => {
            Err(ShimError::NotContinuous { container: gap.container, reason: gap.reason })
        }
        _ => Ok(message),
    }
}

fn subjects(containers: Vec<Container>, fds: Vec<OwnedFd>) -> Result<Vec<Subject>, WireError> {
    let (got, wanted) = (fds.len(), containers.len() * 2);
    if got != wanted {
        return Err(WireError::WrongFds { message: "Containers", got, wanted });
    }
    let mut fds = fds.into_iter();
    let mut result = Vec::with_capacity(containers.len());
    for container in containers {
        if let (Some(init), Some(spec)) = (fds.next(), fds.next()) {
            let spec = memfd::read(spec, MAX_SPEC)?;
            result.push(Subject { container, init, spec });
        }
    }
    Ok(result)
}

impl AsFd for Subject {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.init.as_fd()
    }
}
