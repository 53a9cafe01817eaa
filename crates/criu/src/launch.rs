//! Starting CRIU and seeing it end.
//!
//! Owns the process: what it inherits, the namespaces it is started in, its pidfd and exit status. A CRIU that works on
//! a container is never killed from here but by [`Criu::kill_damaged`]; everybody else closes its sockets and waits.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use godwit_criu_rpc::SeqPacket;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags};

use crate::dump::DEFAULT_GHOST_LIMIT;
use crate::{Error, sys};

/// Most of what CRIU says on its standard error that is kept.
const STDERR_KEPT: u64 = 4096;

/// How to start CRIU.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The program.
    pub criu: PathBuf,
    /// Its `PATH` (it starts `tar`, `ip`, `iptables` in the cases that Godwit does not avoid).
    pub path: OsString,
    /// `cgroup.procs` files of the cgroup that is CRIU's own, so that it shares neither the limits nor the fate of its
    /// starter. Best effort: a file that cannot be written is logged.
    pub cgroup_procs: Vec<PathBuf>,
    /// How much CRIU writes into its log: 1 errors, 2 warnings, 3 information, 4 all.
    pub log_level: i32,
    /// Largest deleted file that is still open which a dump takes along: bytes.
    pub ghost_limit: u32,
}

impl Default for Launcher {
    fn default() -> Self {
        Self {
            criu: PathBuf::from("/usr/sbin/criu"),
            path: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
            cgroup_procs: Vec::new(),
            log_level: 1,
            ghost_limit: DEFAULT_GHOST_LIMIT,
        }
    }
}

/// A running `criu swrk` and our end of its socket. Dropping it closes the socket (CRIU then rolls back and exits) and
/// leaves a thread behind that reaps it.
#[derive(Debug)]
pub struct Criu {
    child: Option<Child>,
    pidfd: OwnedFd,
    rpc: std::sync::Arc<SeqPacket>,
    stderr: File,
    status: Option<ExitStatus>,
}

impl Launcher {
    /// Starts `criu swrk` inside these namespaces; it inherits `inherit` under the same numbers and nothing else.
    ///
    /// # Errors
    /// When the program is missing or a namespace cannot be entered.
    pub fn start(&self, namespaces: Vec<OwnedFd>, inherit: &[OwnedFd]) -> Result<Criu, Error> {
        let (ours, theirs) = SeqPacket::pair()?;
        let theirs = OwnedFd::from(theirs);
        let stderr = memory_file()?;
        let kept = stderr.try_clone().map_err(Error::io("duplicate a descriptor"))?;
        let mut command = Command::new(&self.criu);
        command
            .args(["--no-default-config", "swrk", &theirs.as_raw_fd().to_string()])
            .env_clear()
            .env("PATH", &self.path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .process_group(0);
        let mut keep = sys::numbers(inherit);
        keep.push(theirs.as_raw_fd());
        sys::prepare_child(&mut command, namespaces, keep);
        let child = command.spawn().map_err(Error::io(format!("start {}", self.criu.display())))?;
        self.isolate(&child);
        Criu::new(child, ours, kept)
    }

    fn isolate(&self, child: &Child) {
        let pid = child.id().to_string();
        for file in &self.cgroup_procs {
            if let Err(error) = std::fs::write(file, &pid) {
                tracing::warn!(file = %file.display(), %error, "CRIU stays in its starter's cgroup");
            }
        }
        // Without CAP_SYS_RESOURCE this is refused, and CRIU is as mortal as its starter.
        let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "-1000");
    }
}

impl Criu {
    fn new(child: Child, rpc: SeqPacket, stderr: File) -> Result<Self, Error> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Error::image("pid", "out of range"))?;
        // Not reaped yet, so the number is still its own.
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .map_err(Error::sys("open CRIU's pidfd"))?;
        Ok(Self { child: Some(child), pidfd, rpc: rpc.into(), stderr, status: None })
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Readable once it has exited.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Our end of its socket.
    #[must_use]
    pub fn rpc(&self) -> &SeqPacket {
        &self.rpc
    }

    /// Something that can end the socket from another thread.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        Canceller(self.rpc.clone())
    }

    /// Waits until its socket has a packet or is closed, or it has exited; `false` at the deadline.
    ///
    /// # Errors
    /// When `poll` fails.
    pub fn wait_readable(&self, deadline: Instant) -> Result<bool, Error> {
        wait(&mut [readable(self.rpc.as_fd()), readable(self.pidfd.as_fd())], deadline)
    }

    /// Waits for its exit; `None` at the deadline.
    ///
    /// # Errors
    /// When `poll` or `wait` fails.
    pub fn wait_exit(&mut self, deadline: Instant) -> Result<Option<ExitStatus>, Error> {
        if self.status.is_none() && wait(&mut [readable(self.pidfd.as_fd())], deadline)? {
            self.status = match &mut self.child {
                Some(child) => Some(child.wait().map_err(Error::io("wait for CRIU"))?),
                None => None,
            };
        }
        Ok(self.status)
    }

    /// Its exit status, once [`Criu::wait_exit`] has seen it.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        self.status
    }

    /// What it printed on its standard error so far (at most 4 KiB): it speaks there before it has a log.
    #[must_use]
    pub fn stderr_text(&self) -> String {
        let mut text = String::new();
        let Ok(mut file) = self.stderr.try_clone() else { return text };
        if file.rewind().is_ok() {
            let _ = file.take(STDERR_KEPT).read_to_string(&mut text);
        }
        text.trim().to_owned()
    }

    /// Kills it although it may hold a container: the tasks run at once and may have lost a process, memory protections
    /// or connections. The container must be killed by its shim first or right after.
    pub fn kill_damaged(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL);
    }
}

impl Drop for Criu {
    fn drop(&mut self) {
        self.rpc.shutdown();
        if self.status.is_some() {
            return;
        }
        if let Some(mut child) = self.child.take() {
            // It exits by itself once it notices; somebody has to read its status or it stays a zombie.
            let _ = std::thread::Builder::new()
                .name("criu-reaper".to_owned())
                .spawn(move || child.wait());
        }
    }
}

/// Ends a session's socket from another thread: CRIU notices at its next notification, at the latest at post-dump, rolls
/// back and exits. (Closing the page server's socket is noticed at once.)
#[derive(Debug, Clone)]
pub struct Canceller(std::sync::Arc<SeqPacket>);

impl Canceller {
    /// Closes the socket in both directions; may be called at any time, more than once.
    pub fn cancel(&self) {
        self.0.shutdown();
    }
}

/// How a process ended, in words.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it exited with status {code}"),
        (None, Some(signal)) => format!("it was killed by signal {signal}"),
        (None, None) => "it ended".to_owned(),
    }
}

fn readable(fd: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::from_borrowed_fd(fd, PollFlags::IN)
}

fn wait(fds: &mut [PollFd<'_>], deadline: Instant) -> Result<bool, Error> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = rustix::event::Timespec::try_from(left).ok();
        match rustix::event::poll(fds, timeout.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::sys("wait for CRIU")(errno)),
        }
    }
}

fn memory_file() -> Result<File, Error> {
    rustix::fs::memfd_create("criu-stderr", rustix::fs::MemfdFlags::CLOEXEC)
        .map(File::from)
        .map_err(Error::sys("make a memory file"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn shell(script: &str) -> Launcher {
        // `swrk` and the descriptor's number arrive as arguments of the script.
        let dir = tempfile::tempdir().unwrap().keep();
        let path = dir.join("criu");
        // Written by another process: a program that any process has open for writing, such as a child of another test that has
        // not executed its own yet, cannot be executed.
        let write = "printf '#!/bin/bash\\n%s\\n' \"$2\" > \"$1\" && chmod 755 \"$1\"";
        let mut shell = std::process::Command::new("bash");
        shell.args(["-c", write, "bash"]).arg(&path).arg(script);
        assert!(shell.status().unwrap().success());
        Launcher { criu: path, ..Launcher::default() }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn a_missing_program_is_an_error_that_names_it() {
        let launcher = Launcher { criu: "/nonexistent/criu".into(), ..Launcher::default() };
        let error = launcher.start(Vec::new(), &[]).unwrap_err();
        assert_eq!(error.to_string(), "cannot start /nonexistent/criu");
    }

    #[test]
    fn the_exit_and_the_last_words_are_seen() {
        let mut criu = shell("echo $2 no luck >&2; exit 3").start(Vec::new(), &[]).unwrap();
        assert!(criu.wait_readable(soon()).unwrap());
        let status = criu.wait_exit(soon()).unwrap().unwrap();
        assert_eq!(describe(status), "it exited with status 3");
        assert_eq!(criu.stderr_text(), "swrk no luck");
    }

    #[test]
    fn a_cancelled_socket_reads_as_closed_on_the_other_side() {
        // `cat` on the inherited socket ends when our side is shut down.
        let criu = shell("exec cat <&$3 >/dev/null 2>&1");
        let mut criu = criu.start(Vec::new(), &[]).unwrap();
        criu.canceller().cancel();
        assert!(criu.wait_exit(soon()).unwrap().is_some());
    }
}
