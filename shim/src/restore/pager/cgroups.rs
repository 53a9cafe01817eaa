//! The cgroups of pagers, each in its own: what is done to the shim's cgroup or the container's does not reach it.
//!
//! A shim removes those of its pagers. Those of a shim that was killed are named after it, and removed by whoever cleans up after it,
//! or by the next shim that starts a pager.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::debug;

/// Hierarchies of v1 in which a process is killed, frozen or starved with its neighbours.
const V1: [&str; 4] = ["freezer", "memory", "pids", "systemd"];
/// How long a pager may take to end after its shim: it kills all tasks first. containerd gives the whole clean-up five seconds.
const END: Duration = Duration::from_secs(4);
/// Pause between two looks at them; emptying has no event on v1.
const LOOK: Duration = Duration::from_millis(5);

/// Moves the pager into cgroups of its own where that is possible; returns what was made.
pub(super) fn enter(pid: u32) -> Vec<PathBuf> {
    sweep();
    let name = name(std::process::id(), pid);
    let mut made = Vec::new();
    for dir in parents().iter().map(|parent| parent.join(&name)) {
        let entered = std::fs::create_dir_all(&dir)
            .and_then(|()| std::fs::write(dir.join("cgroup.procs"), pid.to_string()));
        match entered {
            Ok(()) => made.push(dir),
            Err(why) => debug!(%why, dir = %dir.display(), "the pager stays in the shim's cgroup"),
        }
    }
    made
}

/// Waits until the pagers of shims that were killed have ended, and removes their cgroups. `false` after [`END`]: the next sweep goes on.
pub async fn orphaned() -> bool {
    let until = Instant::now() + END;
    while !sweep() {
        if Instant::now() > until {
            return false;
        }
        tokio::time::sleep(LOOK).await;
    }
    true
}

/// Removes what pagers have left whose shims were killed; whether all of it is gone.
fn sweep() -> bool {
    // All of them, whatever the first comes to.
    parents().iter().filter(|parent| !sweep_below(parent, lives)).count() == 0
}

fn sweep_below(parent: &Path, lives: impl Fn(u32) -> bool) -> bool {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let dirs = entries.map(|entry| entry.path());
    let orphans = dirs.filter(|dir| shim_of(dir).is_some_and(|shim| !lives(shim)));
    orphans.filter(|dir| !is_removed(dir)).count() == 0
}

/// One with a process in it cannot be removed.
fn is_removed(dir: &Path) -> bool {
    match std::fs::remove_dir(dir) {
        Ok(()) => true,
        Err(why) => why.kind() == io::ErrorKind::NotFound,
    }
}

fn parents() -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let roots: Vec<PathBuf> = if crate::cgroup::unified() {
        vec![top.to_owned()]
    } else {
        V1.iter().map(|name| top.join(name)).collect()
    };
    roots.iter().filter(|root| root.is_dir()).map(|root| root.join("godwit")).collect()
}

fn name(shim: u32, pager: u32) -> String {
    format!("pager-{shim}-{pager}")
}

fn shim_of(dir: &Path) -> Option<u32> {
    let (shim, _) = dir.file_name()?.to_str()?.strip_prefix("pager-")?.split_once('-')?;
    shim.parse().ok()
}

/// Whether a process is there and has not ended; one that has may wait for its parent.
fn lives(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, Some('Z' | 'X'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_killed_shims_have_left_is_swept_and_not_before_it_is_empty() {
        let top = tempfile::tempdir().unwrap();
        let dir = |shim: u32, pager: u32| top.path().join(name(shim, pager));
        let (living, dead, busy) = (dir(1, 2), dir(7, 8), dir(7, 9));
        let other = top.path().join("other");
        for dir in [&living, &dead, &other, &busy.join("busy")] {
            std::fs::create_dir_all(dir).unwrap();
        }
        let lives = |pid| pid == 1;
        assert!(!sweep_below(top.path(), lives));
        assert!(living.exists() && busy.exists() && other.exists() && !dead.exists());
        std::fs::remove_dir(busy.join("busy")).unwrap();
        assert!(sweep_below(top.path(), lives));
        assert!(!busy.exists() && living.exists());
        assert!(sweep_below(&top.path().join("none"), lives));
    }

    #[test]
    fn this_process_lives_and_one_that_has_ended_does_not() {
        assert!(lives(std::process::id()));
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        let stat = format!("/proc/{}/stat", ended.id());
        while !std::fs::read_to_string(&stat).unwrap().contains(") Z ") {
            std::thread::yield_now();
        }
        assert!(!lives(ended.id()), "it only waits for its parent");
        ended.wait().unwrap();
    }
}
