//! Kill: always allowed, never waits behind another request for the container. Only what does not end a frozen container waits: for
//! its thaw.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::Pod;
use crate::container::Container;
use crate::error::{Error, Result};
use crate::process::Process;
use crate::reaper::Exit;
use crate::state::{Refusal, State};

/// SIGKILL's number.
pub(super) const KILL: u32 = 9;
/// What a shell adds to the signal that ended a process.
const SIGNALLED: u32 = 128;
/// Signals by which somebody wants a container to end: SIGINT, SIGQUIT, SIGKILL, SIGTERM.
const ENDING: [u32; 4] = [2, 3, KILL, 15];
/// How long a signal waits for the thaw: as long as an executed process does.
const PATIENCE: Duration = Duration::from_secs(100);

impl Pod {
    /// Sends a signal to the init process (empty `exec_id`), to all processes of the container, or to an executed one.
    ///
    /// While an operation holds the container: SIGKILL before the seal gives the operation up, then kills; any other signal to a
    /// frozen container is delivered when it is thawed. Sealed, a signal that ends containers kills everyone without executing
    /// another instruction of theirs; moved, any signal does.
    ///
    /// # Errors
    /// `NotFound` if the process is over; `Unavailable` if the container is given away before it could get the signal.
    pub async fn kill(
        self: &Arc<Self>,
        id: &str,
        exec_id: &str,
        signal: u32,
        all: bool,
    ) -> Result<()> {
        let container = self.container(id)?;
        let process = container.process(exec_id)?;
        if process.exit().is_some() {
            return Err(over(process.id()));
        }
        if exec_id.is_empty() {
            self.kill_init(&container, signal, all).await
        } else {
            kill_exec(&process, signal)
        }
    }

    async fn kill_init(
        self: &Arc<Self>,
        container: &Arc<Container>,
        signal: u32,
        all: bool,
    ) -> Result<()> {
        loop {
            if self.answer_held(container, signal).await? {
                return Ok(());
            }
            let _on_its_way = container.send_signal().await;
            // Else it was frozen meanwhile: CRIU may have read already what is pending.
            if !container.state().held() {
                return deliver(container, signal, all).await;
            }
        }
    }

    /// What a signal means where runc must not send it now. `false`: now it may.
    async fn answer_held(
        self: &Arc<Self>,
        container: &Arc<Container>,
        signal: u32,
    ) -> Result<bool> {
        match container.state() {
            State::Creating => {
                Err(Error::Precondition(format!("container {} is being created", container.id())))
            }
            State::Moved => kill_held(container).map(|()| true),
            // runc would thaw it first.
            State::Sealed if ENDING.contains(&signal) => kill_held(container).map(|()| true),
            State::Sealed => Err(given_away(container)),
            // Nothing has run here yet: giving up loses nothing, and Start says so.
            State::Restoring if ENDING.contains(&signal) => {
                self.give_up(container, signal).await?;
                // Else it came too late to be given up: it runs, and is told like anyone that runs.
                Ok(container.state() == State::Stopped)
            }
            State::Created if ENDING.contains(&signal) && container.init_pid().is_none() => {
                self.end_unstarted(container, signal).await;
                Ok(true)
            }
            State::Restoring => Err(container.refuse(Refusal::Restoring)),
            State::Checkpointing | State::Frozen | State::Hydrating if signal == KILL => {
                self.hooks().abort(self, container).await.map(|()| false)
            }
            State::Frozen => wait_thawed(container).await.map(|()| false),
            _ => Ok(false),
        }
    }

    /// Gives up a restore in which nothing has run yet, if it is not too late: then it has ended as by this signal.
    pub(super) async fn give_up(
        self: &Arc<Self>,
        container: &Arc<Container>,
        signal: u32,
    ) -> Result<()> {
        self.hooks().abort(self, container).await?;
        // Start answers now; or it has, and the end of what was held is told.
        wait_until(container, |state| state != State::Restoring).await;
        let _turn = container.turn().await;
        self.end_unstarted(container, signal).await;
        Ok(())
    }

    /// A restore that has no process (not started, refused, given up) ends as if it had: whoever waits for its end is told.
    async fn end_unstarted(self: &Arc<Self>, container: &Arc<Container>, signal: u32) {
        if container.state() == State::Created && container.init_pid().is_none() {
            self.init_exited(container, Exit::now(SIGNALLED + signal)).await;
        }
    }
}

/// By runc, to a container that is not frozen by an operation.
async fn deliver(container: &Container, signal: u32, all: bool) -> Result<()> {
    if container.init_pid().is_none() {
        // A restore without a process: there is nothing to kill any more.
        return Err(Error::NotFound(format!("container {} has no process", container.id())));
    }
    match container.runc().kill(signal, all).await {
        // It ended by itself meanwhile, and whoever was told of that may have deleted it: what runc misses is what was to be ended.
        Err(_) if container.init().exit().is_some() => Err(over(container.id())),
        Ok(()) if signal == KILL => {
            container.note_killed();
            Ok(())
        }
        other => other,
    }
}

fn over(process: &str) -> Error {
    Error::NotFound(format!("process {process} already finished"))
}

/// Waits for a change that is on its way.
async fn wait_until(container: &Container, there: impl Fn(State) -> bool) {
    let mut state = container.watch_state();
    // Too late is told by what follows.
    let _ = tokio::time::timeout(PATIENCE, state.wait_for(|state| there(*state))).await;
}

/// A signal to a frozen process would be missing in its dump: it waits here until the operation has thawed it.
async fn wait_thawed(container: &Container) -> Result<()> {
    let mut state = container.watch_state();
    let thawed = state.wait_for(|state| *state != State::Frozen);
    match tokio::time::timeout(PATIENCE, thawed).await {
        Ok(Ok(state)) if state.held() => Err(given_away(container)),
        // It runs or has ended.
        Ok(_) => Ok(()),
        Err(_) => {
            let (id, patience) = (container.id(), PATIENCE.as_secs());
            let told = format!("container {id} has been frozen for {patience} s; try again");
            Err(Error::Unavailable(told))
        }
    }
}

fn given_away(container: &Container) -> Error {
    Error::Unavailable(format!(
        "container {} is being given away and was not told; try again where it runs on",
        container.id()
    ))
}

fn kill_held(container: &Container) -> Result<()> {
    let Some(cgroup) = container.cgroup() else {
        return Err(Error::NotFound(format!("container {} has no process", container.id())));
    };
    cgroup.kill().map_err(Error::io(format!("kill everyone in container {}", container.id())))?;
    container.note_killed();
    Ok(())
}

fn kill_exec(process: &Process, signal: u32) -> Result<()> {
    let pid = process.pid().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    let pid =
        pid.ok_or_else(|| Error::Precondition(format!("process {} is not started", process.id())))?;
    let signal = i32::try_from(signal).ok().and_then(Signal::from_named_raw);
    let signal = signal.ok_or_else(|| Error::Invalid("no such signal".into()))?;
    match kill_process(pid, signal) {
        Err(rustix::io::Errno::SRCH) => Err(over(process.id())),
        other => other.map_err(Error::io(format!("send a signal to process {}", process.id()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::{restoring, running};
    use crate::op::{Operations, Places};
    use crate::pod::tests::{pod_of, pod_with};
    use crate::state::Step;

    const HANGUP: u32 = 1;

    /// A container that an operation has frozen, and a signal to it that waits.
    async fn frozen(signal: u32) -> (Arc<Container>, tokio::task::JoinHandle<Result<()>>) {
        let container = running("c");
        let pod = pod_of(&container);
        for step in [Step::Begin, Step::Freeze] {
            container.shift(step).unwrap();
        }
        let kill = tokio::spawn(async move { pod.kill("c", "", signal, false).await });
        tokio::task::yield_now().await;
        assert!(!kill.is_finished());
        (container, kill)
    }

    #[tokio::test]
    async fn a_signal_to_a_container_that_is_given_away_is_refused_and_not_lost() {
        for signal in [HANGUP, 15] {
            let (container, kill) = frozen(signal).await;
            container.shift(Step::Seal).unwrap();
            let refused = kill.await.unwrap().unwrap_err();
            assert!(matches!(refused, Error::Unavailable(_)), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_signal_to_a_frozen_container_is_sent_when_it_is_thawed() {
        let (container, kill) = frozen(HANGUP).await;
        container.shift(Step::Thaw).unwrap();
        // There is no such runc.
        let tried = kill.await.unwrap().unwrap_err().to_string();
        assert!(tried.contains("/nonexistent/runc"), "{tried}");
    }

    #[tokio::test]
    async fn a_signal_that_fails_because_its_process_has_ended_meanwhile_says_so() {
        let (container, kill) = frozen(HANGUP).await;
        container.init().set_exit(Exit::now(0));
        container.shift(Step::Thaw).unwrap();
        let told = kill.await.unwrap().unwrap_err();
        assert!(matches!(told, Error::NotFound(_)), "{told}");
    }

    /// A container that is being restored, a signal to it that waits for its Start, and what Start comes to.
    async fn told_in_a_restore(signal: u32, start: &[Step]) -> (Arc<Container>, Result<()>) {
        let dir = tempfile::tempdir().unwrap();
        let [fences, shims, agent] =
            ["fences", "shims", "agent.sock"].map(|name| dir.path().join(name));
        let container = restoring("c");
        // Their machine has let the restore go already, or knows of none: nothing is given up any more.
        let pod = pod_with(&container, Arc::new(Operations::new(Places { fences, shims, agent })));
        let turn = container.turn().await;
        let kill = tokio::spawn(async move { pod.kill("c", "", signal, false).await });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!kill.is_finished());
        for step in start {
            container.shift(*step).unwrap();
        }
        if container.state() != State::Created {
            container.init().set_pid(std::process::id());
        }
        drop(turn);
        (container, kill.await.unwrap())
    }

    #[tokio::test]
    async fn a_restore_that_a_kill_cannot_give_up_any_more_gets_the_signal() {
        for signal in [KILL, 15] {
            for start in [&[Step::Restored][..], &[Step::Restored, Step::Hydrated]] {
                let (_container, told) = told_in_a_restore(signal, start).await;
                // There is no such runc.
                let tried = told.unwrap_err().to_string();
                assert!(tried.contains("/nonexistent/runc"), "{tried}");
            }
        }
    }

    #[tokio::test]
    async fn a_restore_that_a_kill_gives_up_has_ended() {
        let (container, told) = told_in_a_restore(15, &[Step::Failed]).await;
        told.unwrap();
        assert_eq!(container.state(), State::Stopped);
        assert_eq!(container.init().exit().unwrap().status, SIGNALLED + 15);
    }

    #[tokio::test]
    async fn a_freeze_waits_for_signals_on_their_way_and_they_for_it() {
        let container = running("c");
        let pod = pod_of(&container);
        let frozen = container.hold_signals().await;
        let kill = tokio::spawn(async move { pod.kill("c", "", HANGUP, false).await });
        tokio::task::yield_now().await;
        for step in [Step::Begin, Step::Freeze] {
            container.shift(step).unwrap();
        }
        drop(frozen);
        tokio::task::yield_now().await;
        assert!(!kill.is_finished());
        container.shift(Step::Seal).unwrap();
        assert!(matches!(kill.await.unwrap(), Err(Error::Unavailable(_))));
    }
}
