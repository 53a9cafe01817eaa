//! The containers of one shim, and what containerd may do to them. The task service converts and calls; all order is
//! here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::container::Container;
use crate::error::{Error, Result};
use crate::hooks::Hooks;
use crate::reaper::Reaper;

/// The containers that share this shim: those of one sandbox, or one.
pub struct Pod {
    namespace: String,
    group: String,
    uid: Option<String>,
    containers: Mutex<BTreeMap<String, Arc<Container>>>,
    reaper: Reaper,
    hooks: Arc<dyn Hooks>,
}

impl Pod {
    /// A pod without containers. `group` is the sandbox id, or the id of the only container; `uid` the Kubernetes pod's.
    #[must_use]
    pub fn new(
        namespace: String,
        group: String,
        uid: Option<String>,
        reaper: Reaper,
        hooks: Arc<dyn Hooks>,
    ) -> Arc<Self> {
        Arc::new(Self { namespace, group, uid, containers: Mutex::default(), reaper, hooks })
    }

    /// containerd's namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The sandbox id, or the id of the only container.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The Kubernetes pod's uid, if there is one.
    #[must_use]
    pub fn uid(&self) -> Option<&str> {
        self.uid.as_deref()
    }

    /// Waits for children; start pagers and the like with it.
    #[must_use]
    pub fn reaper(&self) -> &Reaper {
        &self.reaper
    }

    /// What operations plug in.
    #[must_use]
    pub fn hooks(&self) -> &Arc<dyn Hooks> {
        &self.hooks
    }

    /// All containers, ordered by id.
    #[must_use]
    pub fn containers(&self) -> Vec<Arc<Container>> {
        self.list().values().cloned().collect()
    }

    /// One container.
    ///
    /// # Errors
    /// There is none of this id.
    pub fn container(&self, id: &str) -> Result<Arc<Container>> {
        let found = self.list().get(id).cloned();
        found.ok_or_else(|| Error::NotFound(format!("container {id} is not created")))
    }

    fn list(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Container>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
