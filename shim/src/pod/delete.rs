//! Delete: of what has ended, or never began.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::signal::KILL;
use super::{Deleted, Pod};
use crate::container::{Container, PID_FILE, ROOTFS};
use crate::error::{Error, Result};
use crate::events::Event;
use crate::freezer::Freezer;
use crate::mounts;
use crate::process::{Phase, Process};
use crate::reaper::Exit;
use crate::state::State;

/// How long the last output of a process may take to reach containerd; as in containerd's runc shim.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long the death of something that was killed may take to be seen.
const DEATH: Duration = Duration::from_secs(10);
/// Status of a container that was deleted before it had a process.
const NEVER_RAN: u32 = 137;

impl Pod {
    /// Deletes a container (empty `exec_id`) or an executed process.
    ///
    /// # Errors
    /// It lives.
    pub async fn delete(self: &Arc<Self>, id: &str, exec_id: &str) -> Result<Deleted> {
        let container = self.container(id)?;
        if exec_id.is_empty() {
            self.delete_container(&container).await
        } else {
            delete_exec(&container, exec_id).await
        }
    }

    async fn delete_container(self: &Arc<Self>, container: &Arc<Container>) -> Result<Deleted> {
        // containerd gives up a Start whose caller is gone like that: it sends no signal to what has no process yet. What is held was
        // started.
        if container.state() == State::Restoring && container.init().phase() != Phase::Running {
            self.give_up(container, KILL).await?;
            if container.state().executes() {
                end_what_nobody_started(container).await?;
            }
        }
        // Asked before its turn: a restore may take long, and must be killed first anyway.
        container.state().may_delete().map_err(|refusal| container.refuse(refusal))?;
        let _turn = container.turn().await;
        container.state().may_delete().map_err(|refusal| container.refuse(refusal))?;
        // Who is sending a signal is answered first: containerd closes this container's connection as soon as it is deleted.
        let _ = tokio::time::timeout(DEATH, container.hold_signals()).await;
        let removed = remove(container).await;
        let exit = wait_dead(container).await?;
        removed?;
        let pid = container.init().pid().unwrap_or_default();
        self.forget(container);
        self.events().publish(Event::deleted(container.id(), pid, exit));
        info!(container = container.id(), "container deleted");
        self.hooks().deleted(self, container).await;
        self.deleted();
        Ok(Deleted { pid, exit: Some(exit) })
    }
}

/// A start that was given up too late. Its end is nobody's wish: the log hears of a loss.
async fn end_what_nobody_started(container: &Container) -> Result<()> {
    warn!(container = container.id(), "it began to run after its start was given up: killed");
    match container.runc().kill(KILL, true).await {
        Err(_) if !container.state().executes() => return Ok(()),
        killed => killed?,
    }
    let mut state = container.watch_state();
    // One that does not die is refused by what follows.
    let _ = tokio::time::timeout(DEATH, state.wait_for(|state| *state == State::Stopped)).await;
    Ok(())
}

/// Takes away runc's state, streams and mounts; goes on past a failure and tells the first.
async fn remove(container: &Container) -> Result<()> {
    let force = container.state() == State::Created;
    if !force {
        thaw(container).await;
    }
    let deleted = container.runc().delete(force).await;
    drop(container.take_prepared());
    for process in container.execs().into_iter().chain([Arc::clone(container.init())]) {
        finish_io(&process).await;
    }
    // Its absence is what we want.
    let _ = std::fs::remove_file(container.bundle().join(PID_FILE));
    let unmounted = mounts::unmount_all(&container.bundle().join(ROOTFS)).await;
    if let Err(why) = &unmounted {
        warn!(
            container = container.id(),
            why = why.chain(),
            "unmounting the root file system failed"
        );
    }
    deleted.and(unmounted)
}

/// runc calls a container paused for as long as its cgroup is frozen, and does not delete it: one may have been killed in a freeze, which
/// nobody ends that has nobody left in it.
async fn thaw(container: &Container) {
    let empty = container.cgroup().filter(|cgroup| cgroup.is_empty());
    // Without a freezer nothing is frozen.
    let Some(Ok(freezer)) = empty.map(|cgroup| Freezer::of(&cgroup)) else { return };
    let thawed = tokio::task::spawn_blocking(move || freezer.thaw());
    if let Ok(Err(why)) = thawed.await {
        warn!(container = container.id(), %why, "the cgroup of a container that has ended stays frozen");
    }
}

async fn wait_dead(container: &Container) -> Result<Exit> {
    let init = container.init();
    if init.pid().is_none() {
        // A restore that was not started, or failed.
        init.set_exit(Exit::now(NEVER_RAN));
    }
    tokio::time::timeout(DEATH, init.wait()).await.map_err(|_| {
        Error::Unavailable(format!("container {} does not die; try again", container.id()))
    })
}

async fn delete_exec(container: &Container, exec_id: &str) -> Result<Deleted> {
    let process = container.process(exec_id)?;
    if matches!(process.phase(), Phase::Starting | Phase::Running) {
        return Err(Error::Precondition(format!("process {exec_id} is running; kill it first")));
    }
    finish_io(&process).await;
    container.remove_exec(exec_id);
    Ok(Deleted { pid: process.pid().unwrap_or_default(), exit: process.exit() })
}

async fn finish_io(process: &Process) {
    if let Some(io) = process.take_io() {
        io.finish(LAST_WORDS).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::{restoring, running};
    use crate::op::{Operations, Places};
    use crate::pod::tests::{pod_of, pod_with};
    use crate::state::Step;

    #[tokio::test]
    async fn a_container_is_deleted_after_the_signals_that_are_on_their_way_to_it() {
        let container = running("c");
        let pod = pod_of(&container);
        container.init().set_exit(Exit::now(0));
        container.shift(Step::Exit).unwrap();
        let signal = container.send_signal().await;
        let delete = tokio::spawn(async move { pod.delete("c", "").await });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!delete.is_finished());
        drop(signal);
        // There is no such runc.
        let tried = delete.await.unwrap().unwrap_err().to_string();
        assert!(tried.contains("/nonexistent/runc"), "{tried}");
    }

    /// A delete of a container that is being restored, and what its Start then comes to.
    async fn deleted(phase: Phase, start: Step) -> (Arc<Container>, String) {
        let dir = tempfile::tempdir().unwrap();
        let [fences, shims, agent] =
            ["fences", "shims", "agent.sock"].map(|name| dir.path().join(name));
        let container = restoring("c");
        container.init().set_phase(phase);
        let pod = pod_with(&container, Arc::new(Operations::new(Places { fences, shims, agent })));
        let turn = container.turn().await;
        let delete = tokio::spawn(async move { pod.delete("c", "").await });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        container.shift(start).unwrap();
        drop(turn);
        (container, delete.await.unwrap().unwrap_err().to_string())
    }

    #[tokio::test]
    async fn who_deletes_what_is_being_restored_gives_it_up() {
        let (container, told) = deleted(Phase::Starting, Step::Failed).await;
        // There is no such runc.
        assert!(told.contains("/nonexistent/runc"), "{told}");
        assert_eq!(container.state(), State::Stopped);
        assert_eq!(container.init().exit().unwrap().status, NEVER_RAN);
    }

    #[tokio::test]
    async fn who_deletes_what_cannot_be_given_up_any_more_kills_it() {
        let (container, told) = deleted(Phase::Starting, Step::Restored).await;
        // There is no such runc.
        assert!(told.contains("/nonexistent/runc"), "{told}");
        assert!(container.state().executes(), "nothing is deleted that lives");
        assert!(!container.is_killed(), "nobody wished its end");
    }

    #[tokio::test]
    async fn what_was_started_and_is_held_must_be_killed_first() {
        let (container, told) = deleted(Phase::Running, Step::Failed).await;
        assert!(told.contains("kill it"), "{told}");
        assert_eq!(container.init().exit(), None);
    }
}
