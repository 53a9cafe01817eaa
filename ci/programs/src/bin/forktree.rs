//! `forktree`: processes, threads, pipes and shared memory that verify each other for ever.
//!
//! A token runs around a ring of pipes through all processes. Every process proves it from its own state, asks a thread
//! of its own, looks at everybody's counter in shared memory, and checks that it and its parent are who they were.
//! Exit status 3 and a sentence on standard error when anything is not as it must be; 4 when the system refuses something.

use std::fs::File;
use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use godwit_programs::page::{WORDS, mix};
use godwit_programs::progress::Progress;
use godwit_programs::sys::{Fork, fork, shared_counters};
use rustix::process::{Pid, getpid, getppid};

/// Processes, threads, pipes and shared memory that verify each other.
#[derive(Parser)]
struct Arguments {
    /// Processes in the ring, this one included; every second one is a grandchild.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(2..=64))]
    processes: u16,
    /// Milliseconds between two tokens.
    #[arg(long, default_value_t = 50)]
    every_ms: u64,
    /// End with success after this many tokens; 0 means never.
    #[arg(long, default_value_t = 0)]
    until: u64,
    #[command(flatten)]
    progress: Progress,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forktree: process {}: {error:#}", getpid().as_raw_nonzero());
            ExitCode::from(if error.is::<std::io::Error>() { 4 } else { 3 })
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let ring = usize::from(arguments.processes);
    // A page apart, so that each counter has a page of its own.
    let counters = shared_counters(ring * WORDS).context("mapping shared memory")?;
    let mut pipes = (0..ring)
        .map(|_| rustix::pipe::pipe().map(|(read, write)| (Some(read), Some(write))))
        .collect::<Result<Vec<_>, _>>()
        .context("making pipes")?;
    let place = take_place(ring)?;
    let input = pipes[place].0.take().context("a pipe is used twice")?;
    let output = pipes[(place + 1) % ring].1.take().context("a pipe is used twice")?;
    // All other ends are closed: so the end of one process is seen by the next.
    drop(pipes);
    let mut member = Member {
        place,
        ring,
        input: input.into(),
        output: output.into(),
        counters,
        seen: vec![0; ring],
        me: (getpid(), getppid()),
        helper: Helper::start(),
    };
    if place == 0 { member.lead(arguments) } else { member.follow() }
}

/// Forks the processes; returns in each of them with its place in the ring.
fn take_place(ring: usize) -> anyhow::Result<usize> {
    for child in (1..ring).step_by(2) {
        if fork().context("fork")? != Fork::Child {
            continue;
        }
        let grandchild = child + 1;
        if grandchild < ring && fork().context("fork")? == Fork::Child {
            return Ok(grandchild);
        }
        return Ok(child);
    }
    Ok(0)
}

struct Member {
    place: usize,
    ring: usize,
    input: File,
    output: File,
    counters: &'static [AtomicU64],
    /// The highest number seen in each member's counter.
    seen: Vec<u64>,
    me: (Pid, Option<Pid>),
    helper: Helper,
}

impl Member {
    fn lead(&mut self, arguments: &Arguments) -> anyhow::Result<()> {
        let mut number = 0;
        while arguments.until == 0 || number < arguments.until {
            number += 1;
            self.send(number)?;
            self.receive(number, self.ring)?;
            self.check(number)?;
            arguments.progress.tell(&format!("token {number} processes {}", self.ring))?;
            std::thread::sleep(Duration::from_millis(arguments.every_ms));
        }
        // Number 0 tells everybody to end.
        self.send(0)?;
        self.receive(0, self.ring)
    }

    fn follow(&mut self) -> anyhow::Result<()> {
        for expected in 1.. {
            let number = self.receive_next(expected)?;
            if number != 0 {
                self.check(number)?;
            }
            self.send(number)?;
            if number == 0 {
                break;
            }
        }
        Ok(())
    }

    fn send(&mut self, number: u64) -> anyhow::Result<()> {
        self.counters[self.place * WORDS].store(sealed(number, self.place), SeqCst);
        let mut token = number.to_le_bytes().to_vec();
        token.extend(proof(number, self.place + 1).to_le_bytes());
        self.output.write_all(&token).context("passing the token on")
    }

    fn receive(&mut self, number: u64, place: usize) -> anyhow::Result<()> {
        let (got, proven) = self.read_token()?;
        ensure!(got == number, "the token is {got}, must be {number}");
        ensure!(proven == proof(got, place), "token {got} is not proven by its way to {place}");
        Ok(())
    }

    /// The token, which is `expected` or the last one.
    fn receive_next(&mut self, expected: u64) -> anyhow::Result<u64> {
        let (got, proven) = self.read_token()?;
        ensure!(got == expected || got == 0, "the token is {got}, must be {expected}");
        ensure!(proven == proof(got, self.place), "token {got} is not proven at {}", self.place);
        Ok(got)
    }

    fn read_token(&mut self) -> anyhow::Result<(u64, u64)> {
        let (mut number, mut proven) = ([0; 8], [0; 8]);
        self.input.read_exact(&mut number).context("the process before this one is gone")?;
        self.input.read_exact(&mut proven).context("the process before this one is gone")?;
        Ok((u64::from_le_bytes(number), u64::from_le_bytes(proven)))
    }

    fn check(&mut self, number: u64) -> anyhow::Result<()> {
        self.helper.ask(number)?;
        let me = (getpid(), getppid());
        ensure!(me == self.me, "this process was {:?}, is {me:?}", self.me);
        for place in 0..self.ring {
            self.check_counter(place, number)?;
        }
        Ok(())
    }

    fn check_counter(&mut self, place: usize, number: u64) -> anyhow::Result<()> {
        let word = self.counters[place * WORDS].load(SeqCst);
        let Some(count) = opened(word, place) else {
            bail!("the counter of member {place} holds {word:#018x}, which it never wrote");
        };
        let (low, high) = (self.seen[place].max(number.saturating_sub(1)), number);
        ensure!(
            low <= count && count <= high,
            "member {place} has counted {count}, not {low} to {high}"
        );
        self.seen[place] = count;
        Ok(())
    }
}

/// What a token says of its way: each member it has passed adds itself.
fn proof(number: u64, place: usize) -> u64 {
    (1..place as u64).fold(mix(number), |proof, place| mix(proof ^ place))
}

/// A number below 2^32 and a proof of it in one word.
fn sealed(number: u64, place: usize) -> u64 {
    number << 32 | mix(number ^ (place as u64) << 40) >> 32
}

fn opened(word: u64, place: usize) -> Option<u64> {
    let number = word >> 32;
    // Zero before the first token.
    (word == 0 || word == sealed(number, place)).then_some(number)
}

/// A thread that answers every number with its proof.
struct Helper {
    questions: SyncSender<u64>,
    answers: Receiver<(u64, u64)>,
}

impl Helper {
    fn start() -> Self {
        let (questions, asked) = sync_channel::<u64>(1);
        let (answer, answers) = sync_channel(1);
        std::thread::spawn(move || {
            let mut count = 0;
            for question in asked {
                count += 1;
                if answer.send((count, mix(question))).is_err() {
                    break;
                }
            }
        });
        Self { questions, answers }
    }

    fn ask(&self, number: u64) -> anyhow::Result<()> {
        self.questions.send(number).context("the helper thread is gone")?;
        let (count, answer) = self.answers.recv().context("the helper thread is gone")?;
        ensure!(count == number, "the helper thread has counted {count}, must be {number}");
        ensure!(answer == mix(number), "the helper thread gave a wrong answer");
        Ok(())
    }
}
