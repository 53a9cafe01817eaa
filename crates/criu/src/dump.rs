//! One dump of one container, step by step.
//!
//! ```text
//!  start ──► prepare ──► [caller freezes the cgroup] ──► proceed ──► [caller: page server is acknowledged, files are
//!            pre-dump: tasks still run                   post-dump:   captured, all other sessions are here too]
//!                                                        tasks held
//!            ──► finish(Keep | RollBack) ──► CRIU has exited ──► [cgroup reads FROZEN; shim thaws or kills]
//! ```
//!
//! CRIU always leaves the tasks alive: killing is the shim's, after the log entry. All calls block until their step is
//! reached or the deadline passes; run them on a thread that may block. [`Canceller`] and the page server's socket end a
//! session from outside.
//!
//! # Failure
//! After any error but [`Error::Deadline`] and [`Error::OutOfOrder`] CRIU has exited: the tasks are as they were
//! ([`Error::Criu`], cancelled) or may be damaged ([`Error::Damaged`]). After [`Error::Deadline`] it still lives: call
//! [`DumpSession::abort`] with a new deadline, and if that passes too, have the shim kill the container and call
//! [`DumpSession::kill_damaged`]. **Thaw only after CRIU's exit**: while it works it changes the freezer itself.
//!
//! # Dropping
//! Dropping a session cancels it; nobody learns when it has ended.

mod options;

use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::time::Instant;

use godwit_criu_rpc::log;
use godwit_criu_rpc::rpc::ReqType;
use godwit_criu_rpc::{Incoming, Notify, Packet, ack, nak, request};

pub use options::{DEFAULT_GHOST_LIMIT, DumpRequest, TcpPolicy};

use crate::Error;
use crate::launch::{Canceller, Criu, Launcher, describe};

/// Name of CRIU's log in the work directory.
pub const LOG_FILE: &str = "dump.log";

/// What becomes of a finished dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The images are good.
    Keep,
    /// Undo: sockets leave repair mode, tasks are released (under the freezer), the images are worthless.
    RollBack,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Started,
    AtPreDump,
    Dumping,
    AtPostDump,
    Ending,
    Ended,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Started => "starting",
            Self::AtPreDump => "waiting for the freeze",
            Self::Dumping => "dumping",
            Self::AtPostDump => "waiting for the verdict",
            Self::Ending => "ending",
            Self::Ended => "over",
        }
    }
}

/// A CRIU that dumps one container.
#[derive(Debug)]
pub struct DumpSession {
    criu: Criu,
    state: State,
    work: PathBuf,
    // CRIU opens the directories through our descriptor table.
    _dirs: [OwnedFd; 2],
}

enum Step {
    Notify(Notify),
    Response { success: bool },
    Closed,
}

impl DumpSession {
    /// Starts CRIU inside `namespaces` and sends it the request. The page server's socket goes to CRIU; the caller's end
    /// must be served from [`DumpSession::proceed`] on.
    ///
    /// # Errors
    /// When CRIU cannot be started or a directory cannot be opened. Nothing has happened to the container.
    pub fn start(
        launcher: &Launcher,
        namespaces: Vec<OwnedFd>,
        mut dump: DumpRequest,
    ) -> Result<Self, Error> {
        let dirs = [open_dir(&dump.images)?, open_dir(&dump.work)?];
        let inherit: Vec<OwnedFd> = dump.page_server.take().into_iter().collect();
        let page_server = inherit.first().map(|fd| fd.as_raw_fd());
        let criu = launcher.start(namespaces, &inherit)?;
        let opts = dump.to_opts(dirs[0].as_raw_fd(), dirs[1].as_raw_fd(), page_server);
        criu.rpc().send(&request::packet(ReqType::Dump, Some(opts)))?;
        Ok(Self { criu, state: State::Started, work: dump.work, _dirs: dirs })
    }

    /// Waits until everything is prepared (CRIU's `pre-dump`; 7 ms, 50–95 ms the first time on a node). The tasks still
    /// run. Now freeze the cgroup, then [`DumpSession::proceed`].
    ///
    /// # Errors
    /// See the module's *Failure*.
    pub fn prepare(&mut self, deadline: Instant) -> Result<(), Error> {
        self.require("prepare", State::Started)?;
        self.run_to(Notify::PreDump, deadline)?;
        self.state = State::AtPreDump;
        Ok(())
    }

    /// Lets CRIU dump the (frozen) tasks and waits until the images are complete and the page server has acknowledged
    /// (`post-dump`). The tasks are held by ptrace; the cgroup reads THAWED meanwhile.
    ///
    /// # Errors
    /// See the module's *Failure*. After [`Error::Deadline`] it may be called again to wait longer.
    pub fn proceed(&mut self, deadline: Instant) -> Result<(), Error> {
        if self.state != State::Dumping {
            self.require("proceed", State::AtPreDump)?;
            self.answer(&ack())?;
            self.state = State::Dumping;
        }
        self.run_to(Notify::PostDump, deadline)?;
        self.state = State::AtPostDump;
        Ok(())
    }

    /// Gives the verdict and waits for CRIU's exit. Afterwards the cgroup is as the caller froze it.
    ///
    /// # Errors
    /// See the module's *Failure*. With [`Verdict::Keep`] the images are good only if this returns `Ok`.
    pub fn finish(&mut self, verdict: Verdict, deadline: Instant) -> Result<(), Error> {
        if self.state != State::Ending {
            self.require("finish", State::AtPostDump)?;
            self.state = State::Ending;
            self.answer(&if verdict == Verdict::Keep { ack() } else { nak() })?;
        }
        let success = self.run_to_response(deadline)?;
        self.reap("its exit", deadline)?;
        match (verdict, success) {
            (Verdict::Keep, true) | (Verdict::RollBack, _) => self.require_unharmed(),
            (Verdict::Keep, false) => Err(self.own_failure()),
        }
    }

    /// Ends the session wherever it is and waits for CRIU's exit: a pending notification is refused, otherwise the socket
    /// is closed. Close the page server's socket first: that is noticed at once.
    ///
    /// # Errors
    /// [`Error::Deadline`] when CRIU still lives, [`Error::Damaged`]. Otherwise the tasks are as they were.
    pub fn abort(&mut self, deadline: Instant) -> Result<(), Error> {
        if matches!(self.state, State::AtPreDump | State::AtPostDump) {
            // Fails only if CRIU is gone already.
            let _ = self.criu.rpc().send(&nak());
            self.state = State::Ending;
            self.drain(deadline)?;
        }
        self.criu.canceller().cancel();
        self.reap("its exit", deadline)?;
        self.require_unharmed()
    }

    /// The last resort against a CRIU that hangs: see [`Criu::kill_damaged`]. Wait with [`DumpSession::abort`] afterwards.
    pub fn kill_damaged(&self) {
        self.criu.kill_damaged();
    }

    /// Ends the session from another thread.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        self.criu.canceller()
    }

    /// CRIU's pid.
    #[must_use]
    pub fn criu_pid(&self) -> u32 {
        self.criu.pid()
    }

    /// CRIU's pidfd, for the shim.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.criu.pidfd()
    }

    /// CRIU's log.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.work.join(LOG_FILE)
    }

    /// Acknowledges notifications until `wanted`, which stays unanswered.
    fn run_to(&mut self, wanted: Notify, deadline: Instant) -> Result<(), Error> {
        loop {
            match self.step(wanted.name(), deadline)? {
                Step::Notify(kind) if kind == wanted => return Ok(()),
                Step::Notify(_) => self.answer(&ack())?,
                // A dump that ends before it was asked to has failed, whatever it says.
                Step::Response { .. } | Step::Closed => return Err(self.failure(deadline)?),
            }
        }
    }

    fn run_to_response(&mut self, deadline: Instant) -> Result<bool, Error> {
        loop {
            match self.step("its response", deadline)? {
                Step::Notify(_) => self.answer(&ack())?,
                Step::Response { success } => return Ok(success),
                Step::Closed => return Err(self.failure(deadline)?),
            }
        }
    }

    fn drain(&mut self, deadline: Instant) -> Result<(), Error> {
        loop {
            match self.step("its exit", deadline)? {
                Step::Notify(_) => drop(self.criu.rpc().send(&ack())),
                Step::Response { .. } => {}
                Step::Closed => return Ok(()),
            }
        }
    }

    fn step(&mut self, waiting_for: &'static str, deadline: Instant) -> Result<Step, Error> {
        loop {
            if !self.criu.wait_readable(deadline)? {
                return Err(Error::Deadline { waiting_for });
            }
            match self.criu.rpc().try_recv() {
                Ok(Some(packet)) => return read_step(&packet),
                // Nothing to read, but something is ready: it has exited.
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    if self.criu.wait_exit(Instant::now())?.is_some() {
                        return Ok(Step::Closed);
                    }
                }
                Ok(None) | Err(_) => return Ok(Step::Closed),
            }
        }
    }

    fn answer(&self, packet: &Packet) -> Result<(), Error> {
        match self.criu.rpc().send(packet) {
            // CRIU is gone: the next step says why.
            Err(godwit_criu_rpc::Error::Socket { .. }) => Ok(()),
            other => Ok(other?),
        }
    }

    /// CRIU has failed: waits for its exit and says why.
    fn failure(&mut self, deadline: Instant) -> Result<Error, Error> {
        let held = matches!(self.state, State::Dumping | State::Ending);
        self.state = State::Ending;
        self.criu.canceller().cancel();
        self.reap("its exit", deadline)?;
        if held {
            self.require_unharmed()?;
        }
        Ok(self.own_failure())
    }

    fn reap(&mut self, waiting_for: &'static str, deadline: Instant) -> Result<(), Error> {
        if self.criu.wait_exit(deadline)?.is_none() {
            return Err(Error::Deadline { waiting_for });
        }
        self.state = State::Ended;
        Ok(())
    }

    fn require_unharmed(&self) -> Result<(), Error> {
        match self.criu.status().and_then(|s| s.signal()) {
            Some(signal) => Err(Error::Damaged { signal }),
            None => Ok(()),
        }
    }

    fn own_failure(&self) -> Error {
        let log = log::read(&self.log_path());
        // Its directory goes with the operation: this is where all of it is kept.
        log.lines().for_each(|line| tracing::warn!(criu = line, "a dump has failed"));
        let reason = match log::first_error(&log) {
            Some(error) => error.to_string(),
            None => self.last_words(),
        };
        Error::Criu { request: "dump the container", reason }
    }

    fn last_words(&self) -> String {
        let stderr = self.criu.stderr_text();
        if !stderr.is_empty() {
            return stderr;
        }
        self.criu.status().map_or_else(|| "it was cancelled".to_owned(), describe)
    }

    fn require(&self, call: &'static str, state: State) -> Result<(), Error> {
        if self.state == state {
            return Ok(());
        }
        Err(Error::OutOfOrder { call, state: self.state.name() })
    }
}

fn read_step(packet: &Packet) -> Result<Step, Error> {
    Ok(match Incoming::parse(&packet.bytes)? {
        Incoming::Notification(n) => Step::Notify(n.kind),
        Incoming::Response(r) => Step::Response { success: r.success },
    })
}

fn open_dir(path: &std::path::Path) -> Result<OwnedFd, Error> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(Error::sys(format!("open {}", path.display())))
}
