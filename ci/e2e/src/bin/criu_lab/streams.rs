//! What a container prints, line by line.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// For anything that takes milliseconds on a quiet machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// The container's ends of its three streams, to be given to runc.
pub(crate) struct Ends {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// Our ends.
pub(crate) struct Streams {
    lines: Arc<Mutex<Vec<String>>>,
    _stdin: OwnedFd,
}

impl Streams {
    pub(crate) fn new() -> Result<(Self, Ends)> {
        let flags = rustix::pipe::PipeFlags::CLOEXEC;
        let (stdin, ours) = rustix::pipe::pipe_with(flags)?;
        let (out, stdout) = rustix::pipe::pipe_with(flags)?;
        let (err, stderr) = rustix::pipe::pipe_with(flags)?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        for (pipe, mark) in [(out, ""), (err, "stderr: ")] {
            let lines = lines.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(File::from(pipe)).lines().map_while(Result::ok) {
                    lines
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(format!("{mark}{line}"));
                }
            });
        }
        Ok((Self { lines, _stdin: ours }, Ends { stdin, stdout, stderr }))
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The number of the last tick; 0 before the first.
    pub(crate) fn tick(&self) -> Result<u64> {
        let mut last = 0;
        for line in self.all() {
            match line.strip_prefix("tick ") {
                Some(rest) => last = rest.split(' ').next().unwrap_or_default().parse()?,
                None if line == "ready" => {}
                None => bail!("the workload says {line:?}"),
            }
        }
        Ok(last)
    }

    /// Waits until the workload has ticked beyond this number.
    pub(crate) fn wait_beyond(&self, tick: u64) -> Result<u64> {
        wait("the workload to tick", || {
            let last = self.tick()?;
            Ok((last > tick).then_some(last))
        })
    }
}

/// Asks again until there is an answer.
pub(crate) fn wait<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("waited in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
