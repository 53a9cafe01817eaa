//! What must be true of restored tasks before anybody lets them run: they are all there, and each is in the namespaces that the
//! new spec gives it. (A restore without the relay would put them silently into the node's network.)

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::spec::Spec;

/// OCI's names and `/proc/<pid>/ns`'s. Time is left out: CRIU always gives restored tasks a time namespace of their own, in which
/// CLOCK_MONOTONIC and CLOCK_BOOTTIME go on from the dump (`criu/timens.c`).
const KINDS: [(&str, &str); 7] = [
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("mount", "mnt"),
    ("pid", "pid"),
    ("cgroup", "cgroup"),
    ("user", "user"),
];

/// A restored process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// Its pid in our pid namespace.
    pub pid: u32,
    /// Its pid inside the container.
    pub vpid: u32,
}

/// A namespace's identity.
type Id = (u64, u64);

/// The processes among these pids that live in another pid namespace than CRIU: those that were restored.
#[must_use]
pub fn tasks_among(pids: &BTreeSet<u32>, criu: u32) -> Vec<Task> {
    let outside = id_of(criu, "pid").ok();
    let restored = |pid: &&u32| **pid != criu && id_of(**pid, "pid").ok() != outside;
    pids.iter()
        .filter(restored)
        .filter_map(|pid| Some(Task { pid: *pid, vpid: vpid(*pid)? }))
        .collect()
}

/// Whether every task that the plan names is there.
///
/// # Errors
/// The first that is missing.
pub fn all_there(tasks: &[Task], expected: &[u32]) -> Result<()> {
    let there: BTreeSet<u32> = tasks.iter().map(|task| task.vpid).collect();
    match expected.iter().find(|vpid| !there.contains(vpid)) {
        None => Ok(()),
        Some(missing) => Err(Error::Refused(format!(
            "process {missing} of the checkpoint was not restored ({} of {} are there)",
            there.len(),
            expected.len()
        ))),
    }
}

/// Whether the tasks are where the spec says. `root` is the container's init.
///
/// # Errors
/// The first task that is not, and its namespace.
pub fn namespaces(spec: &Spec, root: u32, tasks: &[Task]) -> Result<()> {
    for (kind, name) in KINDS {
        let here = match own(name) {
            Ok(here) => here,
            // A kernel without this kind of namespace.
            Err(why) if why.kind() == io::ErrorKind::NotFound => continue,
            Err(why) => return Err(Error::io(format!("read our own {kind} namespace"))(why)),
        };
        let wanted =
            match spec.namespace(kind) {
                None => Wanted::Exactly(here),
                Some(namespace) => match &namespace.path {
                    None => Wanted::AnyBut(here),
                    Some(path) => Wanted::Exactly(id_at(path).map_err(Error::io(format!(
                        "read the {kind} namespace {}",
                        path.display()
                    )))?),
                },
            };
        check_kind(kind, name, wanted, here, root, tasks)?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Wanted {
    Exactly(Id),
    AnyBut(Id),
}

fn check_kind(
    kind: &str,
    name: &str,
    wanted: Wanted,
    here: Id,
    root: u32,
    tasks: &[Task],
) -> Result<()> {
    for task in tasks {
        let read = |why| Error::io(format!("read the {kind} namespace of task {}", task.pid))(why);
        let found = id_of(task.pid, name).map_err(read)?;
        let right = match wanted {
            Wanted::Exactly(id) if task.pid == root => found == id,
            // A process may have made a namespace of its own; the node's it cannot have.
            Wanted::Exactly(id) => found == id || found != here,
            Wanted::AnyBut(id) => found != id,
        };
        if !right {
            let place = if found == here { "the node's" } else { "another" };
            return Err(Error::Refused(format!(
                "restored process {} (inside: {}) is in {place} {kind} namespace instead of its own; nothing of it was run",
                task.pid, task.vpid
            )));
        }
    }
    Ok(())
}

fn own(name: &str) -> io::Result<Id> {
    id_at(Path::new(&format!("/proc/self/ns/{name}")))
}

fn id_of(pid: u32, name: &str) -> io::Result<Id> {
    id_at(Path::new(&format!("/proc/{pid}/ns/{name}")))
}

fn id_at(path: &Path) -> io::Result<Id> {
    let found = std::fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// The pid in the innermost namespace.
fn vpid(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    /// `unshare` with a sleep inside, killed on drop.
    struct Inside(Child);

    impl Inside {
        fn new(flags: &[&str]) -> Self {
            let mut command = Command::new("unshare");
            let child = command.args(flags).args(["sleep", "60"]).spawn().expect("unshare");
            let inside = Self(child);
            let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
            while !inside.asleep() {
                assert!(std::time::Instant::now() < until, "unshare did not start sleep");
                std::thread::yield_now();
            }
            inside
        }

        fn asleep(&self) -> bool {
            let comm = std::fs::read_to_string(format!("/proc/{}/comm", self.0.id()));
            comm.is_ok_and(|comm| comm.trim() == "sleep")
        }

        fn task(&self) -> Task {
            Task { pid: self.0.id(), vpid: 1 }
        }
    }

    impl Drop for Inside {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn spec(namespaces: &str) -> Spec {
        let json = format!(r#"{{"linux":{{"namespaces":[{namespaces}]}}}}"#);
        Spec::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn a_task_in_its_own_namespaces_is_right_and_one_in_the_nodes_is_not() {
        let inside = Inside::new(&["--uts", "--ipc"]);
        let task = inside.task();
        let own = spec(r#"{"type":"uts"},{"type":"ipc"}"#);
        namespaces(&own, task.pid, &[task]).unwrap();
        let more = spec(r#"{"type":"uts"},{"type":"ipc"},{"type":"network"}"#);
        let why = namespaces(&more, task.pid, &[task]).unwrap_err().to_string();
        assert!(why.contains("the node's network namespace"), "{why}");
        let fewer = spec(r#"{"type":"uts"}"#);
        assert!(namespaces(&fewer, task.pid, &[task]).is_err());
    }

    #[test]
    fn a_namespace_by_path_must_be_that_one() {
        let (inside, other) = (Inside::new(&["--uts"]), Inside::new(&["--uts"]));
        let by_path = |pid| spec(&format!(r#"{{"type":"uts","path":"/proc/{pid}/ns/uts"}}"#));
        let task = inside.task();
        namespaces(&by_path(task.pid), task.pid, &[task]).unwrap();
        assert!(namespaces(&by_path(other.task().pid), task.pid, &[task]).is_err());
        // Not the root: a namespace that it made itself is no escape.
        namespaces(&by_path(other.task().pid), other.task().pid, &[other.task(), task]).unwrap();
    }

    #[test]
    fn a_missing_process_is_named() {
        let tasks = [Task { pid: 100, vpid: 1 }, Task { pid: 101, vpid: 7 }];
        all_there(&tasks, &[7, 1]).unwrap();
        let why = all_there(&tasks, &[1, 7, 9]).unwrap_err().to_string();
        assert!(why.contains("process 9"), "{why}");
    }

    #[test]
    fn tasks_are_told_from_criu_by_their_pid_namespace() {
        let mut parent = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "sleep", "60"])
            .spawn()
            .expect("unshare");
        let children = format!("/proc/{0}/task/{0}/children", parent.id());
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let child: u32 = loop {
            let listed = std::fs::read_to_string(&children).unwrap_or_default();
            if let Ok(pid) = listed.trim().parse() {
                break pid;
            }
            assert!(std::time::Instant::now() < until, "unshare did not fork");
            std::thread::yield_now();
        };
        let us = std::process::id();
        let pids = BTreeSet::from([us, parent.id(), child]);
        // unshare itself stays in our pid namespace: it is not a task.
        assert_eq!(tasks_among(&pids, us), [Task { pid: child, vpid: 1 }]);
        parent.kill().expect("kill");
        parent.wait().expect("reap");
    }
}
