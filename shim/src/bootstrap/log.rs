//! The shim's own log: lines into containerd's FIFO `log` in the bundle. Its standard error leads there, too: what a panic and the
//! pagers say.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;

/// Writes lines into the FIFO; drops them while nobody reads and it is full: a shim never waits for its log.
#[derive(Debug)]
struct Fifo(File);

/// Sends logs to the FIFO from now on. Without the FIFO there is no log.
pub(super) fn to_fifo(bundle: &Path, debug: bool) {
    // Opened for reading, too: so a containerd that restarts neither breaks it nor loses what is in it.
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(fd) = open(bundle.join("log"), flags, Mode::empty()) else { return };
    // Without it only the last words are lost.
    let _ = rustix::stdio::dup2_stderr(&fd);
    let level = if debug { Level::DEBUG } else { Level::INFO };
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(level)
        .with_target(false)
        .with_writer(Fifo(fd.into()));
    // The only one of this process.
    let _ = tracing::subscriber::set_global_default(subscriber.finish());
}

impl<'a> MakeWriter<'a> for Fifo {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

struct Line<'a>(&'a File);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Full, or gone: the line is lost.
        let _ = self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
