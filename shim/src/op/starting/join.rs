//! Containers that join a start: the others of a pod that is restored.
//!
//! Each asks for a plan on a connection of its own, is restored and held. Its Start is answered then, except the last one's: the
//! kubelet starts a container when the one before it has started. Nothing of them runs before the first one's connection says so.

use std::time::Duration;

use godwit_ownership::Refusal;
use godwit_ownership::shim::{Conn, Event, Phase};
use godwit_types::{Code, OpId};
use godwit_wire::agent_op::FromAgentBody;
use godwit_wire::{Received, WireError};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::member::Member;
use super::{ASK, Starting, is_away, refuse};
use crate::container::Container;
use crate::error::{Result, chain};
use crate::hooks::Restored;
use crate::op::actor::Actor;
use crate::op::input::{Asked, Input, StartAnswer, StartInput};
use crate::op::words;

/// How long containers are held for others of their pod that are not started: images may have to be pulled.
const OTHERS_COME: Duration = Duration::from_secs(600);

impl Starting {
    /// Whether all that must be held are.
    pub(super) fn is_complete(&self) -> bool {
        let held =
            |name: &str| self.members().any(|m| m.held.is_some() && m.container.name() == name);
        if self.pod.is_empty() {
            return self.head.held.is_some();
        }
        self.pod.iter().all(|name| held(name))
    }

    /// Those that must be held and are not.
    fn missing(&self) -> Vec<&str> {
        let held =
            |name: &&str| !self.members().any(|m| m.held.is_some() && m.container.name() == *name);
        self.pod.iter().map(String::as_str).filter(held).collect()
    }

    /// Whether a container asks for what the first one asked for.
    fn is_asked_alike(&self, container: &Container) -> bool {
        self.head.container.origin() == container.origin()
    }
}

impl Actor {
    /// A start while another one is on its way.
    pub(super) fn start_beside(&mut self, start: StartInput) {
        let StartInput { op, container, answer } = start;
        let Some(starting) = &mut self.starting else { return };
        let same = |member: &&mut Member| member.container.id() == container.id();
        if let Some(member) = starting.members_mut().find(same)
            && member.answer.is_none()
        {
            if member.runs {
                // The others are not told yet: asked again in a moment.
                let why = words::refusal(&Refusal::Busy, container.id());
                return refuse(answer, &why, true);
            }
            // The outcome of the former try is on its way already.
            member.answer = Some(answer);
            return;
        }
        let alike = starting.is_asked_alike(&container) && !starting.granted;
        if !alike || self.machine.phase() != Phase::Starting {
            let why = words::refusal(&Refusal::Busy, container.id());
            return refuse(answer, &why, false);
        }
        if starting.pod.is_empty() {
            // What the first one waits for is not known yet: asked again in a moment.
            let why = words::refusal(&Refusal::Busy, container.id());
            return refuse(answer, &why, starting.head.point.is_none());
        }
        info!(container = container.id(), op = %op, "start of another container of the pod");
        starting.joined.push(Member::new(op, container, Some(answer)));
        self.connect(op);
    }

    /// The agent is there for a container that joins: asks it. Or it is not.
    pub(super) async fn asked_to_join(&mut self, op: OpId, socket: Result<Asked, WireError>) {
        let waits = self.starting.as_mut().and_then(|starting| starting.member(op)).is_some();
        if !waits || self.machine.phase() != Phase::Starting {
            return;
        }
        let asked = match (socket, self.question(op)) {
            (Ok(socket), Ok((body, spec))) => self.put(op, socket, body, spec).await.map(drop),
            (Err(why), _) => Err(why),
            (_, Err(why)) => {
                let why = godwit_wire::Refusal::new(why.code(), why.chain());
                return self.leave(op, why).await;
            }
        };
        if let Err(why) = asked {
            let code = if is_away(&why) { Code::Unavailable } else { why.code() };
            let told = format!("could not {ASK}: {}", chain(&why));
            self.leave(op, godwit_wire::Refusal::new(code, told)).await;
        }
    }

    /// Whether this is the connection of a container that has joined.
    pub(in crate::op) fn has_joined(&self, conn: Conn) -> bool {
        let of = |starting: &Starting| starting.joined.iter().any(|m| m.conn == Some(conn));
        self.starting.as_ref().is_some_and(of)
    }

    /// What the agent says about a container that has joined.
    pub(in crate::op) async fn on_join_answer(
        &mut self,
        from: Conn,
        message: Received<FromAgentBody>,
    ) {
        let joined = self.starting.as_mut().map(|starting| &mut starting.joined);
        let found = joined.and_then(|all| all.iter_mut().find(|m| m.conn == Some(from)));
        let Some(member) = found else { return };
        let op = member.op;
        match message.body {
            FromAgentBody::Plan(plan) if member.point.is_none() => {
                member.plan = Some((plan, message.fds));
                if let Err(why) = self.begin_attempt(op) {
                    let why = godwit_wire::Refusal::new(why.code(), why.chain());
                    self.leave(op, why).await;
                }
            }
            FromAgentBody::Finished(_) => {
                member.answer(StartAnswer::Runs(Restored::Finished));
                self.past.was_done(&member.container);
                self.forget(op);
            }
            FromAgentBody::Refusal(why) => self.leave(op, why).await,
            FromAgentBody::Noted(_) => self.noted(from),
            other => {
                let why = other.unexpected("Plan, Finished, Refusal or Noted").to_string();
                self.leave(op, godwit_wire::Refusal::new(Code::Corrupt, why)).await;
            }
        }
    }

    /// Agents of joined containers that do not run hear that nothing follows: what they hold for them goes.
    pub(in crate::op) fn close_joined(&mut self) {
        let Some(starting) = &mut self.starting else { return };
        let waiting = starting.joined.iter_mut().filter(|member| !member.runs);
        for conn in waiting.filter_map(|member| member.conn.take()) {
            self.conns.close(conn);
        }
    }

    /// The agent's connection for a container that has joined is over.
    pub(in crate::op) async fn on_join_end(&mut self, conn: Conn) {
        if self.machine.phase() != Phase::Starting {
            // What is being killed, or decided, ends by itself.
            return;
        }
        let joined = self.starting.as_ref().map(|starting| &starting.joined);
        let found = joined.and_then(|all| all.iter().find(|m| m.conn == Some(conn)));
        let Some(member) = found else { return };
        // Once the plan is here, nothing more is expected of it before it runs.
        if member.point.is_none() && !member.runs {
            let why = godwit_wire::Refusal::new(Code::Unavailable, "the agent went away");
            self.leave(member.op, why).await;
        }
    }

    /// A container that is done did not start anything: the first one's question is withdrawn.
    pub(in crate::op) async fn finished(&mut self) {
        if let Some(starting) = &mut self.starting {
            starting.head.answer(StartAnswer::Runs(Restored::Finished));
            self.past.was_done(&starting.head.container);
        }
        self.feed(Event::StartDeadline).await;
    }

    /// A container does not join. Where trying again may help, or it may run after the others only, those are held on; else all of them
    /// are given up.
    async fn leave(&mut self, op: OpId, why: godwit_wire::Refusal) {
        if self.machine.phase() != Phase::Starting {
            return;
        }
        let Some(starting) = &mut self.starting else { return };
        let missing: Vec<String> = starting.missing().into_iter().map(str::to_owned).collect();
        let Some(member) = starting.member(op) else { return };
        warn!(container = member.container.id(), why = why.reason, "it does not join its pod");
        member.sentence = Some(why.clone());
        let is_awaited = missing.iter().any(|name| name == member.container.name());
        let comes_later = !is_awaited && why.means() == Code::Precondition;
        if comes_later || member.may_try_again() {
            // The kubelet starts no other container while it waits for one that is not to run yet.
            member.refuse(&why, !comes_later);
            return self.forget(op);
        }
        self.feed(Event::Kill).await;
    }

    fn forget(&mut self, op: OpId) {
        let Some(starting) = &mut self.starting else { return };
        let gone: Vec<Member> = starting.joined.extract_if(.., |m| m.op == op).collect();
        for conn in gone.into_iter().filter_map(|member| member.conn) {
            self.conns.close(conn);
        }
    }

    /// Answers the Start of a container that is held: the next one comes only then.
    pub(super) fn wait_for_others(&mut self, op: OpId) {
        let inputs = self.inputs.clone();
        let Some(starting) = &mut self.starting else { return };
        let missing = starting.missing().join(", ");
        let Some(member) = starting.member(op) else { return };
        info!(container = member.container.id(), missing, "held until the others are there");
        let (outcome, runs) = oneshot::channel();
        member.outcome = Some(outcome);
        let pid = member.init().unwrap_or_default();
        member.answer(StartAnswer::Runs(Restored::Held { pid, runs }));
        if starting.waits.is_none() {
            let head = starting.head.op;
            let task = tokio::spawn(async move {
                tokio::time::sleep(OTHERS_COME).await;
                // An actor that is gone needs no word.
                let _ = inputs.send(Input::NobodyCame(head)).await;
            });
            starting.waits = Some(task.abort_handle());
        }
    }

    /// The others did not come.
    pub(in crate::op) async fn nobody_came(&mut self, head: OpId) {
        let Some(starting) = self.starting.as_mut().filter(|starting| starting.head.op == head)
        else {
            return;
        };
        if self.machine.phase() != Phase::Starting || starting.is_complete() {
            return;
        }
        let (missing, minutes) = (starting.missing().join(", "), OTHERS_COME.as_secs() / 60);
        let why = format!(
            "{missing} of the checkpoint did not start within {minutes} minutes: a pod continues when all of its containers are there"
        );
        starting.head.sentence = Some(godwit_wire::Refusal::new(Code::Unavailable, why));
        self.feed(Event::Kill).await;
    }
}
