//! A virtual machine with what users really run: a stock Debian kernel, systemd, cgroup v2 with all controllers. QEMU without
//! hardware help (TCG): slow inside, and the same everywhere.
//!
//! A machine goes on from a *warm image*: memory and disk of one that has booted once ([`image`]). Files of the host are on a
//! read-only disk that is plugged in afterwards, mounted at [`SHARE`]. Commands go through Debian's guest agent.

mod image;
mod qemu;
mod share;
mod talk;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::command::tail;
use crate::error::{LabError, Result};
use crate::lock::LabLock;
use crate::vm::image::Images;
use crate::vm::qemu::{Qemu, Start};
use crate::vm::talk::Guest;
use crate::{places, wait};

pub use talk::Ended;

/// Where a machine sees the files that it was given.
pub const SHARE: &str = "/share";
/// For a machine to boot, on a busy host.
const BOOT: Duration = Duration::from_secs(300);
/// For a machine to shut down.
const SHUTDOWN: Duration = Duration::from_secs(180);
/// For the machine of the same name of another run to go.
const PATIENCE: Duration = Duration::from_secs(30 * 60);
/// For one command, unless more is asked for: processes start some forty times slower inside.
const COMMAND: Duration = Duration::from_secs(300);
/// How much of the console is shown when a machine does not answer.
const CONSOLE_SHOWN: usize = 3000;

/// What a machine shall have.
#[derive(Debug, Clone)]
pub struct VmOptions {
    name: String,
    share: Vec<(PathBuf, String)>,
    cold: bool,
}

impl VmOptions {
    /// A machine of this name: machines of different names run beside each other.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), share: vec![], cold: false }
    }

    /// The machine of end-to-end tests: `e2e`, or `NAME-e2e` where `GODWIT_LAB` names a lab.
    #[must_use]
    pub fn for_tests() -> Self {
        Self::new(&std::env::var("GODWIT_LAB").map_or("e2e".to_owned(), |lab| format!("{lab}-e2e")))
    }

    /// With a copy of this file of the host below [`SHARE`].
    #[must_use]
    pub fn with(mut self, file: &Path, name: &str) -> Self {
        self.share.push((file.to_owned(), name.to_owned()));
        self
    }

    /// Booted, not gone on from the warm image.
    #[must_use]
    pub fn cold(mut self) -> Self {
        self.cold = true;
        self
    }
}

/// A machine that runs; gone when dropped, unless it is kept.
#[derive(Debug)]
pub struct Machine {
    dir: PathBuf,
    images: Images,
    guest: Guest,
    keep: bool,
    _lock: Option<LabLock>,
}

/// How a machine goes down before it comes up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reboot {
    /// systemd stops everything.
    Orderly,
    /// The power fails: what was not synced is lost.
    PowerLoss,
}

/// Where the machine of a name has what is its own.
fn dir_of(name: &str) -> PathBuf {
    // No name of a lab begins so.
    places::state().join(".vm").join(name)
}

impl Machine {
    /// Starts a machine with a fresh disk, after the one of the same name that an earlier run has left is gone. Builds the images
    /// if the cache lacks them (two minutes or three).
    ///
    /// # Errors
    /// When QEMU is missing, or a step fails; nothing of the machine is left then.
    pub fn up(options: &VmOptions) -> Result<Self> {
        let dir = dir_of(&options.name);
        let lock = LabLock::take(&dir.with_extension("lock"), "the machine", PATIENCE)?;
        take_down(&dir)?;
        let images = image::ensure()?;
        places::make_dir(&dir)?;
        let guest = Guest::new(&dir);
        let machine = Self { dir, images, guest, keep: false, _lock: Some(lock) };
        share::make(&machine.dir, &options.share)?;
        let start = if options.cold { Start::Cold } else { Start::Warm };
        machine.qemu().make_disk(start)?;
        machine.start(start)?;
        Ok(machine)
    }

    /// A machine that an [`Machine::up`] with [`Machine::keep`] has left running.
    ///
    /// # Errors
    /// [`LabError::Missing`] when it does not run.
    pub fn attach(name: &str) -> Result<Self> {
        let dir = dir_of(name);
        let guest = Guest::new(&dir);
        let machine = Self { images: image::ensure()?, dir, guest, keep: true, _lock: None };
        match machine.qemu().is_up() {
            true => Ok(machine),
            false => Err(LabError::Missing {
                what: format!("machine {name:?}"),
                hint: "`lab vm up` starts one".to_owned(),
            }),
        }
    }

    /// Ends a machine and removes its disk. Does nothing when there is none.
    ///
    /// # Errors
    /// [`LabError::Held`] when a process works with it; when it does not end.
    pub fn down(name: &str) -> Result<()> {
        let dir = dir_of(name);
        let _lock = LabLock::take(&dir.with_extension("lock"), name, Duration::ZERO)?;
        take_down(&dir)
    }

    /// The names of all machines that have left anything on this host, whoever uses them.
    #[must_use]
    pub fn all() -> Vec<String> {
        let entries = std::fs::read_dir(dir_of("")).into_iter().flatten().flatten();
        let dirs = entries.filter(|entry| entry.path().is_dir());
        dirs.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Leaves it running when dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Runs a command as root, to its end.
    ///
    /// # Errors
    /// When it cannot be started, or does not end in time.
    pub fn exec(&self, words: &[&str]) -> Result<Ended> {
        self.guest.exec(words, COMMAND).map_err(|why| self.with_console(why))
    }

    /// Runs a command that has to succeed; what it printed to standard output.
    ///
    /// # Errors
    /// As [`Machine::exec`]; [`LabError::Refused`] with what it printed when it fails.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let ended = self.exec(words)?;
        match ended.code {
            0 => Ok(ended.out),
            code => Err(LabError::Refused(format!(
                "`{}` failed in the machine with status {code}: {}{}",
                tail(&words.join(" "), 300),
                tail(&ended.err, 4000),
                tail(&ended.out, 4000)
            ))),
        }
    }

    /// Runs a line of bash that has to succeed.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn sh(&self, line: &str) -> Result<String> {
        self.run(&["bash", "-euo", "pipefail", "-c", line])
    }

    /// Down and up again, with the same disk: always a boot. (A new QEMU: a reset within one takes seconds longer.)
    ///
    /// # Errors
    /// When it does not go down or come up in time.
    pub fn reboot(&self, how: Reboot) -> Result<()> {
        if how == Reboot::Orderly {
            self.guest.shutdown()?;
            let gone = || !self.qemu().is_up();
            wait::until_true("the machine to shut down", SHUTDOWN, gone)
                .map_err(|why| self.with_console(why))?;
        }
        self.qemu().end()?;
        self.start(Start::Cold)
    }

    /// What the kernel and systemd have printed.
    ///
    /// # Errors
    /// When there is none.
    pub fn console(&self) -> Result<String> {
        places::read(&self.dir.join("console.log"))
    }

    fn qemu(&self) -> Qemu<'_> {
        Qemu::new(&self.dir, &self.images)
    }

    fn start(&self, start: Start) -> Result<()> {
        let up = self.qemu().start(start).and_then(|()| self.ready(start));
        up.map_err(|why| self.with_console(why))
    }

    /// The guest agent answers, systemd has done all jobs, the clock is right, the share is mounted.
    fn ready(&self, start: Start) -> Result<()> {
        self.guest.wait(BOOT, || self.qemu().is_up())?;
        if start == Start::Warm {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            self.run(&["date", "--set", &format!("@{}", now.as_secs_f64())])?;
        }
        self.sh(READY).map(drop)
    }

    fn with_console(&self, why: LabError) -> LabError {
        let console = self.console().unwrap_or_default();
        LabError::Service {
            service: format!("the machine in {}", self.dir.display()),
            why: why.to_string(),
            log: tail(console.trim(), CONSOLE_SHOWN).to_owned(),
        }
    }
}

/// `degraded` is a unit that has failed: told, as nobody expects it.
const READY: &str = "
state=$(systemctl is-system-running --wait) || { systemctl --failed --no-legend --plain; echo systemd says $state; exit 1; }
for _ in {1..200}; do [ -b /dev/vdb ] && break; sleep 0.05; done
mkdir -p /share; mountpoint --quiet /share || mount -o ro /dev/vdb /share";

impl Drop for Machine {
    fn drop(&mut self) {
        if !self.keep
            && let Err(why) = take_down(&self.dir)
        {
            eprintln!("the machine in {} stays: {why}", self.dir.display());
        }
    }
}

fn take_down(dir: &Path) -> Result<()> {
    Qemu::end_recorded(dir)?;
    places::remove(dir)
}
