//! Ends: of a process, of a container, of a pod without Kubernetes. What the log must know of them the agent writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use godwit_ownership::Gone;
use godwit_ownership::message::Before;
use godwit_ownership::shim::{Event, Phase, Tasks};
use godwit_ownership::state::ColdReason;
use godwit_wire::agent_op::{FromAgentBody, TaskGone};
use godwit_wire::shim_op::Exited;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::actor::Actor;
use super::checkpoint::Trouble;
use super::input::Asked;
use crate::container::Container;
use crate::state::State;

/// How long Delete waits for the agent; it goes on beside it afterwards.
const DELETE_WAITS: Duration = Duration::from_secs(3);
/// How long the agent may take to settle a death.
const SETTLING: Duration = Duration::from_secs(60);
/// Exit statuses of those who were sent INT, KILL, TERM.
const INTERRUPTED: u32 = 130;
const KILLED: u32 = 137;
const TERMINATED: u32 = 143;

/// What was before, by container: for the log, when a container is started again.
#[derive(Debug, Default)]
pub(super) struct PastLives {
    /// Since when, and whether by a restore.
    began: BTreeMap<String, (Instant, bool)>,
    ended: BTreeMap<String, End>,
    /// Names of those that were done before the pod came here.
    done_before: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy)]
struct End {
    reason: ColdReason,
    lived_s: u64,
    restored: bool,
}

impl PastLives {
    /// A container begins to run.
    pub(super) fn began(&mut self, container: &Container, restored: bool) {
        self.began.insert(name(container), (Instant::now(), restored));
    }

    /// A container is over. One that never ran leaves no past.
    fn ended(&mut self, container: &Container, status: u32) {
        let name = name(container);
        let Some((since, restored)) = self.began.remove(&name) else { return };
        let reason = if status == 0 { ColdReason::Exited } else { ColdReason::Crashed };
        let lived_s = since.elapsed().as_secs();
        self.ended.insert(name, End { reason, lived_s, restored });
    }

    /// A container is over as if it had never run.
    fn undone(&mut self, container: &Container) {
        self.began.remove(&name(container));
    }

    /// Whether it ever ran.
    fn has_lived(&self, container: &Container) -> bool {
        self.ended.contains_key(&name(container))
    }

    /// A container was done before the pod came here: it does not run.
    pub(super) fn was_done(&mut self, container: &Container) {
        self.done_before.insert(name(container));
    }

    /// Whether its last life that is over began with a restore.
    fn was_restored(&self, name: &str) -> bool {
        self.ended.get(name).is_some_and(|end| end.restored)
    }

    /// Names of those whose last life ended well, here or before.
    fn done(&self) -> BTreeSet<&String> {
        let well = |end: &End| end.reason == ColdReason::Exited;
        let here = self.ended.iter().filter(|(_, end)| well(end)).map(|(name, _)| name);
        let before = self.done_before.iter().filter(|name| !self.ended.contains_key(*name));
        here.chain(before).collect()
    }

    /// What was before this start. Without a past in this shim: a life of an earlier one, if there is a fence.
    pub(super) fn before(&self, container: &Container, fenced: bool) -> Before {
        let container = name(container);
        let unknown = if fenced { ColdReason::SandboxLost } else { ColdReason::FirstStart };
        let end = self.ended.get(&container);
        let lived_s = end.filter(|end| end.restored).map(|end| end.lived_s);
        Before { reason: end.map_or(unknown, |end| end.reason), lived_s, container }
    }
}

fn name(container: &Container) -> String {
    container.name().to_owned()
}

impl Actor {
    /// Names of the pod's containers that are done and do not run.
    pub(super) fn done(&self) -> Vec<String> {
        let members = self.pod.members();
        let alive = |name: &str| {
            members.iter().any(|one| one.name() == name && one.state() != State::Stopped)
        };
        self.past.done().into_iter().filter(|name| !alive(name)).cloned().collect()
    }

    /// An init process is over.
    pub(super) async fn exited(&mut self, container: &Arc<Container>) {
        let status = container.init().exit().map_or(255, |exit| exit.status);
        match container.is_unfilled() {
            true => self.past.undone(container),
            false => self.past.ended(container, status),
        }
        let id = container.id().to_owned();
        let operated = self.checkpoint.as_ref().is_some_and(|checkpoint| {
            checkpoint.containers.iter().any(|one| one.id() == container.id())
        });
        let last =
            self.pod.members().iter().all(|one| {
                matches!(one.state(), State::Stopped | State::Created | State::Creating)
            });
        if last && self.machine.tasks() != Tasks::Dead {
            if operated && self.trouble.is_none() {
                self.trouble = Some(Trouble::Exited { container: id, status });
            }
            self.feed(Event::Died).await;
        } else if operated && self.machine.phase() == Phase::Checkpointing {
            self.tell_operator(Exited { container: id, status }).await;
        }
    }

    /// A container's memory cannot be completed. What was restored with it goes with it: a pod goes on whole, from one point, or not at all.
    pub(super) async fn unfilled(&mut self) {
        for member in self.pod.members() {
            if member.state() != State::Stopped {
                member.note_unfilled();
            }
        }
        // One of the checkpoint that is done since then is not started again: the others would wait for it.
        let waits = self.done().iter().any(|name| self.past.was_restored(name));
        self.feed(if waits { Event::Kill } else { Event::Unfilled }).await;
    }

    /// A container was deleted. Without Kubernetes its pod is gone with it: the agent settles what that means.
    pub(super) async fn deleted(&mut self, container: &Arc<Container>, done: oneshot::Sender<()>) {
        let pod_lives = self.pod.uid().is_some() || !self.pod.containers().is_empty();
        let Some(fence) = self.machine.fence().filter(|_| !pod_lives) else {
            // Whoever deletes may be gone.
            let _ = done.send(());
            return;
        };
        let given = fence.state == godwit_ownership::FenceState::Moved;
        if !Self::proved_dead(container) {
            // Its fence stays as it is: the next start under this name proves the death, or is refused.
            warn!(container = container.id(), "deleted, and its cgroups are not empty");
            let _ = done.send(());
            return;
        }
        if self.is_at_work() {
            // Whoever asked for it hears of its outcome first: the shim ends with its last container.
            self.put_off.push((Arc::clone(container), done));
            return;
        }
        let status = container.init().exit().map_or(255, |exit| exit.status);
        let wanted = !given
            && !container.is_unfilled()
            && self.past.has_lived(container)
            && is_wanted(status, container.is_killed());
        self.feed(Event::Gone(if wanted { Gone::Wanted } else { Gone::Lost })).await;
        let wanted = self.machine.fence().is_some_and(|fence| fence.gone == Some(Gone::Wanted));
        let fence = self.machine.fence().and_then(|fence| fence.encode().ok()).unwrap_or_default();
        let told = TaskGone { pod_uid: self.key.clone(), fence, wanted };
        let (path, file) = (self.places.agent.clone(), self.fence.clone());
        self.pod.tasks().spawn(async move {
            let settling = tokio::time::timeout(SETTLING, settle(&path, told));
            tokio::pin!(settling);
            let (settled, waiting) = tokio::select! {
                settled = &mut settling => (settled, Some(done)),
                () = tokio::time::sleep(DELETE_WAITS) => {
                    // Whoever deletes may be gone.
                    let _ = done.send(());
                    (settling.await, None)
                }
            };
            let removes = settled.unwrap_or(None) == Some(true);
            info!(removes, "a pod is gone");
            if removes
                && let Ok(Err(why)) = tokio::task::spawn_blocking(move || file.remove()).await
            {
                warn!(why = why.chain(), "a settled fence could not be removed");
            }
            if let Some(done) = waiting {
                let _ = done.send(());
            }
        });
    }
}

/// Whether a container that ended so was meant to end. KILL says so only if this shim was `asked` for it: a container is killed for
/// want of memory by the same signal, and whoever deletes it then still wants to go on from its checkpoint.
fn is_wanted(status: u32, asked: bool) -> bool {
    match status {
        0 | INTERRUPTED | TERMINATED => true,
        KILLED => asked,
        _ => false,
    }
}

/// Tells the agent of a death; whether the fence may go. `None`: it is away, and finds the fence by itself.
pub(super) async fn settle(path: &std::path::Path, told: TaskGone) -> Option<bool> {
    let socket = Asked::connect(path).await.ok()?;
    socket.send(told, &[]).await.ok()?;
    loop {
        match socket.recv().await.ok()??.body {
            FromAgentBody::Settled(settled) => return Some(settled.remove_fence),
            FromAgentBody::Refusal(why) => {
                warn!(why = why.reason, "the agent does not settle a death yet");
                return Some(false);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::running;

    #[test]
    fn a_container_that_the_kernel_killed_for_want_of_memory_was_not_meant_to_end() {
        assert!(!is_wanted(KILLED, false));
        assert!(is_wanted(KILLED, true));
    }

    #[test]
    fn success_and_a_request_to_end_are_wanted_and_a_crash_is_not() {
        for status in [0, INTERRUPTED, TERMINATED] {
            assert!(is_wanted(status, false), "{status}");
        }
        for status in [1, 134, 139, 255] {
            assert!(!is_wanted(status, true), "{status}");
        }
    }

    #[test]
    fn who_began_anew_is_not_one_of_the_checkpoint() {
        let (restored, anew) = (running("a"), running("b"));
        let mut past = PastLives::default();
        past.began(&restored, true);
        past.began(&anew, false);
        for container in [&restored, &anew] {
            past.ended(container, 0);
        }
        assert!(past.done().contains(&"b".to_owned()));
        assert!(past.was_restored("a") && !past.was_restored("b"));
    }
}
