//! The proof that nothing of a failed restore runs. A non-zero exit of runc proves nothing.
//!
//! Order matters: tasks first, then CRIU (a CRIU that is killed alone lets the tasks run; tasks that are killed alone leave CRIU and
//! runc waiting for ever), then runc's state, then a look at the cgroup.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, pidfd_send_signal};
use tracing::warn;

use super::place;
use super::relay::Criu;
use crate::cgroup::Cgroup;
use crate::container::Container;

/// How long killed processes may take to vanish.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two looks at a cgroup; emptying has no event on v1.
const LOOK: Duration = Duration::from_millis(5);

/// Kills what there is of the attempt and proves it dead.
pub async fn prove(container: &Container, criu: Option<&Criu>) -> bool {
    let cgroup = place::of(container);
    if let Some(cgroup) = &cgroup {
        kill_tasks(cgroup, criu.map(|criu| criu.pid));
    }
    if let Some(criu) = criu {
        // It may have ended by itself.
        let _ = pidfd_send_signal(&criu.pidfd, Signal::KILL);
    }
    let emptied = match &cgroup {
        Some(cgroup) => empty(cgroup).await,
        None => true,
    };
    if let Err(why) = container.runc().delete(true).await {
        warn!(container = container.id(), why = why.chain(), "deleting a failed restore failed");
        return false;
    }
    emptied && cgroup.is_none_or(|cgroup| cgroup.is_empty())
}

/// Kills everyone in a cgroup, again and again, until it is empty. `false` after [`PATIENCE`].
pub async fn empty(cgroup: &Cgroup) -> bool {
    let until = Instant::now() + PATIENCE;
    while !cgroup.is_empty() {
        if Instant::now() > until {
            return false;
        }
        if let Err(why) = cgroup.kill() {
            warn!(%why, "killing everyone in a cgroup failed");
        }
        tokio::time::sleep(LOOK).await;
    }
    true
}

fn kill_tasks(cgroup: &Cgroup, criu: Option<u32>) {
    for pid in cgroup.pids().into_iter().filter(|pid| Some(*pid) != criu) {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            // Gone is what we want.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
