//! Where the output of a process goes.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fd::AsyncPipe;
use super::fifo::{self, FifoWriter};
use super::logger::{Logger, Program};
use super::{Owner, Stdio};
use crate::error::{Error, Result};
use crate::reaper::Reaper;

/// The destination of one output stream.
#[derive(Debug)]
pub enum Sink {
    /// A FIFO of containerd or of its client.
    Fifo(FifoWriter),
    /// A pipe into a logging program.
    Pipe(AsyncPipe),
    /// A file, appended to; stdout and stderr may share it.
    File(Arc<File>),
    /// Dropped.
    Nothing,
}

/// The destinations of one process; `None`: the stream was not asked for.
#[derive(Debug, Default)]
pub struct Sinks {
    /// For stdout, or for the terminal.
    pub stdout: Option<Sink>,
    /// For stderr.
    pub stderr: Option<Sink>,
    /// The program behind both, if it is one.
    pub logger: Option<Logger>,
}

#[derive(Debug, PartialEq, Eq)]
enum Destination {
    Path(PathBuf),
    File(PathBuf),
    Program(Program),
}

impl Sink {
    /// Writes everything.
    ///
    /// # Errors
    /// As the system call: the logger is gone, the disk is full.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Fifo(fifo) => fifo.pipe.write_all(bytes).await,
            Self::Pipe(pipe) => pipe.write_all(bytes).await,
            Self::File(file) => append(Arc::clone(file), bytes.to_vec()).await,
            Self::Nothing => Ok(()),
        }
    }
}

/// Opens the destinations. The scheme of stdout decides for both streams, as in containerd's runc shim.
///
/// # Errors
/// A path that cannot be opened, an unknown scheme, a logger that does not start.
pub async fn open(stdio: &Stdio, owner: &Owner, reaper: &Reaper) -> Result<Sinks> {
    let mut sinks = Sinks::default();
    match destination(&stdio.stdout)? {
        Some(Destination::Program(program)) => {
            let (logger, [stdout, stderr]) = Logger::start(&program, owner, reaper).await?;
            sinks.stdout = Some(Sink::Pipe(stdout));
            sinks.stderr = Some(Sink::Pipe(stderr));
            sinks.logger = Some(logger);
        }
        Some(Destination::File(path)) => {
            let file = Arc::new(create(&path)?);
            sinks.stdout = Some(Sink::File(Arc::clone(&file)));
            sinks.stderr = (!stdio.stderr.is_empty()).then_some(Sink::File(file));
        }
        Some(Destination::Path(path)) => {
            sinks.stdout = Some(open_path(&path).await?);
            sinks.stderr = open_stderr(stdio, sinks.stdout.as_ref()).await?;
        }
        None => sinks.stderr = open_stderr(stdio, None).await?,
    }
    if stdio.terminal {
        sinks.stderr = None;
    }
    Ok(sinks)
}

async fn open_stderr(stdio: &Stdio, stdout: Option<&Sink>) -> Result<Option<Sink>> {
    if stdio.stderr.is_empty() || stdio.terminal {
        return Ok(None);
    }
    match stdout {
        // One file for both streams is opened once: two offsets would overwrite each other.
        Some(Sink::File(file)) if stdio.stdout == stdio.stderr => {
            Ok(Some(Sink::File(Arc::clone(file))))
        }
        _ => open_path(Path::new(&stdio.stderr)).await.map(Some),
    }
}

async fn open_path(path: &Path) -> Result<Sink> {
    if fifo::is_fifo(path)? {
        fifo::open_writer(path).await.map(Sink::Fifo)
    } else {
        let attempt = format!("open {} for appending", path.display());
        let file = File::options().append(true).open(path).map_err(Error::io(attempt))?;
        Ok(Sink::File(Arc::new(file)))
    }
}

fn create(path: &Path) -> Result<File> {
    let attempt = || Error::io(format!("open log file {}", path.display()));
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(attempt())?;
    }
    File::options().append(true).create(true).open(path).map_err(attempt())
}

async fn append(file: Arc<File>, bytes: Vec<u8>) -> io::Result<()> {
    // A disk may be slow or hang; the shim must not.
    tokio::task::spawn_blocking(move || (&*file).write_all(&bytes)).await?
}

fn destination(text: &str) -> Result<Option<Destination>> {
    if text.is_empty() {
        return Ok(None);
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Ok(Some(Destination::Path(PathBuf::from(text))));
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = PathBuf::from(decode(path));
    match scheme {
        "fifo" => Ok(Some(Destination::Path(path))),
        "file" => Ok(Some(Destination::File(path))),
        "binary" => Ok(Some(Destination::Program(Program { path, args: arguments(query) }))),
        other => Err(Error::Invalid(format!(
            "stdout scheme {other:?} is not known; use a FIFO, file:// or binary://"
        ))),
    }
}

/// `k1=v1&k2` → `k1 v1 k2`: a logging program gets its query as arguments.
fn arguments(query: &str) -> Vec<String> {
    let mut args = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        args.push(decode(&key.replace('+', " ")));
        args.push(decode(&value.replace('+', " ")));
    }
    args
}

/// Undoes percent encoding; what is not encoded properly stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_paths_files_or_programs_with_arguments() {
        assert_eq!(destination("").unwrap(), None);
        assert_eq!(destination("/run/f").unwrap(), Some(Destination::Path("/run/f".into())));
        assert_eq!(
            destination("file:///var/log/a%20b").unwrap(),
            Some(Destination::File("/var/log/a b".into()))
        );
        let program = Program {
            path: "/bin/log".into(),
            args: ["id", "c 1", "v", ""].map(str::to_owned).to_vec(),
        };
        assert_eq!(
            destination("binary:///bin/log?id=c+1&v").unwrap(),
            Some(Destination::Program(program))
        );
        assert!(destination("http://x").is_err());
    }

    #[tokio::test]
    async fn stdout_and_stderr_may_share_a_file_that_did_not_exist() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/log");
        let uri = format!("file://{}", path.display());
        let stdio = Stdio { stdout: uri.clone(), stderr: uri, ..Default::default() };
        let owner = Owner { id: "c".into(), namespace: "n".into(), uid: 0, gid: 0 };
        let mut sinks = open(&stdio, &owner, &Reaper::new()).await.unwrap();
        sinks.stdout.as_mut().unwrap().write_all(b"a").await.unwrap();
        sinks.stderr.as_mut().unwrap().write_all(b"b").await.unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "ab");
    }
}
