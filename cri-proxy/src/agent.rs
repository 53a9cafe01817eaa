//! The agent's word about calls: what it wants to see, and how it is asked.
//!
//! | Call | What for | Without the agent |
//! |---|---|---|
//! | `StopContainer` | a pod that is deleted is stopped at a checkpoint first (`godwit.dev/checkpoint-on-stop`) | passes |
//! | `ExecSync` | a probe or hook of a pod that is held or has moved is answered at once | passes |
//! | `CheckpointContainer` | a durable checkpoint, besides the archive that the kubelet asks for | passes |
//!
//! One connection for each call: lines of JSON (`godwit_wire::api`). Who gives a call up closes it.

use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use godwit_wire::api::{self, CriCall, CriVerdict, MAX_REQUEST, Reply};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use crate::cri::{Method, Request};
use crate::intercept::{Absent, Call, Intercept, Interest, Need, Verdict};

/// The agent of this node.
#[derive(Debug)]
pub struct Agent {
    socket: PathBuf,
}

impl Agent {
    /// The one that serves this socket, when it does.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    async fn ask(&self, call: CriCall) -> std::io::Result<CriVerdict> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        let mut line = serde_json::to_vec(&api::Request::Cri(call))?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut replies = BufReader::new(stream);
        loop {
            line.clear();
            let read = (&mut replies).take(MAX_REQUEST as u64).read_until(b'\n', &mut line).await?;
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            match serde_json::from_slice(&line)? {
                Reply::Progress(_) => {}
                Reply::Done { result } => return Ok(serde_json::from_value(result)?),
                Reply::Failed(failure) => return Err(std::io::Error::other(failure.message)),
            }
        }
    }
}

#[async_trait]
impl Intercept for Agent {
    fn interest(&self, method: Method) -> Interest {
        match method {
            Method::StopContainer | Method::ExecSync | Method::CheckpointContainer => {
                Interest::Before
            }
            _ => Interest::Nothing,
        }
    }

    async fn before(&self, call: &Call) -> Result<Verdict, Absent> {
        let asked = match &call.request {
            Request::StopContainer(stop) => CriCall::Stop {
                container: stop.container_id.clone(),
                grace_seconds: stop.timeout.try_into().unwrap_or(0),
            },
            Request::ExecSync(exec) => CriCall::Exec { container: exec.container_id.clone() },
            Request::CheckpointContainer(checkpoint) => {
                CriCall::Checkpoint { container: checkpoint.container_id.clone() }
            }
            _ => return Ok(Verdict::Pass),
        };
        let absent = |why: std::io::Error| Absent {
            need: Need::Benefit,
            reason: format!("{} was asked: {why}", self.socket.display()),
        };
        Ok(match self.ask(asked).await.map_err(absent)? {
            CriVerdict::Pass => Verdict::Pass,
            // An answer without fields: nothing printed, exit status 0.
            CriVerdict::Done => Verdict::Answer(Bytes::new()),
        })
    }
}
