//! `memwriter`: memory whose every byte is known, checked for ever, while pages are written, discarded, moved and forked.
//!
//! Exit status 3 and a sentence on standard error for a wrong byte; 4 when the system refuses something.

use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use godwit_programs::page::{Chooser, PAGE, Stamp, Wrong};
use godwit_programs::progress::Progress;
use godwit_programs::sys::{Fork, Region, fork, leave};
use rustix::process::{Pid, WaitOptions, waitpid};

/// Pages in a run that is discarded or moved at once: at most this many.
const LONGEST_RUN: u64 = 256;
/// Exit status for a wrong byte.
const WRONG: u8 = 3;

/// Fills memory with known bytes, then checks all of it and changes some of it, round after round.
#[derive(Parser, Clone)]
struct Arguments {
    /// Memory in MiB, shared out among the threads.
    #[arg(long, default_value_t = 64)]
    mib: usize,
    /// Threads, each with its own region.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
    /// Of a thousand pages, how many are written in a round.
    #[arg(long, default_value_t = 20)]
    write_per_mille: u64,
    /// Of a hundred pages, how many stay untouched at first.
    #[arg(long, default_value_t = 10)]
    empty_percent: u64,
    /// Ways to disturb a run of pages, one per round and thread, in turn.
    #[arg(long, value_enum, value_delimiter = ',')]
    disturb: Vec<Disturbance>,
    /// Disturb within a round too, whenever a thread has checked so many pages; 0 means never.
    #[arg(long, default_value_t = 0)]
    disturb_every: usize,
    /// Milliseconds of rest after each round.
    #[arg(long, default_value_t = 10)]
    pause_ms: u64,
    /// Milliseconds between two lines of progress.
    #[arg(long, default_value_t = 200)]
    tell_ms: u64,
    /// End with success after this many rounds; 0 means never.
    #[arg(long, default_value_t = 0)]
    rounds: u64,
    /// Chooses contents and order.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    progress: Progress,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Disturbance {
    /// `MADV_DONTNEED`.
    Dontneed,
    /// `munmap`, then `mmap` in the same place.
    Munmap,
    /// `mremap` to another address, back in the next round.
    Mremap,
    /// A forked child checks everything and writes into its copy, while the parent goes on.
    Fork,
}

#[derive(Default)]
struct Counts {
    rounds: AtomicU64,
    checked: AtomicU64,
    written: AtomicU64,
    disturbed: AtomicU64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("memwriter: {error:#}");
            ExitCode::from(if error.is::<Wrong>() { WRONG } else { 4 })
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let counts = Counts::default();
    let pages = arguments.mib * (1 << 20) / PAGE / usize::from(arguments.threads);
    let writers = (0..arguments.threads)
        .map(|thread| Writer::new(arguments, pages, thread))
        .collect::<anyhow::Result<Vec<_>>>()?;
    arguments.progress.tell("ready")?;
    std::thread::scope(|scope| {
        let running: Vec<_> = writers
            .into_iter()
            .map(|writer| scope.spawn(|| work(writer, arguments, &counts)))
            .collect();
        watch(&running, arguments, &counts)?;
        running.into_iter().try_for_each(|thread| match thread.join() {
            Ok(end) => end,
            Err(_) => bail!("a thread panicked"),
        })
    })
}

/// Tells progress until a thread has ended; a thread that found a wrong byte ends the program at once.
fn watch<T>(
    running: &[std::thread::ScopedJoinHandle<'_, T>],
    arguments: &Arguments,
    counts: &Counts,
) -> anyhow::Result<()> {
    let mut next = Instant::now();
    while !running.iter().all(std::thread::ScopedJoinHandle::is_finished) {
        if Instant::now() >= next {
            arguments.progress.tell(&counts.line()).context("telling progress")?;
            next = Instant::now() + Duration::from_millis(arguments.tell_ms);
        }
        std::thread::sleep(Duration::from_millis(arguments.tell_ms.min(10)));
    }
    arguments.progress.tell(&counts.line()).context("telling progress")
}

fn work(mut writer: Writer, arguments: &Arguments, counts: &Counts) -> anyhow::Result<()> {
    let mut rounds = 0;
    while arguments.rounds == 0 || rounds < arguments.rounds {
        if let Err(error) = writer.round(arguments, counts) {
            eprintln!("memwriter: {error:#}");
            // At once: the other threads would go on for ever.
            leave(i32::from(if error.is::<Wrong>() { WRONG } else { 4 }));
        }
        rounds += 1;
        counts.rounds.fetch_add(1, Relaxed);
        std::thread::sleep(Duration::from_millis(arguments.pause_ms));
    }
    writer.wait_for_child()
}

impl Counts {
    fn line(&self) -> String {
        format!(
            "rounds {} checked {} written {} disturbed {}",
            self.rounds.load(Relaxed),
            self.checked.load(Relaxed),
            self.written.load(Relaxed),
            self.disturbed.load(Relaxed),
        )
    }
}

/// One thread's region, and the version of each of its pages.
struct Writer {
    seed: u64,
    region: Region,
    versions: Vec<u32>,
    choose: Chooser,
    turn: usize,
    child: Option<i32>,
}

impl Writer {
    fn new(arguments: &Arguments, pages: usize, thread: u16) -> anyhow::Result<Self> {
        let seed = arguments.seed << 16 | u64::from(thread);
        let mut writer = Self {
            seed,
            region: Region::map(pages).context("mapping memory")?,
            versions: vec![0; pages],
            choose: Chooser::new(seed),
            turn: 0,
            child: None,
        };
        for page in 0..pages {
            if writer.choose.below(100) >= arguments.empty_percent {
                writer.write(page);
            }
        }
        Ok(writer)
    }

    fn stamp(&self, page: usize) -> Stamp {
        Stamp { seed: self.seed, page: page as u64, version: self.versions[page] }
    }

    fn write(&mut self, page: usize) {
        self.versions[page] += 1;
        self.stamp(page).write(self.region.page_mut(page));
    }

    fn round(&mut self, arguments: &Arguments, counts: &Counts) -> anyhow::Result<()> {
        self.wait_for_child()?;
        self.disturb_next(arguments, counts)?;
        for page in 0..self.region.pages() {
            if page > 0 && page.checked_rem(arguments.disturb_every) == Some(0) {
                self.disturb_next(arguments, counts)?;
            }
            self.stamp(page).check(self.region.page(page))?;
            counts.checked.fetch_add(1, Relaxed);
            if self.choose.below(1000) < arguments.write_per_mille {
                self.write(page);
                counts.written.fetch_add(1, Relaxed);
            }
        }
        Ok(())
    }

    /// The next way in turn. A child is forked only when there is none.
    fn disturb_next(&mut self, arguments: &Arguments, counts: &Counts) -> anyhow::Result<()> {
        let Some(turn) = self.turn.checked_rem(arguments.disturb.len()) else { return Ok(()) };
        self.turn += 1;
        let way = arguments.disturb[turn];
        if way != Disturbance::Fork || self.child.is_none() {
            self.disturb(way)?;
            counts.disturbed.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    fn disturb(&mut self, way: Disturbance) -> anyhow::Result<()> {
        let run = self.choose_run();
        match way {
            Disturbance::Dontneed => {
                self.region.discard(run.clone()).context("MADV_DONTNEED")?;
                self.versions[run].fill(0);
            }
            Disturbance::Munmap => {
                self.region.map_again(run.clone()).context("munmap and mmap")?;
                self.versions[run].fill(0);
            }
            Disturbance::Mremap => self.region.send_away(run).context("mremap")?,
            Disturbance::Fork => self.fork_checker(run)?,
        }
        Ok(())
    }

    fn choose_run(&mut self) -> Range<usize> {
        let pages = self.region.pages() as u64;
        let start = self.choose.below(pages);
        let length = 1 + self.choose.below(LONGEST_RUN.min(pages - start));
        start as usize..(start + length).min(pages) as usize
    }

    /// The child has a copy of all of it: checks it, writes the run in its copy, checks again.
    fn fork_checker(&mut self, run: Range<usize>) -> anyhow::Result<()> {
        if let Fork::Parent(pid) = fork().context("fork")? {
            self.child = Some(pid);
            return Ok(());
        }
        let right = self.is_right();
        run.for_each(|page| self.write(page));
        leave(if right && self.is_right() { 0 } else { i32::from(WRONG) })
    }

    fn is_right(&self) -> bool {
        (0..self.region.pages()).all(|page| self.stamp(page).check(self.region.page(page)).is_ok())
    }

    fn wait_for_child(&mut self) -> anyhow::Result<()> {
        let Some(pid) = self.child.take() else { return Ok(()) };
        let (_, status) = waitpid(Pid::from_raw(pid), WaitOptions::empty())
            .context("waiting for the child")?
            .context("the child is gone")?;
        match status.exit_status() {
            Some(0) => Ok(()),
            Some(status) => {
                bail!("the forked child {pid} found wrong bytes in its copy (status {status})")
            }
            None => bail!(
                "the forked child {pid} was killed by signal {:?}",
                status.terminating_signal()
            ),
        }
    }
}
