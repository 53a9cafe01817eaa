//! The tasks of a cgroup and of those below it.

use std::path::Path;

/// Calls for the `/proc` directory of every task until one call says `false`; whether none did.
pub(super) fn each(dir: &Path, call: &mut dyn FnMut(&Path) -> bool) -> bool {
    let pids = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in pids.lines() {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        if !tasks.flatten().all(|task| call(&task.path())) {
            return false;
        }
    }
    let Ok(children) = std::fs::read_dir(dir) else { return true };
    let mut dirs = children.flatten().filter(|c| c.file_type().is_ok_and(|t| t.is_dir()));
    dirs.all(|child| each(&child.path(), call))
}
