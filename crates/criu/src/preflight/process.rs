//! What a process is in: a tracer's hands, an exec session, a namespace of its own, a wait in the kernel.

use std::collections::BTreeSet;
use std::fs;

use super::Refusal;

/// Its number (`<linux/capability.h>`).
const CAP_SYS_RESOURCE: u32 = 24;

pub(super) fn check(pid: u32, init: u32, members: &BTreeSet<u32>) -> Vec<Refusal> {
    let Some(status) = Status::of(pid) else { return Vec::new() };
    let mut refusals = Vec::new();
    if status.state == 'T' {
        refusals.push(Refusal::Stopped { pid });
    }
    if status.tracer != 0 {
        refusals.push(Refusal::Traced { pid, tracer: status.tracer });
    }
    if pid != init && !members.contains(&status.parent) {
        refusals.push(Refusal::ExecSession { pid, command: status.name });
        // Its own namespaces are runc's business.
        return refusals;
    }
    if is_closed(&status.ids) {
        refusals.push(Refusal::AnotherUser { pid });
    }
    refusals.extend(nested(pid, init));
    refusals
}

/// Whether the limits of a process with these ids may not be read from here (`check_prlimit_permission` of the kernel's `kernel/sys.c`).
fn is_closed(ids: &Ids) -> bool {
    let Some(own) = Status::of(std::process::id()) else { return false };
    let [own_user, own_group] = own.ids.map(|all| all[0]);
    let [users, groups] = ids;
    let is_own = users[..3] == [own_user; 3] && groups[..3] == [own_group; 3];
    !is_own && own.effective & (1 << CAP_SYS_RESOURCE) == 0
}

fn nested(pid: u32, init: u32) -> impl Iterator<Item = Refusal> {
    let link = |pid: u32, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
    ["mnt", "net", "pid", "user"].into_iter().filter_map(move |kind| {
        let differs = link(pid, kind)? != link(init, kind)?;
        differs.then_some(Refusal::NestedNamespace { pid, kind })
    })
}

pub(super) fn uninterruptible(pid: u32) -> Option<Refusal> {
    let status = Status::of(pid)?;
    let waits = |wchan: String| Refusal::Uninterruptible { pid, wchan };
    (status.state == 'D').then(|| {
        let wchan = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
        waits(if wchan.is_empty() || wchan == "0" { "unknown".to_owned() } else { wchan })
    })
}

struct Status {
    name: String,
    state: char,
    parent: u32,
    tracer: u32,
    ids: Ids,
    /// Effective capabilities, the lowest first.
    effective: u64,
}

/// Users, then groups: real, effective, saved, of the file system.
type Ids = [[u32; 4]; 2];

impl Status {
    fn of(pid: u32) -> Option<Self> {
        let text = fs::read(format!("/proc/{pid}/status")).ok()?;
        Self::parse(&String::from_utf8_lossy(&text))
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = text.lines().find(|l| l.starts_with(name))?;
            Some(line.get(name.len()..)?.strip_prefix(':')?.trim())
        };
        Some(Self {
            name: field("Name")?.to_owned(),
            state: field("State")?.chars().next()?,
            parent: field("PPid")?.parse().ok()?,
            tracer: field("TracerPid")?.parse().ok()?,
            ids: [four(field("Uid")?)?, four(field("Gid")?)?],
            effective: u64::from_str_radix(field("CapEff")?, 16).ok()?,
        })
    }
}

/// Numbers between blanks.
fn four(text: &str) -> Option<[u32; 4]> {
    let all: Result<Vec<u32>, _> = text.split_whitespace().map(str::parse).collect();
    all.ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn sleeper() -> std::process::Child {
        Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap()
    }

    fn end(mut child: std::process::Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_whose_parent_is_outside_is_an_exec_session() {
        let child = sleeper();
        let pid = child.id();
        let outside = check(pid, 1, &BTreeSet::from([1, pid]));
        let inside = check(pid, std::process::id(), &BTreeSet::from([std::process::id(), pid]));
        end(child);
        assert!(matches!(&outside[0], Refusal::ExecSession { pid: p, .. } if *p == pid));
        assert_eq!(inside, []);
    }

    #[test]
    fn a_process_that_is_stopped_is_named() {
        let child = sleeper();
        let (pid, me) = (child.id(), std::process::id());
        let found = || check(pid, me, &BTreeSet::from([me, pid]));
        let raw = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(raw, rustix::process::Signal::STOP).unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while found() != [Refusal::Stopped { pid }] {
            assert!(std::time::Instant::now() < until, "{:?}", found());
            std::thread::yield_now();
        }
        end(child);
    }

    #[test]
    fn a_process_in_a_namespace_of_its_own_is_named() {
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", "echo ready; exec sleep 1000"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let out = child.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
        let pid = child.id();
        let found = check(pid, std::process::id(), &BTreeSet::from([std::process::id(), pid]));
        end(child);
        assert_eq!(found, [Refusal::NestedNamespace { pid, kind: "mnt" }]);
    }

    #[test]
    fn a_process_of_another_user_is_named_where_the_kernel_does_not_tell_its_limits() {
        use std::os::unix::process::CommandExt as _;

        // Nobody.
        let mut command = Command::new("sleep");
        let command = command.arg("1000").stdin(Stdio::null()).uid(65534).gid(65534);
        let child = command.spawn().unwrap();
        let (pid, me) = (child.id(), std::process::id());
        let raw = rustix::process::Pid::from_child(&child);
        let limits = rustix::process::prlimit(
            Some(raw),
            rustix::process::Resource::Core,
            rustix::process::Rlimit { current: Some(0), maximum: Some(0) },
        );
        let found = check(pid, me, &BTreeSet::from([me, pid]));
        end(child);
        let refused = if limits.is_ok() { vec![] } else { vec![Refusal::AnotherUser { pid }] };
        assert_eq!(found, refused);
    }

    #[test]
    fn a_traced_process_and_a_wait_in_the_kernel_are_read_from_its_status() {
        let text = "Name:\tred is\nState:\tD (disk sleep)\nPid:\t9\nPPid:\t1\nTracerPid:\t77\n\
            Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nCapEff:\t000001fffeffffff\n";
        let status = Status::parse(text).unwrap();
        assert_eq!((status.name.as_str(), status.state), ("red is", 'D'));
        assert_eq!((status.parent, status.tracer), (1, 77));
        assert_eq!(status.ids, [[1, 2, 3, 4], [5, 6, 7, 8]]);
        assert_eq!(status.effective & 1 << CAP_SYS_RESOURCE, 0);
        // Anybody is for a moment, who waits for a lock of the kernel.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while uninterruptible(std::process::id()).is_some() {
            assert!(std::time::Instant::now() < until, "it is for ever");
            std::thread::yield_now();
        }
    }
}
