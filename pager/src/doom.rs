//! The shim is gone and memory is not complete: every task must die before a descriptor is closed.
//!
//! A process whose last userfaultfd is closed reads zeros where its memory should be. So nothing here gives up: it kills, looks, and
//! kills again until nobody is left; a task that cannot be killed keeps this process alive with it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process, pidfd_send_signal};

use crate::pod::{Container, Pod};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Kills all tasks of the containers that are not hydrated; returns when none is left.
pub(crate) fn kill(pod: &Pod) {
    for (container, _) in pod.incomplete() {
        tracing::error!(
            container,
            "the shim is gone and memory is not complete: killing all tasks"
        );
    }
    while pod.living() > 0 || pod.incomplete().any(|(_, container)| lives(container)) {
        pod.incomplete().for_each(|(_, container)| kill_container(container));
        std::thread::sleep(PAUSE);
    }
}

fn lives(container: &Container) -> bool {
    let pidfds = container.pidfds.iter().any(|fd| !is_dead(fd));
    pidfds || container.cgroups.iter().any(|dir| !pids(dir).is_empty())
}

/// A pidfd is readable when its process has ended.
fn is_dead(pidfd: &OwnedFd) -> bool {
    let now = Timespec::try_from(Duration::ZERO).ok();
    let fd = pidfd.as_fd();
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], now.as_ref()).is_ok_and(|n| n > 0)
}

fn kill_container(container: &Container) {
    for pidfd in &container.pidfds {
        // One that is dead already is what was wanted.
        let _ = pidfd_send_signal(pidfd, Signal::KILL);
    }
    for cgroup in &container.cgroups {
        if std::fs::write(cgroup.join("cgroup.kill"), "1").is_err() {
            kill_each(cgroup);
        }
    }
}

/// Version 1: each task by name, then what was frozen must run to die.
fn kill_each(cgroup: &Path) {
    for pid in pids(cgroup).into_iter().filter_map(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
    for dir in tree(cgroup) {
        let _ = std::fs::write(dir.join("freezer.state"), "THAWED");
    }
}

/// The processes of a cgroup and of those below it.
fn pids(cgroup: &Path) -> Vec<i32> {
    let list = |dir: PathBuf| std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let lists = tree(cgroup).into_iter().map(list).collect::<Vec<_>>();
    lists.iter().flat_map(|l| l.lines()).filter_map(|l| l.parse().ok()).collect()
}

/// A directory and those below it.
fn tree(top: &Path) -> Vec<PathBuf> {
    let mut all = vec![top.to_owned()];
    let mut next = 0;
    while let Some(dir) = all.get(next) {
        next += 1;
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let below = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path());
        all.extend(below.collect::<Vec<_>>());
    }
    all
}
