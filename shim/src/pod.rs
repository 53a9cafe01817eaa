//! The containers of one shim, and what containerd may do to them. The task service converts and calls; all order is
//! here.
//!
//! What containerd asks for runs on tasks of the pod ([`Pod::run`]), not on the connection: containerd may restart or
//! lose patience in the middle, and half a `runc create` must not be the result.

mod checkpoint;
mod create;
mod delete;
mod exec;
mod exit;
mod pause;
mod query;
mod signal;
mod start;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use godwit_types::{PodKey, names};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::container::Container;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::hooks::Hooks;
use crate::network::Silenced;
use crate::oom::OomWatch;
use crate::reaper::{Exit, Reaper};
use crate::spec::Spec;

pub use create::CreateRequest;
pub use exec::ExecRequest;
pub use query::{Listed, ProcessState};

/// The containers that share this shim: those of one sandbox, or one.
pub struct Pod {
    identity: PodIdentity,
    containers: Mutex<BTreeMap<String, Arc<Container>>>,
    oom: Mutex<BTreeMap<String, OomWatch>>,
    reaper: Reaper,
    events: Events,
    hooks: Arc<dyn Hooks>,
    silenced: Silenced,
    tasks: TaskTracker,
    finished: CancellationToken,
    /// It was asked to end while containers were left.
    is_to_end: AtomicBool,
}

/// Who a pod is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodIdentity {
    /// containerd's namespace.
    pub namespace: String,
    /// The sandbox id, or the id of the only container.
    pub group: String,
    /// The Kubernetes pod's uid, if there is one.
    pub uid: Option<String>,
}

impl PodIdentity {
    /// The pod of a container.
    #[must_use]
    pub fn of(spec: &Spec, namespace: &str, container: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            group: spec.group(container).to_owned(),
            uid: spec.annotation(names::SANDBOX_UID).map(str::to_owned),
        }
    }

    /// The name of the pod's fence and socket: the Kubernetes pod's uid, or containerd's namespace and the group.
    ///
    /// # Errors
    /// They make no file name.
    pub fn key(&self) -> Result<PodKey> {
        let key = match &self.uid {
            Some(uid) => PodKey::new(uid.as_str()),
            None => PodKey::new(format!("{}+{}", self.namespace, self.group)),
        };
        key.map_err(|why| Error::Invalid(why.to_string()))
    }
}

/// What is left of a process that was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deleted {
    /// Its pid; 0 if it never had one.
    pub pid: u32,
    /// How it ended; `None` if it never ran.
    pub exit: Option<Exit>,
}

impl Pod {
    /// A pod without containers.
    #[must_use]
    pub fn new(
        identity: PodIdentity,
        reaper: Reaper,
        events: Events,
        hooks: Arc<dyn Hooks>,
    ) -> Arc<Self> {
        Arc::new(Self {
            identity,
            containers: Mutex::default(),
            oom: Mutex::default(),
            reaper,
            events,
            hooks,
            silenced: Silenced::default(),
            tasks: TaskTracker::new(),
            finished: CancellationToken::new(),
            is_to_end: AtomicBool::new(false),
        })
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> &PodIdentity {
        &self.identity
    }

    /// containerd's namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.identity.namespace
    }

    /// The sandbox id, or the id of the only container.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.identity.group
    }

    /// The Kubernetes pod's uid, if there is one.
    #[must_use]
    pub fn uid(&self) -> Option<&str> {
        self.identity.uid.as_deref()
    }

    /// Waits for children; start pagers and the like with it.
    #[must_use]
    pub fn reaper(&self) -> &Reaper {
        &self.reaper
    }

    /// Events on their way to containerd.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// What operations plug in.
    #[must_use]
    pub fn hooks(&self) -> &Arc<dyn Hooks> {
        &self.hooks
    }

    /// Its networks that it has silenced.
    pub(crate) fn silenced(&self) -> &Silenced {
        &self.silenced
    }

    /// Tasks that the shim waits for before it ends.
    #[must_use]
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Cancelled when the shim shall end: the last container was deleted and containerd said so.
    #[must_use]
    pub fn finished(&self) -> &CancellationToken {
        &self.finished
    }

    /// All containers, ordered by id.
    #[must_use]
    pub fn containers(&self) -> Vec<Arc<Container>> {
        self.list().values().cloned().collect()
    }

    /// All containers but the sandbox's own, in the order in which they were created.
    #[must_use]
    pub fn members(&self) -> Vec<Arc<Container>> {
        let mut all = self.containers();
        all.retain(|container| !container.spec().is_sandbox());
        all.sort_by_key(|container| container.made());
        all
    }

    /// One container.
    ///
    /// # Errors
    /// There is none of this id.
    pub fn container(&self, id: &str) -> Result<Arc<Container>> {
        let found = self.list().get(id).cloned();
        found.ok_or_else(|| Error::NotFound(format!("container {id} is not created")))
    }

    /// Runs `work` to its end, whatever becomes of the caller.
    ///
    /// # Errors
    /// What `work` says.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let running = self.tasks.spawn(work);
        running.await.map_err(Error::io("run a request to its end"))?
    }

    /// Ends the shim as soon as no container is left: containerd asks once, when the sandbox goes. One that is killed goes first.
    pub fn end_when_empty(&self) {
        self.is_to_end.store(true, Ordering::Relaxed);
        self.shutdown();
    }

    /// Ends the shim if no container is left. Returns whether it does.
    pub fn shutdown(&self) -> bool {
        let empty = self.list().is_empty();
        if empty {
            self.finished.cancel();
        }
        empty
    }

    fn list(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Container>>> {
        lock(&self.containers)
    }

    fn watch_oom(&self, container: &Container) {
        let Some(cgroup) = container.cgroup() else { return };
        match OomWatch::start(container.id(), &cgroup, &self.events) {
            Ok(Some(watch)) => drop(lock(&self.oom).insert(container.id().to_owned(), watch)),
            Ok(None) => {}
            Err(why) => tracing::warn!(
                container = container.id(),
                why = why.chain(),
                "out-of-memory events of this container will be missing"
            ),
        }
    }

    fn flush_oom(&self, container: &Container) {
        if let Some(watch) = lock(&self.oom).get(container.id()) {
            watch.flush();
        }
    }

    fn forget(&self, container: &Container) {
        lock(&self.oom).remove(container.id());
        self.list().remove(container.id());
    }

    /// A container was deleted, and all that follows from it is done.
    fn deleted(&self) {
        if self.is_to_end.load(Ordering::Relaxed) {
            self.shutdown();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::op::{Operations, Places};

    /// A pod that has this container.
    pub(crate) fn pod_of(container: &Arc<Container>) -> Arc<Pod> {
        pod_with(container, Arc::new(Operations::new(Places::default())))
    }

    /// The same with these hooks.
    pub(crate) fn pod_with(container: &Arc<Container>, hooks: Arc<dyn Hooks>) -> Arc<Pod> {
        let group = container.id().to_owned();
        let identity = PodIdentity { namespace: "n".to_owned(), group, uid: None };
        let pod = Pod::new(identity, Reaper::new(), Events::new(), hooks);
        pod.list().insert(container.id().to_owned(), Arc::clone(container));
        pod
    }
}
