//! Operations on a pod: checkpoint, restore, and every start that needs the log's word.
//!
//! ```text
//!  agent ─► server ─► conns ─┐                                     ┌─► fence, freezer, kill
//!  containerd ─► Hooks ──────┼─► actor (owns the ShimMachine) ─────┼─► restore::attempt, restore::hydrate
//!  jobs, CRIU's ends, exits ─┘    event in, actions out            └─► answers
//! ```
//! Owns: carrying out what `godwit_ownership::ShimMachine` decides for this pod, in its order. Does not own: those decisions, the
//! life of containers (`pod`), the bytes of a checkpoint (the agent).
//!
//! Invariants: before the seal the end of the agent's connection thaws; sealed or committing, only a settled slot does anything; a
//! fence is on disk before its answer is sent; nothing is thawed before every CRIU has ended and was looked at.

mod actor;
mod checkpoint;
mod cold;
mod conns;
mod describe;
mod gone;
mod hydrating;
mod input;
mod kill;
mod orphaned;
mod releasing;
mod server;
mod starting;
mod status;
mod words;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use godwit_ownership::ShimMachine;
use godwit_types::{Incarnation, OpId, PodKey, names};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::container::{Container, Origin};
use crate::error::{Error, Result};
use crate::fence::FenceFile;
use crate::hooks::{Hooks, Restored};
use crate::network::{Network, Silence};
use crate::pod::Pod;
use crate::restore::quiet::Quiet;
use input::{Input, StartAnswer, StartInput};
pub use orphaned::settle_orphaned;

/// How long containerd's Start may wait for a restore; less than the two minutes of the kubelet.
pub(crate) const START_PATIENCE: Duration = Duration::from_secs(100);
/// How long an ordinary start waits for an agent that is away.
const PLAIN_PATIENCE: Duration = Duration::from_secs(10);
/// Pause before the agent is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// Words to the actor that may wait, and as many that it has put off: readers of connections wait then, nothing is lost.
const INPUTS: usize = 64;

/// Where the shim meets others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Directory of fences.
    pub fences: PathBuf,
    /// Directory of the shims' sockets.
    pub shims: PathBuf,
    /// The agent's socket.
    pub agent: PathBuf,
}

impl Places {
    /// Where the operations of a pod are served.
    fn socket(&self, key: &PodKey) -> PathBuf {
        self.shims.join(format!("{key}.sock"))
    }
}

impl Default for Places {
    /// The node's.
    fn default() -> Self {
        Self {
            fences: names::FENCES.into(),
            shims: names::SHIM_SOCKETS.into(),
            agent: names::AGENT_OP_SOCKET.into(),
        }
    }
}

/// The hooks of a pod whose containers can be checkpointed and restored.
#[derive(Debug)]
pub struct Operations {
    places: Places,
    running: Mutex<Option<Running>>,
    /// Containers whose start was given up for a kill.
    given_up: Mutex<BTreeSet<String>>,
}

#[derive(Debug)]
struct Running {
    inputs: mpsc::UnboundedSender<Input>,
    server: JoinHandle<()>,
}

impl Operations {
    /// Operations that meet their agent at these places.
    #[must_use]
    pub fn new(places: Places) -> Self {
        Self { places, running: Mutex::default(), given_up: Mutex::default() }
    }

    /// The pod's actor; the first call starts it.
    fn actor(&self, pod: &Arc<Pod>) -> Result<mpsc::UnboundedSender<Input>> {
        let mut running = self.running();
        if let Some(running) = &*running {
            return Ok(running.inputs.clone());
        }
        let key = pod.identity().key()?;
        let fence = FenceFile::within(&self.places.fences, &key);
        let found = fence.read()?;
        let machine = ShimMachine::new(key.to_string(), Incarnation::mint(), found);
        let (inputs, heard) = mpsc::channel(INPUTS);
        let actor = actor::Actor::new(
            Arc::clone(pod),
            key.to_string(),
            self.places.clone(),
            fence,
            machine,
            (inputs.clone(), heard),
        );
        tokio::spawn(actor.run());
        let server = server::serve(self.places.socket(&key), inputs.clone());
        let inputs = in_order(inputs);
        *running = Some(Running { inputs: inputs.clone(), server });
        Ok(inputs)
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn given_up(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts with the log's word; asks again while the agent is away or the pod is checkpointed.
    async fn ask_to_start(
        &self,
        pod: &Arc<Pod>,
        container: &Arc<Container>,
    ) -> Result<StartAnswer> {
        let inputs = self.actor(pod)?;
        let restores = matches!(container.origin(), Origin::Restore { .. });
        let patience = if restores { START_PATIENCE } else { PLAIN_PATIENCE };
        let until = tokio::time::Instant::now() + patience;
        self.given_up().remove(container.id());
        loop {
            self.still_asked(container)?;
            match ask_once(&inputs, container, until).await? {
                StartAnswer::No { again: true, .. }
                    if tokio::time::Instant::now() + ASK_AGAIN < until =>
                {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                StartAnswer::No { why, .. } => return Err(why),
                StartAnswer::Cold => {
                    // Whoever kills it may have waited for this answer.
                    self.still_asked(container)?;
                    return Ok(StartAnswer::Cold);
                }
                answer => return Ok(answer),
            }
        }
    }

    /// Refuses when its start was given up.
    fn still_asked(&self, container: &Container) -> Result<()> {
        if self.given_up().contains(container.id()) {
            return Err(Error::Cancelled(format!("{} was killed", container.id())));
        }
        Ok(())
    }
}

/// The way to the actor for what happens in a pod: nothing overtakes, however long the actor's queue is. Not more words can be in it than
/// requests of containerd are under way, and one end of each container.
fn in_order(inputs: mpsc::Sender<Input>) -> mpsc::UnboundedSender<Input> {
    let (way, mut words) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(word) = words.recv().await {
            if inputs.send(word).await.is_err() {
                return;
            }
        }
    });
    way
}

async fn ask_once(
    inputs: &mpsc::UnboundedSender<Input>,
    container: &Arc<Container>,
    until: tokio::time::Instant,
) -> Result<StartAnswer> {
    let (op, (answer, answered)) = (OpId::mint(), oneshot::channel());
    let start = StartInput { op, container: Arc::clone(container), answer };
    inputs.send(Input::Start(Box::new(start))).map_err(|_| over())?;
    tokio::pin!(answered);
    tokio::select! {
        answer = &mut answered => return answer.map_err(|_| over()),
        () = tokio::time::sleep_until(until) => {}
    }
    // From here on it ends as soon as it may: not between an entry and its outcome.
    inputs.send(Input::StartDeadline(op)).map_err(|_| over())?;
    answered.await.map_err(|_| over())
}

#[async_trait]
impl Hooks for Operations {
    async fn before_create(&self, pod: &Arc<Pod>, container: &Arc<Container>) -> Result<()> {
        self.actor(pod)?;
        let spec = container.spec();
        if spec.is_sandbox()
            && spec.keeps_connections()
            && spec.may_go_on()
            && let Some(network) = Network::joined(spec)?
        {
            // Until the first container runs: peers that send to the address meanwhile send again.
            pod.silenced().silence(&network, Silence::Whole).await?;
        }
        Ok(())
    }

    async fn before_start(&self, pod: &Arc<Pod>, container: &Arc<Container>) -> Result<()> {
        if container.spec().is_sandbox() {
            return Ok(());
        }
        match self.ask_to_start(pod, container).await? {
            StartAnswer::Cold => be_heard(pod, container).await,
            StartAnswer::Runs(_) | StartAnswer::No { .. } => {
                Err(Error::Refused(format!("{} was not to be restored", container.id())))
            }
        }
    }

    async fn restore(&self, pod: &Arc<Pod>, container: &Arc<Container>) -> Result<Restored> {
        match self.ask_to_start(pod, container).await? {
            StartAnswer::Runs(restored) => Ok(restored),
            StartAnswer::Cold => {
                be_heard(pod, container).await?;
                let pid = cold::start(container, pod.reaper()).await?;
                Ok(Restored::Running { pid, hydrating: false })
            }
            StartAnswer::No { why, .. } => Err(why),
        }
    }

    async fn abort(&self, pod: &Arc<Pod>, container: &Arc<Container>) -> Result<()> {
        use crate::state::State;
        if container.state() == State::Hydrating {
            // The pager lets its tasks die and sees that they are gone.
            return Ok(());
        }
        // Between two questions to an agent that is away, nothing else tells the start.
        self.given_up().insert(container.id().to_owned());
        let (done, given_up) = oneshot::channel();
        let input = Input::GiveUp(Arc::clone(container), done);
        self.actor(pod)?.send(input).map_err(|_| over())?;
        given_up.await.map_err(|_| over())?;
        if matches!(container.state(), State::Sealed | State::Moved)
            && let Some(cgroup) = container.cgroup()
        {
            let attempt = format!("kill everyone in container {}", container.id());
            return cgroup.kill().map_err(Error::io(attempt));
        }
        Ok(())
    }

    fn exited(&self, pod: &Arc<Pod>, container: &Arc<Container>) {
        if container.spec().is_sandbox() {
            return;
        }
        let Ok(inputs) = self.actor(pod) else { return };
        // An actor that is gone needs no word.
        let _ = inputs.send(Input::Exited(Arc::clone(container)));
    }

    async fn deleted(&self, pod: &Arc<Pod>, container: &Arc<Container>) {
        self.given_up().remove(container.id());
        if container.spec().is_sandbox() {
            return;
        }
        let Ok(inputs) = self.actor(pod) else { return };
        let (done, settled) = oneshot::channel();
        if inputs.send(Input::Deleted(Arc::clone(container), done)).is_ok() {
            // Told early or late, or the agent is away: the container is deleted anyway.
            let _ = settled.await;
        }
    }

    async fn shutdown(&self, _: &Arc<Pod>) {
        let Some(running) = self.running().take() else { return };
        running.server.abort();
        // Its end removes the socket.
        let _ = running.server.await;
        let (done, ended) = oneshot::channel();
        if running.inputs.send(Input::Shutdown(done)).is_ok() {
            let _ = ended.await;
        }
    }
}

/// A container begins anew: its network is not that of one who waits to be continued any more.
async fn be_heard(pod: &Pod, container: &Container) -> Result<()> {
    let Some(mut network) = Quiet::of(pod, container)? else { return Ok(()) };
    network.clear().await?;
    network.be_heard().await
}

fn over() -> Error {
    Error::Unavailable("the shim is about to end".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::{restoring, running};
    use crate::pod::tests::pod_of;

    #[tokio::test]
    async fn the_end_of_a_container_is_heard_before_its_deletion_however_busy_the_actor_is() {
        let container = running("c");
        let pod = pod_of(&container);
        let (inputs, mut heard) = mpsc::channel(1);
        inputs.send(Input::Ended(godwit_ownership::shim::Conn(0))).await.unwrap();
        let server = tokio::spawn(std::future::pending());
        let operations = Operations::new(Places::default());
        *operations.running() = Some(Running { inputs: in_order(inputs), server });
        operations.exited(&pod, &container);
        let mut words = Vec::new();
        let hears = async {
            // Nobody listens until everything has been said.
            tokio::task::yield_now().await;
            while words.len() < 3 {
                let word = heard.recv().await.unwrap();
                words.push(format!("{word:?}"));
            }
        };
        tokio::join!(operations.deleted(&pod, &container), hears);
        assert_eq!(words, ["ended", "exited", "deleted"]);
    }

    #[tokio::test]
    async fn a_start_that_was_given_up_before_the_log_answered_does_not_begin_from_its_image() {
        let container = restoring("c");
        let pod = pod_of(&container);
        let (inputs, mut heard) = mpsc::unbounded_channel();
        let server = tokio::spawn(std::future::pending());
        let operations = Operations::new(Places::default());
        *operations.running() = Some(Running { inputs, server });
        let answers = async {
            let Some(Input::Start(start)) = heard.recv().await else { panic!("no start") };
            operations.given_up().insert("c".to_owned());
            start.answer.send(StartAnswer::Cold).unwrap();
        };
        let (started, ()) = tokio::join!(operations.restore(&pod, &container), answers);
        assert!(matches!(started, Err(Error::Cancelled(_))), "{started:?}");
    }
}
