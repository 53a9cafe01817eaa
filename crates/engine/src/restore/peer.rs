//! The shim whose start waits for the agent's word, in the words of `godwit-ownership`.
//!
//! Owns: the translation of each message of one connection on the agent's operation socket, and what the shim told beside
//! it. Decides nothing.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use async_trait::async_trait;
use godwit_ownership::{Refusal, ToAgent as Said, ToShim as Told};
use godwit_types::Code;
use godwit_wire::agent_op::{
    Abort, ColdStart, Committing, FromAgent, FromAgentBody, Held, May, Noted, Plan, Resume,
    ToAgent, ToAgentBody,
};
use godwit_wire::{AsyncSocket, WireError};

use crate::checkpoint::peer::{bytes, lineage_at};
use crate::driver::Peer;

/// The shim's own deadline ends an attempt; this only bounds a shim that hangs.
const PATIENCE: Duration = Duration::from_secs(600);

/// A connection of a shim.
pub(crate) type Connection = AsyncSocket<FromAgent, ToAgent>;

/// The target's shim with all that it told.
#[derive(Debug)]
pub(crate) struct TargetPeer {
    socket: Connection,
    /// Whether its spec asks for a restore; else it asks for an ordinary start.
    restores: bool,
    /// Name of the pod in sentences.
    name: String,
    /// What is sent for [`Told::Plan`]: made ready by the engine.
    pub(crate) plan: Option<(Plan, Vec<OwnedFd>)>,
    /// What was held.
    pub(crate) held: Option<Held>,
    /// A sentence that says more than the machine's refusal.
    pub(crate) why: Option<godwit_wire::Refusal>,
    /// Whether the final word has been sent.
    answered: bool,
}

impl TargetPeer {
    /// After the shim's first message was read.
    pub(crate) fn new(socket: Connection, restores: bool, name: String) -> Self {
        Self { socket, restores, name, plan: None, held: None, why: None, answered: false }
    }

    /// The connection, for what follows a resume.
    pub(crate) fn into_socket(self) -> Connection {
        self.socket
    }

    async fn converse(&mut self, message: Told) -> Result<Said, WireError> {
        match message {
            Told::Plan { .. } => self.send_plan().await,
            Told::Commit { at, entry } => {
                let message = Committing { at: Some(lineage_at(&at)), entry: bytes(&entry) };
                self.ask(message).await
            }
            Told::Resume { entry } => {
                let entry = bytes(&entry);
                self.answered = true;
                let message: FromAgentBody = match (self.held.is_some(), self.restores) {
                    (true, _) => FromAgentBody::Resume(Resume { entry }),
                    (false, true) => FromAgentBody::ColdStart(ColdStart { entry }),
                    (false, false) => FromAgentBody::May(May { entry }),
                };
                let said = self.ask(message).await?;
                self.socket.send(Noted {}, &[]).await?;
                Ok(said)
            }
            Told::Abort { why } => self.abort(&why).await,
            _ => Ok(Said::Refused(Refusal::Busy)),
        }
    }

    async fn send_plan(&mut self) -> Result<Said, WireError> {
        let Some((plan, fds)) = self.plan.take() else {
            return Ok(Said::RestoreFailed { never: false });
        };
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        self.socket.send(plan, &fds).await?;
        self.hear_one().await
    }

    async fn abort(&mut self, why: &Refusal) -> Result<Said, WireError> {
        let refusal = self
            .why
            .clone()
            .unwrap_or_else(|| godwit_wire::Refusal::new(why.code(), why.told(&self.name)));
        let refusal = godwit_wire::Refusal { store_away: *why == Refusal::StoreAway, ..refusal };
        self.answered = true;
        if self.held.is_none() {
            self.socket.send(refusal, &[]).await?;
            return Ok(Said::Done);
        }
        self.ask(Abort { why: Some(refusal) }).await?;
        Ok(Said::Done)
    }

    async fn ask(&mut self, message: impl Into<FromAgentBody>) -> Result<Said, WireError> {
        self.socket.send(message.into(), &[]).await?;
        self.hear_one().await
    }

    async fn hear_one(&mut self) -> Result<Said, WireError> {
        let message = self.socket.recv_timeout(PATIENCE).await?.ok_or(WireError::Closed)?;
        Ok(match message.body {
            ToAgentBody::Held(held) => {
                self.held = Some(held);
                Said::Held
            }
            ToAgentBody::FenceWritten(_) => Said::Committing,
            ToAgentBody::Resumed(_) => Said::Resumed,
            ToAgentBody::Failed(failed) => {
                self.socket.send(Noted {}, &[]).await?;
                self.why = failed.why;
                Said::RestoreFailed { never: failed.never }
            }
            other => return Err(other.unexpected("Held, FenceWritten, Resumed or Failed")),
        })
    }

    /// Tells a shim that has no answer yet why it does not start.
    pub(crate) async fn close(&mut self) {
        if self.answered {
            return;
        }
        let unknown =
            || godwit_wire::Refusal::new(Code::Unavailable, "the start could not be decided");
        let why = self.why.take().unwrap_or_else(unknown);
        if let Err(error) = self.socket.send(why, &[]).await {
            tracing::debug!(error = %error, "a shim did not wait for its answer");
        }
    }
}

#[async_trait]
impl Peer for TargetPeer {
    async fn tell(&mut self, message: Told) -> Option<Said> {
        match self.converse(message).await {
            Ok(said) => Some(said),
            Err(error) => {
                tracing::warn!(error = %error, "the connection of a starting shim failed");
                None
            }
        }
    }

    async fn hear(&mut self) -> Option<Said> {
        self.hear_one().await.ok()
    }

    async fn prove_dead(&mut self) -> bool {
        false
    }

    async fn remove_fence(&mut self) {}
}
