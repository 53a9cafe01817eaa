//! The freezer against real processes, in whatever version of cgroups the machine has.

use std::process::{Child, Command, Stdio};

use super::*;

/// A cgroup of our own with one process that counts into a pipe.
struct Sandbox {
    freezer: Freezer,
    child: Child,
}

impl Sandbox {
    fn new(name: &str) -> Self {
        let v2 = crate::cgroup::unified();
        let parent = Path::new("/sys/fs/cgroup").join(if v2 { "" } else { "freezer" });
        let dir = parent.join(format!("godwit-test-{name}-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("these tests need root and the freezer");
        let child = Command::new("sh")
            .args(["-c", "while :; do read line < /proc/uptime; done"])
            .stdout(Stdio::null())
            .spawn()
            .expect("a shell");
        std::fs::write(dir.join("cgroup.procs"), child.id().to_string()).expect("enter");
        Self { freezer: Freezer { dir, v2 }, child }
    }

    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let fields: Vec<u64> = stat
            .expect("stat")
            .rsplit_once(") ")
            .expect("fields")
            .1
            .split(' ')
            .skip(11)
            .take(2)
            .map(|n| n.parse().expect("a number"))
            .collect();
        fields.iter().sum()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.freezer.thaw();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir(&self.freezer.dir);
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[test]
fn a_frozen_cgroup_does_not_run_and_a_thawed_one_does() {
    let sandbox = Sandbox::new("freeze");
    assert_eq!(sandbox.freezer.look().unwrap(), Frost::Thawed);
    sandbox.freezer.begin_freeze().unwrap();
    assert_eq!(sandbox.freezer.wait_frozen(soon()).unwrap(), Frost::Frozen);
    assert_eq!(sandbox.freezer.look().unwrap(), Frost::Frozen);
    // It is told before the last task has left its processor.
    let until = soon();
    while !sandbox.freezer.stuck(8).is_empty() {
        assert!(Instant::now() < until, "{:?}", sandbox.freezer.stuck(8));
        std::thread::yield_now();
    }
    let before = sandbox.ticks();
    assert_eq!(
        sandbox.freezer.wait(Instant::now() + Duration::from_millis(50), |_| false).unwrap(),
        Frost::Frozen
    );
    assert_eq!(sandbox.ticks(), before);
    sandbox.freezer.thaw().unwrap();
    assert_eq!(sandbox.freezer.look().unwrap(), Frost::Thawed);
    let until = soon();
    while sandbox.ticks() == before {
        assert!(Instant::now() < until, "it does not run again");
        std::thread::yield_now();
    }
}

#[test]
fn a_running_task_is_named_with_its_state() {
    let sandbox = Sandbox::new("stuck");
    let stuck = sandbox.freezer.stuck(8);
    assert_eq!(stuck.len(), 1);
    assert_eq!((stuck[0].tid, stuck[0].comm.as_str()), (sandbox.child.id(), "sh"));
    assert_eq!(sandbox.freezer.stuck(0), []);
}

#[test]
fn a_cgroup_that_is_gone_reads_as_gone_and_thaws() {
    let mut sandbox = Sandbox::new("gone");
    sandbox.child.kill().unwrap();
    sandbox.child.wait().unwrap();
    std::fs::remove_dir(&sandbox.freezer.dir).unwrap();
    assert_eq!(sandbox.freezer.look().unwrap(), Frost::Gone);
    assert_eq!(sandbox.freezer.wait_frozen(soon()).unwrap(), Frost::Gone);
    sandbox.freezer.thaw().unwrap();
    assert!(sandbox.freezer.begin_freeze().is_err());
}

#[test]
fn the_words_of_v1_are_known_and_others_are_errors() {
    assert_eq!(v1_word("FREEZING").unwrap(), Frost::Freezing);
    assert!(v1_word("MELTED").is_err());
}

#[test]
fn a_freeze_that_is_given_up_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    // Its tasks never stop.
    std::fs::write(dir.path().join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
    let freezer = Freezer { dir: dir.path().to_owned(), v2: true };
    freezer.begin_freeze().unwrap();
    let (until, given_up) = (soon(), CancellationToken::new());
    given_up.cancel();
    assert_eq!(freezer.wait_dumpable(until, &given_up).unwrap(), Frost::Freezing);
    assert!(Instant::now() < until);
}
