//! One run of the program: where requests go, what is shown meanwhile, and who may interrupt them.

use godwit_engine::catalog::{self, Answer};
use godwit_install::check::Finding;
use godwit_types::{CheckpointId, CheckpointReport, Code};
use godwit_wire::api::{AgentStatus, CheckpointRequest, Failure, PodList, Request, StoreCommand};
use serde::de::DeserializeOwned;

use crate::args::Global;
use crate::interrupt::Interrupts;
use crate::progress::Shown;
use crate::{agent, direct, doctor, failure};

/// One run.
pub(crate) struct Session<'a> {
    pub(crate) global: &'a Global,
    interrupts: Interrupts,
}

impl<'a> Session<'a> {
    /// A run with these options.
    ///
    /// # Errors
    /// The system refuses to tell of interrupts.
    pub(crate) fn new(global: &'a Global) -> Result<Self, Failure> {
        Ok(Self { global, interrupts: Interrupts::new(global.output)? })
    }

    /// What the agent is and does.
    ///
    /// # Errors
    /// What the agent says.
    pub(crate) async fn status(&mut self) -> Result<AgentStatus, Failure> {
        self.global.store_of_agent("status")?;
        self.ask(&Request::Status).await
    }

    /// The kubelet's pods of this node that are ours.
    ///
    /// # Errors
    /// What the agent says.
    pub(crate) async fn pods(&mut self) -> Result<PodList, Failure> {
        self.global.store_of_agent("pods")?;
        self.ask(&Request::Pods).await
    }

    /// Makes a checkpoint.
    ///
    /// # Errors
    /// What the agent says.
    pub(crate) async fn checkpoint(
        &mut self,
        request: CheckpointRequest,
    ) -> Result<CheckpointReport, Failure> {
        self.ask(&Request::Checkpoint(request)).await
    }

    /// What is found on this node.
    ///
    /// # Errors
    /// Who asks is not root; it was interrupted.
    pub(crate) async fn examination(&mut self) -> Result<Vec<Finding>, Failure> {
        self.interrupts.look(doctor::examine(&self.global.agent)).await
    }

    /// Has a command carried out, by the agent or straight.
    ///
    /// # Errors
    /// What the agent or the store says.
    pub(crate) async fn answer(&mut self, command: StoreCommand) -> Result<Answer, Failure> {
        let global = self.global;
        let Some(url) = global.url() else {
            let store = global.store.clone();
            return self.ask(&Request::Store { store, command }).await;
        };
        let (mut shown, cancel) = (Shown::new(global.output), self.interrupts.cancel());
        let work = direct::execute(global, url, command, &mut shown, &cancel);
        self.interrupts.attend(work).await
    }

    /// What the agent says of a checkpoint, and of its node beside it.
    ///
    /// # Errors
    /// What the agent says; a store's URL was typed.
    pub(crate) async fn agent_shows(
        &mut self,
        checkpoint: CheckpointId,
    ) -> Result<Box<catalog::Shown>, Failure> {
        let store = self.global.store_of_agent("doctor --checkpoint")?;
        let request = Request::Store { store, command: StoreCommand::Show { checkpoint } };
        let (mut shown, cancel) = (Shown::new(self.global.output), self.interrupts.cancel());
        let asked = agent::ask(&self.global.agent, &request, &mut shown, &cancel);
        let answer = self.interrupts.look(asked).await?;
        match serde_json::from_value(answer).map_err(failure::internal)? {
            Answer::Show(shown) => Ok(shown),
            _ => Err(failure::new(
                Code::Internal,
                "the agent gave another answer than was asked for",
            )),
        }
    }

    /// The same for one of several changes: after an interrupt there is no next one.
    ///
    /// # Errors
    /// As [`Session::answer`].
    pub(crate) async fn change(&mut self, command: StoreCommand) -> Result<(), Failure> {
        if self.interrupts.cancel().is_cancelled() {
            let sentence = "cancelled: only what was told before is done";
            return Err(failure::new(Code::Cancelled, sentence));
        }
        self.answer(command).await.map(drop)
    }

    async fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, Failure> {
        let (mut shown, cancel) = (Shown::new(self.global.output), self.interrupts.cancel());
        let work = agent::ask(&self.global.agent, request, &mut shown, &cancel);
        let result = self.interrupts.attend(work).await?;
        serde_json::from_value(result).map_err(failure::internal)
    }
}

/// Who types this, for other people: `ann@node-1`.
pub(crate) fn who() -> String {
    let names = ["SUDO_USER", "USER", "LOGNAME"];
    let named = names.iter().filter_map(|name| std::env::var(name).ok());
    let user = named.into_iter().find(|name| !name.is_empty());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}@{}", user.as_deref().unwrap_or("somebody"), host.trim())
}
