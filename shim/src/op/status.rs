//! What agents are told: answers, the shim's own words, and the status.

use std::os::fd::{AsFd, OwnedFd};

use godwit_ownership::ToAgent;
use godwit_ownership::shim::{Conn, Phase, Tasks};
use godwit_types::Code;
use godwit_wire::Refusal;
use godwit_wire::agent_op::{Failed, FenceWritten, Held, Resumed};
use godwit_wire::shim_op::{
    Aborted, ContainerStatus, Containers, Damaged, Done, Exited, FreezeTimeout, FromShimBody,
    Frozen, NotContinuous, PodState, Sealed, Status, Thawed,
};
use tracing::{error, warn};

use super::actor::Actor;
use super::checkpoint::Trouble;
use super::{describe, words};
use crate::state::State;

impl Actor {
    /// Tells an agent that has connected.
    pub(super) async fn tell(&mut self, to: Conn, message: ToAgent) {
        let body: FromShimBody = match message {
            ToAgent::Status(_) => self.status().into(),
            ToAgent::Begun => return self.tell_containers(to).await,
            ToAgent::Frozen => Frozen {}.into(),
            ToAgent::Thawed => Thawed { frozen_us: self.frozen_us() }.into(),
            ToAgent::Sealed => {
                self.sealed();
                Sealed {}.into()
            }
            ToAgent::NotContinuous => NotContinuous {
                container: self.key.to_string(),
                reason: "it was not frozen without a gap since its dump".into(),
                damaged: false,
            }
            .into(),
            ToAgent::Done | ToAgent::Resumed => Done {}.into(),
            ToAgent::Aborted => self.aborted(),
            ToAgent::Refused(why) => words::refusal(&why, &self.key).into(),
            ToAgent::Ask(_)
            | ToAgent::Held
            | ToAgent::RestoreFailed { .. }
            | ToAgent::Committing => {
                error!("the machine tells an agent what only the agent that was asked may hear");
                return;
            }
        };
        self.conns.tell(to, body, &[]).await;
    }

    /// Replies to the agent that was asked.
    pub(super) async fn reply(&mut self, to: Conn, message: ToAgent) {
        match message {
            ToAgent::Held => {
                let tasks = self.starting.as_ref().map(|s| s.tasks()).unwrap_or_default();
                self.conns.reply(to, Held { tasks }).await;
            }
            ToAgent::Committing => self.conns.reply(to, FenceWritten {}).await,
            ToAgent::Resumed => {
                let told = self.starting.as_ref().map(|s| s.resumed()).unwrap_or_default();
                if told.is_empty() {
                    // It starts from its image.
                    self.conns.reply(to, Resumed::default()).await;
                }
                for (conn, resumed) in told {
                    self.conns.reply(conn, resumed).await;
                }
            }
            ToAgent::RestoreFailed { .. } => {
                let failed = self.failure("the restore failed");
                self.conns.reply(to, failed).await;
            }
            ToAgent::Done => {
                let awaited = self.starting.as_ref().is_some_and(|s| s.aborting == Some(to));
                if awaited {
                    let failed = self.failure("the attempt was given up as asked");
                    self.conns.reply(to, failed).await;
                } else {
                    // A refusal needs no answer, and nothing follows on its connection.
                    self.conns.close(to);
                }
            }
            ToAgent::Refused(why) => {
                warn!(
                    why = why.told(&self.key),
                    "the agent's answer does not fit; its connection is given up"
                );
                self.conns.close(to);
            }
            _ => self.conns.close(to),
        }
    }

    /// Tells the agent of the operation something unasked.
    pub(super) async fn tell_operator(&mut self, body: impl Into<FromShimBody>) {
        if let Some(conn) = self.operator {
            self.conns.tell(conn, body, &[]).await;
        }
    }

    /// The pod as an agent sees it.
    pub(super) fn status(&mut self) -> Status {
        let holds = self.holds().and_then(|holds| words::status(&holds).ok());
        let containers = self.pod.containers();
        let mut status = holds.unwrap_or_default();
        status.pod_key.clone_from(&self.key);
        status.namespace = self.pod.namespace().to_owned();
        status.state = self.pod_state() as i32;
        status.hydrating = self.hydrating_record();
        status.containers = containers
            .iter()
            .map(|container| ContainerStatus {
                id: container.id().to_owned(),
                pid: container.init_pid().unwrap_or_default(),
                exited: container.state() == State::Stopped,
                exit_status: container.init().exit().map_or(0, |exit| exit.status),
            })
            .collect();
        if let (Some(committing), Some(starting)) = (&mut status.committing, &self.starting) {
            committing.container = starting.container().to_owned();
        }
        status
    }

    /// Of this sandbox life.
    pub(super) fn incarnation(&mut self) -> String {
        self.holds().map(|holds| holds.incarnation.to_string()).unwrap_or_default()
    }

    fn pod_state(&self) -> PodState {
        let moved = godwit_ownership::FenceState::Moved;
        let given = self.machine.fence().is_some_and(|fence| fence.state == moved);
        let resumes = self.starting.as_ref().is_some_and(|starting| starting.granted);
        match (self.machine.phase(), self.machine.tasks()) {
            (Phase::Sealed, _) => PodState::Sealed,
            // One container starts anew; the others run, and what is executed in them does.
            (Phase::Starting | Phase::Committing, Tasks::Running) => self.by_containers(),
            (Phase::Starting, Tasks::Held) | (Phase::Committing | Phase::Releasing, _) => {
                PodState::Held
            }
            (Phase::Starting, _) => PodState::Restoring,
            (Phase::Checkpointing, Tasks::Frozen) | (Phase::Thawing, _) => PodState::Frozen,
            (Phase::Checkpointing, _) => PodState::Checkpointing,
            (Phase::Killing, _) => PodState::Moved,
            // Being let go, or not answered for yet: its containers say less.
            (Phase::Idle, Tasks::Running) if resumes => PodState::Held,
            (Phase::Idle, Tasks::Dead) if given => PodState::Moved,
            (Phase::Idle, _) => self.by_containers(),
        }
    }

    fn by_containers(&self) -> PodState {
        let states: Vec<State> = self.pod.members().iter().map(|c| c.state()).collect();
        let any = |wanted: State| states.contains(&wanted);
        if any(State::Hydrating) {
            PodState::Hydrating
        } else if any(State::Paused) || any(State::Pausing) {
            PodState::Paused
        } else if any(State::Running) || any(State::Checkpointing) {
            PodState::Running
        } else if any(State::Stopped) && !any(State::Created) {
            PodState::Exited
        } else {
            PodState::Created
        }
    }

    async fn tell_containers(&mut self, to: Conn) {
        self.operator = Some(to);
        match self.containers() {
            Ok((containers, fds)) => {
                let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                self.conns.tell(to, containers, &fds).await;
            }
            Err(why) => {
                warn!(why = why.chain(), "a container of the operation cannot be described");
                // The end of its connection ends the operation.
                self.conns.close(to);
            }
        }
    }

    fn containers(&mut self) -> crate::Result<(Containers, Vec<OwnedFd>)> {
        let incarnation = self.incarnation();
        let (mut told, mut fds) = (Vec::new(), Vec::new());
        for container in self.checkpoint.iter().flat_map(|checkpoint| &checkpoint.containers) {
            let (described, with) = describe::container(container)?;
            told.push(described);
            fds.extend(with);
        }
        let namespace = self.pod.namespace().to_owned();
        let (pod_uid, containers, done) = (self.key.clone(), told, self.done());
        Ok((Containers { pod_uid, incarnation, containers, namespace, done }, fds))
    }

    /// Why the shim ended the operation.
    fn aborted(&mut self) -> FromShimBody {
        match self.trouble.take() {
            Some(Trouble::FreezeTimeout(tasks)) => FreezeTimeout { tasks }.into(),
            Some(Trouble::Damaged { container, reason }) => Damaged { container, reason }.into(),
            Some(Trouble::Exited { container, status }) => Exited { container, status }.into(),
            Some(Trouble::Aborted(why)) => Aborted { why: Some(why) }.into(),
            None => {
                let why = Refusal::new(Code::Cancelled, "the shim ended the operation");
                Aborted { why: Some(why) }.into()
            }
        }
    }

    fn failure(&self, otherwise: &str) -> Failed {
        let failure = self.starting.as_ref().and_then(|starting| starting.failure());
        let why = failure.map_or_else(
            || Refusal::new(Code::Cancelled, otherwise),
            |(container, failure)| failure.told(container),
        );
        Failed { why: Some(why) }
    }
}
