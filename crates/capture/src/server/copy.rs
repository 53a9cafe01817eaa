//! Threads that copy pages out of pipes, so that more than one processor copies while tasks stand still.
//!
//! CRIU passes references to pages, and `splice` passes them on: what costs time is the copy, and one thread that copies is slower
//! than the CRIU that sends. Each thread has a pipe of its own and fills spans in the order in which they were handed to it.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use super::Stream;
use crate::{CaptureError, Span};

/// What a pipe should hold; without the right to so much it holds less.
const PIPE_BYTES: usize = 1 << 20;
/// More threads than these find nothing to copy: CRIU does not send faster.
const MOST: usize = 4;

/// A span with its number, to be filled.
pub(super) type Job = (u32, Span);

struct Copier {
    pipe: OwnedFd,
    jobs: Sender<Job>,
    thread: JoinHandle<std::io::Result<Vec<Job>>>,
}

/// See the module. Dropping it ends the threads.
pub(super) struct Copiers(Vec<Copier>);

impl Copiers {
    /// As many threads as are of use on this machine.
    pub(super) fn start() -> Result<Self, CaptureError> {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(MOST));
        Ok(Self((0..threads).map(|_| Copier::start()).collect::<Result<_, _>>()?))
    }

    /// Fills a span with the next bytes of the stream. They are there after [`Self::settle`].
    pub(super) fn fill(&self, stream: &mut Stream<'_>, job: Job) -> Result<(), CaptureError> {
        let copier = &self.0[job.0 as usize % self.0.len()];
        let length = job.1.bytes().len();
        // First, so that somebody reads when the pipe is full.
        copier.jobs.send(job).map_err(|_| CaptureError::Thread)?;
        stream.splice(&copier.pipe, length)
    }

    /// Waits until all spans are filled and gives them, in any order.
    pub(super) fn settle(self) -> Result<Vec<Job>, CaptureError> {
        // All of them hear that there is no more to do before one is waited for.
        let threads: Vec<_> = self.0.into_iter().map(|copier| copier.thread).collect();
        let mut jobs = Vec::new();
        for thread in threads {
            let filled = thread.join().map_err(|_| CaptureError::Thread)?;
            let attempt = "copy pages from";
            jobs.extend(filled.map_err(|source| CaptureError::Socket { attempt, source })?);
        }
        Ok(jobs)
    }
}

impl Copier {
    fn start() -> Result<Self, CaptureError> {
        let failed = |e: rustix::io::Errno| CaptureError::Socket {
            attempt: "open a pipe for",
            source: e.into(),
        };
        let (ours, pipe) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        // Only speed depends on it.
        let _ = fcntl_setpipe_size(&pipe, PIPE_BYTES);
        let (jobs, todo) = channel();
        let named = std::thread::Builder::new().name("page-copy".to_owned());
        let thread = named.spawn(move || copy(File::from(ours), &todo));
        Ok(Self { pipe, jobs, thread: thread.map_err(|_| CaptureError::Thread)? })
    }
}

/// Ends with an error when the stream ends within a span.
fn copy(mut pipe: File, todo: &Receiver<Job>) -> std::io::Result<Vec<Job>> {
    let mut done = Vec::new();
    while let Ok((number, mut span)) = todo.recv() {
        pipe.read_exact(span.bytes_mut())?;
        done.push((number, span));
    }
    Ok(done)
}
