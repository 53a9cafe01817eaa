//! One run of runc.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::pipe::{PipeFlags, pipe_with};

use super::Streams;
use super::log;
use crate::error::{Error, Result};
use crate::io::fd::AsyncPipe;
use crate::reaper::{Child, Exit, Reaper};
use crate::sys;

/// What is kept of the output of a failed run: enough for a sentence.
const OUTPUT_LIMIT: usize = 16 << 10;

/// Where programs are when the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where systemd waits to hear that containerd is up. runc would take it for the container's, and `runc start` wait until that says
/// that it is up (`notify_socket.go`).
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// Numbers the log files of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A run of runc that is being put together.
#[derive(Debug)]
pub(super) struct Call {
    verb: &'static str,
    binary: String,
    globals: Vec<OsString>,
    options: Vec<OsString>,
    container: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    bundle: PathBuf,
    log: PathBuf,
    reaper: Reaper,
    dies_with_shim: bool,
}

impl Call {
    pub(super) fn new(
        binary: &str,
        verb: &'static str,
        bundle: &Path,
        globals: Vec<OsString>,
        reaper: Reaper,
    ) -> Self {
        // A file per run: the last error in a shared one may be somebody else's.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let log = bundle.join(format!("runc-{verb}-{number}.json"));
        Self {
            verb,
            binary: binary.to_owned(),
            globals,
            options: Vec::new(),
            container: Vec::new(),
            env: Vec::new(),
            bundle: bundle.to_owned(),
            log,
            reaper,
            dies_with_shim: true,
        }
    }

    pub(super) fn option(mut self, option: impl Into<OsString>) -> Self {
        self.options.push(option.into());
        self
    }

    pub(super) fn value(self, option: &str, value: impl AsRef<OsStr>) -> Self {
        self.option(option).option(value.as_ref())
    }

    pub(super) fn option_if(self, wanted: bool, option: &str) -> Self {
        if wanted { self.option(option) } else { self }
    }

    pub(super) fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    pub(super) fn path_first(self, dir: Option<&Path>) -> Self {
        let Some(dir) = dir else { return self };
        let mut path = dir.as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()));
        self.env("PATH", path)
    }

    /// The container, and what runc wants after it.
    pub(super) fn on(mut self, id: &str, rest: &[&str]) -> Self {
        self.container.push(id.into());
        self.container.extend(rest.iter().map(OsString::from));
        self
    }

    pub(super) fn outlives_shim(mut self, outlives: bool) -> Self {
        self.dies_with_shim = !outlives;
        self
    }

    /// Runs it with the streams of the process that it makes.
    pub(super) async fn run(self, streams: Streams<'_>) -> Result<()> {
        if let Some(socket) = streams.console {
            return self.value("--console-socket", socket).run_quiet().await;
        }
        let mut command = self.command();
        command.stdin(stream(streams.ends.stdin));
        command.stdout(stream(streams.ends.stdout));
        command.stderr(stream(streams.ends.stderr));
        let child = self.spawn(command)?;
        self.conclude(child.wait().await, &[])
    }

    /// Runs it with its own output kept for the sentence of a failure.
    pub(super) async fn run_quiet(self) -> Result<()> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(Error::io("make a pipe"))?;
        let second = write.try_clone().map_err(Error::io("copy a pipe"))?;
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(write).stderr(second);
        let child = self.spawn(command)?;
        let pipe = AsyncPipe::new(read)?;
        let mut output = Vec::new();
        let exit = collect(&pipe, &mut output, child.wait()).await;
        self.conclude(exit, &output)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(&self.globals).arg("--log").arg(&self.log).args(["--log-format", "json"]);
        command.arg(self.verb).args(&self.options).args(&self.container);
        command.env_remove(NOTIFY_SOCKET).envs(self.env.iter().map(|(key, value)| (key, value)));
        // Where programs that stand in for runc look for `config.json`. After a deletion there may be none.
        if self.bundle.is_dir() {
            command.current_dir(&self.bundle);
        }
        command
    }

    /// Consumes the command: its ends of the pipes are closed here, so that only the process holds them.
    fn spawn(&self, mut command: Command) -> Result<Child> {
        if self.dies_with_shim {
            sys::die_with_parent(&mut command);
        }
        self.reaper.spawn(&mut command).map_err(Error::io(format!("start {}", self.binary)))
    }

    fn conclude(&self, exit: Exit, output: &[u8]) -> Result<()> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        // Only needed here; the bundle may be gone with it.
        let _ = std::fs::remove_file(&self.log);
        if exit.status == 0 {
            return Ok(());
        }
        let output = log::one_line(&String::from_utf8_lossy(output));
        let said = log::last_error(&log)
            .or_else(|| Some(output).filter(|text| !text.is_empty()))
            .unwrap_or_else(|| format!("exit status {}", exit.status));
        Err(Error::Runtime { verb: self.verb, said })
    }
}

fn stream(end: Option<OwnedFd>) -> Stdio {
    end.map_or_else(Stdio::null, Stdio::from)
}

/// Reads the output while waiting; a grandchild that keeps the pipe is not waited for.
async fn collect(pipe: &AsyncPipe, output: &mut Vec<u8>, exit: impl Future<Output = Exit>) -> Exit {
    let mut exit = std::pin::pin!(exit);
    let mut buffer = [0; 4096];
    let mut open = true;
    let exit = loop {
        tokio::select! {
            exit = &mut exit => break exit,
            read = pipe.read(&mut buffer), if open => match read {
                Ok(n) if n > 0 => keep(output, &buffer, n),
                _ => open = false,
            }
        }
    };
    while let Ok(Some(n)) = pipe.try_read(&mut buffer) {
        if n == 0 || output.len() >= OUTPUT_LIMIT {
            break;
        }
        keep(output, &buffer, n);
    }
    exit
}

fn keep(output: &mut Vec<u8>, buffer: &[u8], n: usize) {
    let room = OUTPUT_LIMIT.saturating_sub(output.len());
    output.extend_from_slice(buffer.get(..n.min(room)).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runc_is_not_told_where_systemd_waits_for_containerd() {
        let call = Call::new("runc", "start", Path::new("/"), vec![], Reaper::new());
        let command = call.env("OTHER", "1").command();
        let env: Vec<_> = command.get_envs().collect();
        assert!(env.contains(&(OsStr::new(NOTIFY_SOCKET), None)), "{env:?}");
        assert!(env.contains(&(OsStr::new("OTHER"), Some(OsStr::new("1")))), "{env:?}");
    }
}
