//! Exits: what is told when, so that nothing overtakes.
//!
//! * No exit is told before the start of its process is.
//! * The exit of an init process is told after those of all processes executed in its container.
//! * A kill for want of memory is told before the exit that it caused.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::Pod;
use crate::container::Container;
use crate::events::Event;
use crate::exit_file;
use crate::process::Process;
use crate::reaper::{Child, Exit};
use crate::state::Step;

/// How long the exit of an init process waits for those of executed processes, which are killed by then.
const EXEC_EXITS: Duration = Duration::from_secs(10);

impl Pod {
    /// Waits for the init process and tells its exit.
    pub(super) fn watch_init(self: &Arc<Self>, container: &Arc<Container>, child: Child) {
        let (pod, container) = (Arc::clone(self), Arc::clone(container));
        self.tasks().spawn(async move {
            let exit = child.wait().await;
            if !container.init().hold_exit(exit) {
                pod.init_exited(&container, exit).await;
            }
        });
    }

    /// Waits for an executed process and tells its exit.
    pub(super) fn watch_exec(
        self: &Arc<Self>,
        container: &Arc<Container>,
        process: &Arc<Process>,
        child: Child,
    ) {
        let (pod, container, process) =
            (Arc::clone(self), Arc::clone(container), Arc::clone(process));
        self.tasks().spawn(async move {
            let exit = child.wait().await;
            process.set_exit(exit);
            pod.tell_exit(&container, &process, exit);
            container.count_exec(-1);
        });
    }

    pub(super) async fn init_exited(self: &Arc<Self>, container: &Arc<Container>, exit: Exit) {
        // Nothing refuses an exit.
        let _ = container.shift(Step::Exit);
        if !container.spec().own_pid_namespace() {
            kill_rest(container);
        }
        let mut execs = container.running_execs();
        let none_left = execs.wait_for(|running| *running == 0);
        if tokio::time::timeout(EXEC_EXITS, none_left).await.is_err() {
            warn!(container = container.id(), "executed processes outlive their container");
        }
        self.flush_oom(container);
        // Before anybody is told: who is may kill this shim.
        if let Err(why) = exit_file::write(container.bundle(), exit) {
            warn!(container = container.id(), why = why.chain(), "keeping the exit status failed");
        }
        container.init().set_exit(exit);
        self.tell_exit(container, container.init(), exit);
        info!(container = container.id(), status = exit.status, "container exited");
        self.hooks().exited(self, container);
    }

    fn tell_exit(&self, container: &Container, process: &Process, exit: Exit) {
        let pid = process.pid().unwrap_or_default();
        self.events().publish(Event::exited(container.id(), process.id(), pid, exit));
    }
}

/// Without a pid namespace of its own, the other processes of a container survive its init.
fn kill_rest(container: &Container) {
    if let Some(cgroup) = container.cgroup()
        && let Err(why) = cgroup.kill()
    {
        warn!(container = container.id(), %why, "killing what the init process left failed");
    }
}
