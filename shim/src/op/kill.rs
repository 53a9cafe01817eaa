//! Kills everyone of the pod, and proofs that nobody lives.
//!
//! SIGKILL goes to every task before anything is thawed: no instruction of a moved or sealed pod is executed any more.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use godwit_ownership::shim::Event;
use rustix::process::{Signal, pidfd_send_signal};
use tracing::{error, info, warn};

use super::actor::Actor;
use super::checkpoint::Checkpoint;
use super::input::Input;
use super::starting::Held;
use crate::cgroup::{Cgroup, is_inhabited};
use crate::network::{Network, Silenced, Was};
use crate::restore::{dead, place};
use crate::state::{State, Step};

impl Actor {
    /// Kills beside the actor, until every cgroup of the pod is empty.
    pub(super) fn begin_kill(&mut self) {
        let number = self.next_job();
        let farewell = Farewell::of(self.checkpoint.as_ref(), self.pod.silenced());
        for container in self.pod.members() {
            if container.state() == State::Sealed {
                // It exits next, in any case.
                let _ = container.shift(Step::Move);
            }
        }
        let restoring = self.starting.as_mut().map(super::starting::Starting::abort);
        if self.starting.as_ref().is_some_and(|starting| !starting.granted) {
            self.close_joined();
        }
        let criu = self.checkpoint.as_ref().map(super::checkpoint::Checkpoint::live_criu);
        let containers = self.pod.members();
        let cgroups = containers.iter().filter_map(|container| container.cgroup()).collect();
        info!(containers = containers.len(), "killing everyone of the pod");
        self.begin_job(
            async move {
                farewell.before().await;
                kill(restoring.unwrap_or_default(), criu.unwrap_or_default(), cgroups).await;
                farewell.after().await;
                Input::Job(number, Event::Killed)
            },
            number,
        );
    }

    /// Whether no task of another life of this pod is in the cgroups of its containers, or beside them in the pod's own.
    pub(super) fn others_dead(&self) -> bool {
        self.strangers().is_empty() && self.ours_only()
    }

    /// Directories in the cgroup that Kubernetes made for this pod in which somebody lives that no container of this sandbox knows: an
    /// earlier life's containers had other ids.
    fn strangers(&self) -> Vec<PathBuf> {
        let Some(uid) = self.pod.uid() else { return Vec::new() };
        let known: Vec<PathBuf> =
            self.pod.containers().iter().filter_map(|one| place::of(one)?.home()).collect();
        let parents: BTreeSet<&Path> =
            known.iter().filter_map(|home| home.parent()).filter(|dir| is_of(dir, uid)).collect();
        let inside = parents.into_iter().flat_map(|dir| std::fs::read_dir(dir).ok());
        let dirs = inside.flatten().flatten().map(|entry| entry.path()).filter(|dir| dir.is_dir());
        dirs.filter(|dir| !known.contains(dir) && is_inhabited(dir)).collect()
    }

    fn ours_only(&self) -> bool {
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

/// What the peers of those who are killed hear.
pub(super) struct Farewell {
    /// Networks that have fallen silent for the operation.
    silent: Vec<Network>,
    silenced: Silenced,
    /// A point may come of it.
    sealed: bool,
}

impl Farewell {
    pub(super) fn of(checkpoint: Option<&Checkpoint>, silenced: &Silenced) -> Self {
        let silent = checkpoint.map(|checkpoint| checkpoint.silent.clone()).unwrap_or_default();
        let sealed = checkpoint.is_some_and(|checkpoint| checkpoint.sealed);
        Self { silent, silenced: silenced.clone(), sealed }
    }

    /// The whole of it, for who has ended by itself, or been killed by somebody else.
    pub(super) async fn say(self) {
        self.before().await;
        self.after().await;
    }

    /// Those who are killed hear each other's end. Where nobody can go on from a point, so do all others.
    async fn before(&self) {
        for network in &self.silent {
            if self.sealed && !matches!(network.was().await, Ok(Was::Heard)) {
                continue;
            }
            if let Err(why) = self.silenced.open(network).await {
                warn!(why = why.chain(), "what is killed cannot say farewell");
            }
        }
    }

    /// Where somebody can, nothing; and the kernel does not go on trying for minutes, with a namespace that it keeps alive for that,
    /// although it was deleted, and which says to neighbours that it has the pod's address.
    async fn after(&self) {
        for network in self.silent.iter().filter(|_| self.sealed) {
            // Whoever runs there by now is heard, and what it has open is its own.
            let forgotten = match network.was().await {
                Ok(Was::Silent) => network.forget_former().await,
                seen => seen.map(drop),
            };
            if let Err(why) = forgotten {
                warn!(why = why.chain(), "the kernel keeps connections of what was killed");
            }
        }
    }
}

/// Whether this is the cgroup of the pod with this uid, by either driver of the kubelet (`pkg/kubelet/cm`): `…/pod<uid>`, or
/// `….slice` with the uid's dashes as underscores.
fn is_of(dir: &Path, uid: &str) -> bool {
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let stem = name.strip_suffix(".slice").unwrap_or(name);
    let ends = |uid: &str| stem.strip_suffix(uid).is_some_and(|rest| rest.ends_with("pod"));
    ends(uid) || ends(&uid.replace('-', "_"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_of_a_pod_is_known_by_its_uid_under_both_drivers() {
        let uid = "8f6b-11aa";
        for ours in
            ["/kubepods/besteffort/pod8f6b-11aa", "/x/kubepods-besteffort-pod8f6b_11aa.slice"]
        {
            assert!(is_of(Path::new(ours), uid), "{ours}");
        }
        for other in ["/kubepods/besteffort", "/kubepods/pod8f6b-11ab", "/", "/8f6b-11aa"] {
            assert!(!is_of(Path::new(other), uid), "{other}");
        }
    }
}
