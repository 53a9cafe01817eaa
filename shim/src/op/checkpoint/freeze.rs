//! The freeze of an operation: signals arrive, every task stops, the output is handed over.
//!
//! The actor waits for it and hears nothing else meanwhile, but for one thing: the end of the agent whose operation it is gives it up
//! at every step, for a container runs on within a second of that.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use godwit_ownership::shim::Event;
use godwit_types::Code;
use godwit_wire::Refusal;
use godwit_wire::shim_op::{FREEZE_TIMEOUT_MS, StuckTask};
use tokio::sync::OwnedRwLockWriteGuard;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Checkpoint, Trouble, freezer, is_unheard, thaw_all};
use crate::error::Error;
use crate::freezer::{Freezer, Frost};
use crate::network::{Network, Silence, Silenced};
use crate::op::actor::Actor;
use crate::state::Step;

/// How long handing over what is in the stdio pipes may take.
const DRAIN: Duration = Duration::from_secs(1);
/// How long signals that are being sent may take: a run of runc.
const SIGNALS: Duration = Duration::from_secs(10);
/// How long the actor asks a kernel that cannot open a network.
const OPENS_AT_ONCE: Duration = Duration::from_secs(1);
/// Most tasks that are named after a freeze that timed out.
const NAMED: usize = 32;

impl Actor {
    /// Freezes every container of the operation and hands over their output. The answer to [`Event::Frozen`]'s action.
    pub(in crate::op) async fn freeze(&mut self) -> Event {
        let agent_gone =
            self.operator.map_or_else(CancellationToken::new, |conn| self.conns.over(conn));
        let silenced = self.pod.silenced().clone();
        let Some(checkpoint) = &mut self.checkpoint else { return Event::FreezeFailed };
        match checkpoint.freeze(&silenced, &agent_gone).await {
            Ok((begun, _signals)) => {
                checkpoint.since = Some(begun);
                checkpoint.frozen.store(true, Ordering::SeqCst);
                for container in &checkpoint.containers {
                    // An exit in the middle is told by itself.
                    let _ = container.shift(Step::Freeze);
                }
                let members = checkpoint.members();
                self.arm(begun);
                Event::Frozen { members }
            }
            Err(trouble) => {
                warn!(pod = self.key, ?trouble, "freezing failed");
                if let Err(why) = checkpoint.thaw_at_once(&silenced).await {
                    // It would run unheard.
                    let (container, reason) = (checkpoint.first(), is_unheard(&why));
                    self.trouble = Some(Trouble::Damaged { container, reason });
                    return Event::Kill;
                }
                checkpoint.silent.clear();
                info!(pod = self.key, "thawed");
                self.trouble = Some(trouble);
                Event::FreezeFailed
            }
        }
    }
}

impl Checkpoint {
    /// Gives when the first task may have stopped, and what keeps signals from being sent until the state says that it is frozen: then
    /// they wait for the thaw.
    async fn freeze(
        &mut self,
        silenced: &Silenced,
        agent_gone: &CancellationToken,
    ) -> Result<(Instant, Vec<OwnedRwLockWriteGuard<()>>), Trouble> {
        let signals = within(SIGNALS, self.hold_signals(), agent_gone).await?;
        let signals = signals.ok_or_else(|| {
            failed(&"a signal that was sent to the container does not arrive: try again")
        })?;
        let begun = Instant::now();
        self.stop_tasks(agent_gone).await?;
        self.fall_silent(silenced).await.map_err(|why| failed(&why.chain()))?;
        within(DRAIN, self.drain(), agent_gone).await?.ok_or_else(|| {
            failed(&"whoever reads the container's output does not; lines would be lost or doubled")
        })?;
        Ok((begun, signals))
    }

    async fn hold_signals(&self) -> Vec<OwnedRwLockWriteGuard<()>> {
        let mut signals = Vec::new();
        for container in &self.containers {
            signals.push(container.hold_signals().await);
        }
        signals
    }

    async fn stop_tasks(&self, agent_gone: &CancellationToken) -> Result<(), Trouble> {
        let mut freezers = Vec::new();
        for container in &self.containers {
            let freezer = freezer(container).map_err(|why| failed(&why.chain()))?;
            freezer.begin_freeze().map_err(|why| failed(&why))?;
            freezers.push((container.id().to_owned(), freezer));
        }
        let until = Instant::now() + Duration::from_millis(FREEZE_TIMEOUT_MS).min(self.deadline);
        let given_up = agent_gone.clone();
        // Waited for in any case: it thaws and freezes, and must not any more when this is over.
        let waited =
            tokio::task::spawn_blocking(move || all_frozen(&freezers, until, &given_up)).await;
        let frozen = waited.map_err(|why| failed(&why))?.map_err(|why| failed(&why))?;
        frozen.map_err(|stuck| match agent_gone.is_cancelled() {
            true => gone(),
            false => Trouble::FreezeTimeout(stuck),
        })
    }

    /// Nothing of the pod's connections changes any more from before CRIU reads them: what the kernel would acknowledge in between
    /// would be lost. Those to others, as the manifest says: only where every container asks for it. One that has exited meanwhile is
    /// told by itself.
    async fn fall_silent(&mut self, silenced: &Silenced) -> Result<(), Error> {
        let keeps = || self.containers.iter().all(|one| one.spec().keeps_connections());
        let silence = if self.gives_away && keeps() { Silence::Whole } else { Silence::Inward };
        for container in &self.containers {
            let Some(network) = Network::of(container)? else { continue };
            if self.silent.contains(&network) {
                continue;
            }
            let outcome = silenced.silence(&network, silence).await;
            // It may be, whatever the kernel has said.
            if silenced.has(&network) {
                self.silent.push(network);
            }
            outcome?;
        }
        Ok(())
    }

    async fn drain(&self) {
        for container in &self.containers {
            container.drain_stdio().await;
        }
    }

    /// # Errors
    /// It cannot be heard, and stays frozen.
    async fn thaw_at_once(&self, silenced: &Silenced) -> Result<(), Error> {
        silenced.open_all(&self.silent, OPENS_AT_ONCE).await?;
        let freezers = self.freezers();
        let thawed = tokio::task::spawn_blocking(move || thaw_all(&freezers)).await;
        if let Ok(Err(why)) = thawed {
            error!(%why, "a container that could not be frozen cannot be thawed");
        }
        Ok(())
    }
}

/// Waits for it; `None`: it takes longer than it may.
async fn within<T>(
    patience: Duration,
    step: impl Future<Output = T>,
    agent_gone: &CancellationToken,
) -> Result<Option<T>, Trouble> {
    let step = agent_gone.run_until_cancelled(step);
    match tokio::time::timeout(patience, step).await {
        Ok(Some(done)) => Ok(Some(done)),
        Ok(None) => Err(gone()),
        Err(_) => Ok(None),
    }
}

fn failed(why: &dyn std::fmt::Display) -> Trouble {
    Trouble::Aborted(Refusal::new(Code::Unavailable, format!("cannot freeze: {why}")))
}

fn gone() -> Trouble {
    failed(&"the agent of a checkpoint is gone: it is undone")
}

/// Waits until all stand still; else the tasks that did not stop in time, as far as they can be named by then.
fn all_frozen(
    freezers: &[(String, Freezer)],
    until: Instant,
    given_up: &CancellationToken,
) -> std::io::Result<Result<(), Vec<StuckTask>>> {
    let (mut all, mut stuck) = (true, Vec::new());
    for (container, freezer) in freezers {
        // Who has exited does not run; its exit is told by itself.
        if matches!(freezer.wait_dumpable(until, given_up)?, Frost::Frozen | Frost::Gone) {
            continue;
        }
        all = false;
        let left = NAMED.saturating_sub(stuck.len());
        stuck.extend(freezer.stuck(left.max(1)).into_iter().map(|task| StuckTask {
            container: container.clone(),
            tid: task.tid,
            comm: task.comm,
            state: task.state.to_string(),
            wchan: task.wchan,
        }));
    }
    Ok(if all { Ok(()) } else { Err(stuck) })
}
