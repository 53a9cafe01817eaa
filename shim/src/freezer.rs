//! Stops and releases all tasks of a container by its cgroup's freezer, v1 and v2 alike.
//!
//! Owns the freezer's files and what their words mean. Does not own when: `op` decides. A freezer is no fence while CRIU works
//! (it thaws and freezes again by itself, and only ptrace holds the tasks): see `op::criu`.
//!
//! Invariant: nothing here thaws by itself. [`Freezer::thaw`] is called only where ownership permits the tasks to run.

mod stuck;
mod tasks;
mod vfork;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio_util::sync::CancellationToken;

use crate::cgroup::Cgroup;
pub use stuck::Stuck;

/// Shortest and longest pause between two looks at a v1 freezer, which tells no events. Freezing takes 0.1 to 0.5 ms.
const LOOKS: (Duration, Duration) = (Duration::from_micros(50), Duration::from_millis(2));

/// Longest time that tasks run between two freezes because one was inside `vfork`.
const VFORK_PAUSE: Duration = Duration::from_millis(20);

/// A freezer that has not frozen within this time is told again.
const KICK: Duration = Duration::from_millis(20);

/// What a freezer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frost {
    /// Every task of it and of its sub-cgroups is stopped.
    Frozen,
    /// It was told to, and some task has not stopped.
    Freezing,
    /// Its tasks run.
    Thawed,
    /// The cgroup is gone, and so are its tasks.
    Gone,
}

/// The freezer of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freezer {
    dir: PathBuf,
    v2: bool,
}

impl Freezer {
    /// The freezer of a cgroup.
    ///
    /// # Errors
    /// v1 without a freezer hierarchy.
    pub fn of(cgroup: &Cgroup) -> io::Result<Self> {
        let dir = cgroup.freezer_dir().ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "the freezer controller is not mounted")
        })?;
        Ok(Self { dir: dir.to_owned(), v2: cgroup.is_v2() })
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it says now.
    ///
    /// # Errors
    /// Its files cannot be read, or hold a word that is not known.
    pub fn look(&self) -> io::Result<Frost> {
        match self.read() {
            Err(why) if is_gone(&why) => Ok(Frost::Gone),
            other => other,
        }
    }

    /// Tells the tasks to stop; they may still run when this returns.
    ///
    /// # Errors
    /// As the write. A cgroup that is gone is an error here.
    pub fn begin_freeze(&self) -> io::Result<()> {
        self.write(true)
    }

    /// Waits until every task has stopped. Blocks the thread: call it on the pool.
    ///
    /// # Errors
    /// As [`Freezer::look`].
    pub fn wait_frozen(&self, until: Instant) -> io::Result<Frost> {
        self.wait(until, |frost| matches!(frost, Frost::Frozen | Frost::Gone))
    }

    /// Waits until every task has stopped, none of them inside `vfork`: such a task runs on for a moment. Ends soon after it is
    /// `given_up`. Blocks the thread.
    ///
    /// # Errors
    /// As [`Freezer::look`], [`Freezer::thaw`] and [`Freezer::begin_freeze`].
    pub fn wait_dumpable(&self, until: Instant, given_up: &CancellationToken) -> io::Result<Frost> {
        let mut pause = LOOKS.0;
        loop {
            let frost = self.wait_frozen(until.min(Instant::now() + KICK))?;
            let over = Instant::now() >= until || given_up.is_cancelled();
            match frost {
                Frost::Gone => return Ok(frost),
                Frost::Frozen if !vfork::any(&self.dir) => return Ok(frost),
                _ if over => return Ok(Frost::Freezing),
                // A v1 freezer misses a task that was about to sleep when it was told: told again, it finds it.
                Frost::Freezing if !vfork::any(&self.dir) => self.begin_freeze()?,
                Frost::Frozen | Frost::Freezing | Frost::Thawed => {
                    self.thaw()?;
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(VFORK_PAUSE);
                    self.begin_freeze()?;
                }
            }
        }
    }

    /// Lets the tasks run and waits until the freezer says so. A cgroup that is gone is fine. Blocks the thread.
    ///
    /// # Errors
    /// `TimedOut` if it does not within two seconds (a frozen ancestor); as the write.
    pub fn thaw(&self) -> io::Result<()> {
        match self.write(false) {
            Err(why) if is_gone(&why) => return Ok(()),
            other => other?,
        }
        let until = Instant::now() + Duration::from_secs(2);
        match self.wait(until, |frost| matches!(frost, Frost::Thawed | Frost::Gone))? {
            Frost::Thawed | Frost::Gone => Ok(()),
            Frost::Frozen | Frost::Freezing => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{} stays frozen after it was thawed", self.dir.display()),
            )),
        }
    }

    /// The tasks that have not stopped, at most `limit`.
    #[must_use]
    pub fn stuck(&self, limit: usize) -> Vec<Stuck> {
        stuck::find(&self.dir, limit)
    }

    fn write(&self, freeze: bool) -> io::Result<()> {
        let (file, word) = match (self.v2, freeze) {
            (true, true) => ("cgroup.freeze", "1"),
            (true, false) => ("cgroup.freeze", "0"),
            (false, true) => ("freezer.state", "FROZEN"),
            (false, false) => ("freezer.state", "THAWED"),
        };
        std::fs::write(self.dir.join(file), word)
    }

    fn read(&self) -> io::Result<Frost> {
        if !self.v2 {
            return v1_word(std::fs::read_to_string(self.dir.join("freezer.state"))?.trim());
        }
        let events = std::fs::read_to_string(self.dir.join("cgroup.events"))?;
        if events.lines().any(|line| line == "frozen 1") {
            return Ok(Frost::Frozen);
        }
        let asked = std::fs::read_to_string(self.dir.join("cgroup.freeze"))?;
        Ok(if asked.trim() == "1" { Frost::Freezing } else { Frost::Thawed })
    }

    fn wait(&self, until: Instant, enough: impl Fn(Frost) -> bool) -> io::Result<Frost> {
        // Opened before the first look: an event between look and poll is then not missed.
        let events = self.v2.then(|| std::fs::File::open(self.dir.join("cgroup.events")));
        let mut pause = LOOKS.0;
        loop {
            let frost = self.look()?;
            let left = until.saturating_duration_since(Instant::now());
            if enough(frost) || left.is_zero() {
                return Ok(frost);
            }
            match &events {
                Some(Ok(file)) => poll_event(file, left)?,
                _ => {
                    std::thread::sleep(pause.min(left));
                    pause = (pause * 2).min(LOOKS.1);
                }
            }
        }
    }
}

/// Waits for a change of an event file, at most 100 ms: a look is cheap, a missed event would not be.
fn poll_event(file: &std::fs::File, left: Duration) -> io::Result<()> {
    let wait = Timespec::try_from(left.min(Duration::from_millis(100))).ok();
    // Reading arms the event of a kernfs file; the caller's look reads another descriptor.
    let mut bytes = [0; 64];
    let _ = rustix::io::pread(file, &mut bytes, 0)?;
    if bytes.windows(8).any(|line| line == b"frozen 1") {
        return Ok(());
    }
    let mut fds = [PollFd::new(file, PollFlags::PRI)];
    match poll(&mut fds, wait.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn v1_word(word: &str) -> io::Result<Frost> {
    match word {
        "FROZEN" => Ok(Frost::Frozen),
        "FREEZING" => Ok(Frost::Freezing),
        "THAWED" => Ok(Frost::Thawed),
        other => Err(io::Error::other(format!("the freezer says {other:?}"))),
    }
}

/// A removed cgroup: its directory is gone, or an open file of it is dead.
fn is_gone(why: &io::Error) -> bool {
    why.kind() == io::ErrorKind::NotFound
        || why.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

#[cfg(test)]
mod tests;
