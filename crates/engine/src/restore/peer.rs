//! The shim whose start waits for the agent's word, in the words of `godwit-ownership`.
//!
//! Owns: the translation of each message of one connection on the agent's operation socket, and what the shim told beside
//! it. Decides nothing.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use async_trait::async_trait;
use godwit_ownership::fence::LineageRef;
use godwit_ownership::{Refusal, ToAgent as Said, ToShim as Told};
use godwit_types::{Code, Phase};
use godwit_wire::agent_op::{
    Abort, ColdStart, Committing, Finished, FromAgent, FromAgentBody, Held, May, Noted, Plan,
    Resume, ToAgent, ToAgentBody,
};
use godwit_wire::{AsyncSocket, WireError};

use crate::checkpoint::peer::{bytes, lineage_at};
use crate::driver::Peer;
use crate::journal::Journal;

/// The shim's own deadline ends an attempt; this only bounds a shim that hangs.
const PATIENCE: Duration = Duration::from_secs(900);

/// A connection of a shim.
pub(crate) type Connection = AsyncSocket<FromAgent, ToAgent>;

/// The target's shim with all that it told.
#[derive(Debug)]
pub(crate) struct TargetPeer<'j> {
    socket: Connection,
    /// The phases of what its spec asks for: a restore. An ordinary start has none.
    journal: Option<&'j mut Journal>,
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

impl<'j> TargetPeer<'j> {
    /// After the shim's first message was read.
    pub(crate) fn new(socket: Connection, journal: Option<&'j mut Journal>, name: String) -> Self {
        Self { socket, journal, name, plan: None, held: None, why: None, answered: false }
    }

    /// Pid of the shim; 0 if it is not known.
    pub(crate) fn pid(&self) -> u32 {
        self.socket.peer_pid().unwrap_or(0)
    }

    /// The next phase of a restore begins.
    pub(crate) fn enter(&mut self, phase: Phase) {
        if let Some(journal) = &mut self.journal {
            journal.enter(phase);
        }
    }

    /// Which lineage is continued, in the plan that is sent next.
    pub(crate) fn at(&mut self, at: &LineageRef) {
        if let Some((plan, _)) = &mut self.plan {
            plan.at = Some(lineage_at(at));
        }
    }

    /// Tells the shim that the container was done: nothing follows.
    ///
    /// # Errors
    /// The shim is gone.
    pub(crate) async fn finish(&mut self) -> Result<(), WireError> {
        self.answered = true;
        self.socket.send(Finished {}, &[]).await
    }

    /// Sends the plan of a container that joins its pod, and waits until it runs; `false`: it never will.
    ///
    /// # Errors
    /// The connection failed.
    pub(crate) async fn joined(&mut self) -> Result<bool, WireError> {
        let Some((plan, fds)) = self.plan.take() else { return Ok(false) };
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        self.socket.send(plan, &fds).await?;
        self.answered = true;
        let Some(message) = self.socket.recv().await? else { return Ok(false) };
        let runs = matches!(message.body, ToAgentBody::Resumed(_));
        self.socket.send(Noted {}, &[]).await?;
        Ok(runs)
    }

    /// The connection, for what follows a resume.
    pub(crate) fn into_socket(self) -> Connection {
        self.socket
    }

    async fn converse(&mut self, message: Told) -> Result<Said, WireError> {
        match message {
            Told::Plan { .. } => self.send_plan().await,
            Told::Commit { at, entry } => {
                self.enter(Phase::TakeOver);
                let message = Committing { at: Some(lineage_at(&at)), entry: bytes(&entry) };
                self.ask(message).await
            }
            Told::Resume { entry } => {
                let entry = bytes(&entry);
                self.answered = true;
                let message: FromAgentBody = match (self.held.is_some(), self.journal.is_some()) {
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
        self.ask(Abort { why: Some(refusal.clone()) }).await?;
        // What the shim says of its end is what it was told to do.
        self.why = Some(refusal);
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
                Said::RestoreFailed { never: false }
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
impl Peer for TargetPeer<'_> {
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

#[cfg(test)]
mod tests {
    use godwit_ownership::{Basis, Kind, Pen};
    use godwit_types::{Incarnation, LineageName, Nonce, Owner, Tenant};
    use godwit_wire::Socket;
    use godwit_wire::agent_op::FenceWritten;

    use super::*;

    fn claim() -> Told {
        let me = Owner {
            cluster: "_none".to_owned(),
            node: "n2".to_owned(),
            epoch: 0,
            pod_uid: "default+web".to_owned(),
            incarnation: Incarnation::from(1),
        };
        let pen = Pen { me, op: None, nonce: Nonce::from(1), at_ms: 0 };
        let entry = Basis::default().next(&pen, Kind::Start { forked_from: None }).unwrap();
        let lineage = LineageName::new("pod/web").unwrap();
        let at = LineageRef { store: "main".to_owned(), tenant: Tenant::node(), lineage };
        Told::Commit { at, entry: Box::new(entry) }
    }

    #[tokio::test]
    async fn the_claim_is_a_phase_of_its_own_that_begins_before_it() {
        let (ours, shims) = Socket::<FromAgent, ToAgent>::pair().unwrap();
        let ours = AsyncSocket::from_fd(ours.into_fd()).unwrap();
        let shims = AsyncSocket::<ToAgent, FromAgent>::from_fd(shims.into_fd()).unwrap();
        let (mut journal, watched) = Journal::begin();
        journal.enter(Phase::Restore);
        let mut peer = TargetPeer::new(ours, Some(&mut journal), "web".to_owned());
        let shim = async {
            let message = shims.recv().await.unwrap().unwrap();
            assert!(matches!(message.body, FromAgentBody::Committing(_)), "{message:?}");
            let phase = watched.progress().map(|progress| progress.phase);
            shims.send(FenceWritten {}, &[]).await.unwrap();
            phase
        };
        let (said, phase) = tokio::join!(peer.tell(claim()), shim);
        assert_eq!((said, phase), (Some(Said::Committing), Some(Phase::TakeOver)));
    }
}
