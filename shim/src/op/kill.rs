//! Kills everyone of the pod, and proofs that nobody lives.
//!
//! SIGKILL goes to every task before anything is thawed: no instruction of a moved or sealed pod is executed any more.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use godwit_ownership::shim::Event;
use rustix::process::{Signal, pidfd_send_signal};
use tracing::{error, info};

use super::actor::Actor;
use super::input::Input;
use super::starting::Held;
use crate::cgroup::Cgroup;
use crate::restore::{dead, place};
use crate::state::{State, Step};

impl Actor {
    /// Kills beside the actor, until every cgroup of the pod is empty.
    pub(super) fn begin_kill(&mut self) {
        let number = self.next_job();
        for container in self.pod.members() {
            if container.state() == State::Sealed {
                // It exits next, in any case.
                let _ = container.shift(Step::Move);
            }
        }
        let restoring = self.starting.as_mut().map(super::starting::Starting::abort);
        let criu = self.checkpoint.as_ref().map(super::checkpoint::Checkpoint::live_criu);
        let containers = self.pod.members();
        let cgroups = containers.iter().filter_map(|container| container.cgroup()).collect();
        info!(containers = containers.len(), "killing everyone of the pod");
        self.begin_job(
            async move {
                kill(restoring.unwrap_or_default(), criu.unwrap_or_default(), cgroups).await;
                Input::Job(number, Event::Killed)
            },
            number,
        );
    }

    /// Whether no task of another life of this pod is in the cgroups of its containers.
    pub(super) fn others_dead(&self) -> bool {
        self.pod.members().iter().all(|container| {
            let own = container.init_pid();
            let inside = place::of(container).map(|cgroup| cgroup.pids()).unwrap_or_default();
            // A container that runs is this life's; one that does not has at most runc's init.
            let ours = container.state().executes() || container.state().held();
            let others = inside.into_iter().any(|pid| Some(pid) != own);
            ours || !others
        })
    }

    /// Whether no task of this life is left.
    pub(super) fn proved_dead(container: &crate::container::Container) -> bool {
        place::of(container).is_none_or(|cgroup| cgroup.is_empty())
    }
}

async fn kill(restoring: Vec<Held>, criu: Vec<Arc<OwnedFd>>, cgroups: Vec<Arc<Cgroup>>) {
    for attempt in restoring {
        attempt.over().await;
    }
    for cgroup in &cgroups {
        if let Err(why) = cgroup.kill() {
            error!(%why, "killing everyone in a cgroup failed");
        }
    }
    for criu in criu {
        // After the tasks: a CRIU that is killed alone lets them run. It may have ended by itself.
        let _ = pidfd_send_signal(&*criu, Signal::KILL);
    }
    for cgroup in &cgroups {
        while !dead::empty(cgroup).await {
            error!("a killed container does not die; nobody else may go on with this pod");
        }
    }
}
