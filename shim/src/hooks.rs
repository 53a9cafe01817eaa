//! Where operations, fence and restore plug into the life of a pod.
//!
//! The life of containers (`pod`) knows nothing of operations. It calls these at named moments and trusts the contracts
//! below.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::container::Container;
use crate::error::Result;
use crate::pod::Pod;

/// How a restore ended well.
#[derive(Debug)]
pub enum Restored {
    /// Its processes run; this is the pid of its init in our pid namespace, a child of the shim.
    Running {
        /// Pid of the init process.
        pid: u32,
        /// Whether a pager still brings memory: the container is then `Hydrating` until someone shifts it by
        /// [`crate::state::Step::Hydrated`], else it is `Running` at once.
        hydrating: bool,
    },
    /// Its processes are there, and run when those of the other containers of its pod are. Its Start is over: the others come after it.
    Held {
        /// Pid of its init in our pid namespace. Not a child of the shim yet.
        pid: u32,
        /// [`Restored::Running`], or why all of it was killed.
        runs: oneshot::Receiver<Result<Restored>>,
    },
    /// It had finished before the checkpoint (an init container): it exits with status 0 without running.
    Finished,
}

/// What the other half of the shim does at named moments of a container's life.
#[async_trait]
pub trait Hooks: Send + Sync + 'static {
    /// Before anything is made for a new container (no mount, no runc). The container is in the pod's list,
    /// `Creating`. An error refuses Create and leaves nothing behind.
    async fn before_create(&self, pod: &Arc<Pod>, container: &Arc<Container>) -> Result<()>;

    /// Before `runc start` of a container that is not a restore. An error refuses Start; the container stays
    /// `Created` and Start may be called again.
    async fn before_start(&self, pod: &Arc<Pod>, container: &Arc<Container>) -> Result<()>;

    /// Makes and resumes the processes of a container whose origin is [`crate::container::Origin::Restore`], normally
    /// with [`Container::runc_restore`]. Called in state `Restoring`, holding the container's turn; State, Pids, Kill
    /// and other containers go on meanwhile.
    ///
    /// # Errors
    /// Nothing of the container runs any more and its cgroup is empty; it is `Created` again and Start may be retried.
    async fn restore(&self, pod: &Arc<Pod>, container: &Arc<Container>) -> Result<Restored>;

    /// The container shall die although an operation holds it (`Checkpointing`, `Frozen`, `Restoring`, `Hydrating`) and
    /// SIGKILL was sent. Returns when the operation does not hold the container any more: CRIU is gone, the cgroup is
    /// thawed, or (restoring) all its tasks are dead. The caller then kills. Must not wait for the container's turn.
    async fn abort(&self, pod: &Arc<Pod>, container: &Arc<Container>) -> Result<()>;

    /// The init process is over; the exit event is queued. Must not block.
    fn exited(&self, pod: &Arc<Pod>, container: &Arc<Container>);

    /// The container was deleted: runc's state, mounts and pipes are gone. It is no longer in the pod's list.
    async fn deleted(&self, pod: &Arc<Pod>, container: &Arc<Container>);

    /// The shim is about to exit; last chance to remove sockets. Called once.
    async fn shutdown(&self, pod: &Arc<Pod>);
}
