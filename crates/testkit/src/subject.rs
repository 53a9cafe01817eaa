//! A process whose memory is missing, as CRIU leaves a lazily restored one, and which knows what should be there.
//!
//! The test binary starts *itself*: each test crate has a test named `subject` that calls [`run_if_asked`] and nothing else. The
//! process maps regions, registers them with a userfaultfd, reports it, and waits until somebody has taken the descriptor (by
//! `pidfd_getfd`). Then it works: threads that read, write, discard, unmap, move and fork, and check every byte that they see.

mod block;
mod storm;

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

use crate::sys;

const SPEC: &str = "GODWIT_SUBJECT";
const PREFIX: &str = "subject: ";

/// What a subject does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// Pages of each thread's region.
    pub pages: u64,
    /// Threads, each with a region of its own; addresses they share by giving them back to the kernel.
    pub threads: u64,
    /// Decides contents and deeds.
    pub seed: u64,
    /// Deeds of each thread before it checks everything.
    pub deeds: u64,
    /// Of 100 deeds, how many change mappings (discard, unmap, move, fork); the others read and write.
    pub changes: u64,
    /// Whether mappings grow, where they are or elsewhere: the kernel tells nobody of the new pages.
    pub grows: bool,
}

impl Spec {
    fn text(&self) -> String {
        let Self { pages, threads, seed, deeds, changes, grows } = self;
        format!("{pages} {threads} {seed} {deeds} {changes} {}", u64::from(*grows))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(' ').map(str::parse::<u64>);
        let mut next = || numbers.next()?.ok();
        Some(Self {
            pages: next()?,
            threads: next()?,
            seed: next()?,
            deeds: next()?,
            changes: next()?,
            grows: next()? == 1,
        })
    }

    /// Whether the page is zeros, and in no page map. `page` counts through all regions.
    #[must_use]
    pub fn is_zero(&self, page: u64) -> bool {
        block::mix(self.seed ^ (page / 5)).is_multiple_of(6)
    }

    /// What the page holds.
    #[must_use]
    pub fn content(&self, page: u64) -> Vec<u8> {
        let word = |i| block::word(self.seed, page, i);
        if self.is_zero(page) {
            vec![0; 4096]
        } else {
            (0..512).flat_map(|i| word(i).to_le_bytes()).collect()
        }
    }
}

/// A running subject. Killed when dropped.
#[derive(Debug)]
pub struct Subject {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// Addresses of the regions, in order.
    pub regions: Vec<u64>,
    uffd: i32,
}

impl Subject {
    /// Starts one, up to the point where its memory is missing.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    #[expect(clippy::expect_used, clippy::panic, reason = "for tests only")]
    pub fn start(spec: &Spec) -> Self {
        let binary = std::env::current_exe().expect("the test binary");
        let mut child = Command::new(binary)
            .args(["subject", "--exact", "--nocapture"])
            .env(SPEC, spec.text())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting the subject");
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("a pipe"));
        let output = BufReader::new(output);
        let mut subject = Self { child, input, output, regions: Vec::new(), uffd: -1 };
        let line = subject.line();
        let mut numbers = line.split(' ').filter_map(|n| n.parse::<u64>().ok());
        let Some(uffd) = numbers.next() else { panic!("the subject says {line:?}") };
        subject.uffd = uffd as i32;
        subject.regions = numbers.collect();
        subject
    }

    /// The next line that it reports; empty at its end.
    fn line(&mut self) -> String {
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).unwrap_or(0) == 0 {
                return String::new();
            }
            if let Some(line) = line.trim_end().strip_prefix(PREFIX) {
                return line.to_owned();
            }
        }
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A pidfd of it.
    ///
    /// # Panics
    /// If it is dead already.
    #[must_use]
    #[expect(clippy::expect_used, reason = "for tests only")]
    pub fn pidfd(&self) -> OwnedFd {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a pid");
        rustix::process::pidfd_open(pid, PidfdFlags::empty()).expect("pidfd_open")
    }

    /// Takes a duplicate of its userfaultfd.
    ///
    /// # Panics
    /// If it is gone already.
    #[must_use]
    #[expect(clippy::expect_used, reason = "for tests only")]
    pub fn take_uffd(&self) -> OwnedFd {
        rustix::process::pidfd_getfd(self.pidfd(), self.uffd, PidfdGetfdFlags::empty())
            .expect("pidfd_getfd")
    }

    /// Lets it work.
    pub fn go(&mut self) {
        // One that died says so at its end.
        drop(self.input.take().map(|mut input| input.write_all(b"go\n")));
    }

    /// Waits for its end and returns what it says: `ok`, or what was wrong; empty if it was killed.
    #[must_use]
    pub fn verdict(mut self) -> String {
        let verdict = self.line();
        // Reaped by Drop in any case.
        let _ = self.child.wait();
        verdict
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The body of the test `subject`: works if this process was started as one, else returns.
///
/// # Panics
/// If the process cannot make itself a userfaultfd.
#[expect(clippy::expect_used, reason = "for tests only")]
pub fn run_if_asked() {
    let Ok(text) = std::env::var(SPEC) else { return };
    let spec = Spec::parse(&text).expect("a spec");
    let uffd = sys::userfaultfd().expect("userfaultfd");
    let map = |_| sys::map(spec.pages, false).expect("mmap");
    let regions: Vec<u64> = (0..spec.threads).map(map).collect();
    regions.iter().for_each(|at| sys::register(&uffd, *at, spec.pages).expect("register"));
    let addresses: Vec<String> = regions.iter().map(u64::to_string).collect();
    // Not at the beginning of a line: the test harness has printed the test's name.
    println!("\n{PREFIX}{} {}", uffd.as_raw_fd(), addresses.join(" "));
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("stdin");
    drop(uffd);
    let verdict =
        if line == "go\n" { storm::run(&spec, &regions) } else { Err("no go".to_owned()) };
    println!("\n{PREFIX}{}", verdict.as_ref().err().map_or("ok", |wrong| wrong));
    sys::exit_now(i32::from(verdict.is_err()));
}
