//! The command line of runc (or crun): what it is told, and its log turned into one sentence.

mod command;
pub mod log;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::io::ChildEnds;
use crate::options::Options;
use crate::reaper::Reaper;
use command::Call;

/// One container's runc.
#[derive(Debug, Clone)]
pub struct Runc {
    binary: String,
    root: PathBuf,
    bundle: PathBuf,
    id: String,
    systemd_cgroup: bool,
    no_pivot_root: bool,
    no_new_keyring: bool,
    reaper: Reaper,
}

/// Streams of a process that runc makes.
#[derive(Debug, Default)]
pub struct Streams<'a> {
    /// Pipes; absent ones become /dev/null.
    pub ends: ChildEnds,
    /// Where to send the terminal, instead of pipes.
    pub console: Option<&'a Path>,
}

/// What `runc checkpoint` is told.
#[derive(Debug, Clone, Default)]
pub struct Checkpoint {
    /// Directory for the images.
    pub images: PathBuf,
    /// CRIU's working directory, for its log.
    pub work: PathBuf,
    /// Keep it running.
    pub leave_running: bool,
    /// Established TCP connections are allowed.
    pub open_tcp: bool,
    /// Unix sockets with a peer outside are allowed.
    pub external_unix_sockets: bool,
    /// A terminal is allowed.
    pub terminal: bool,
    /// File locks are allowed.
    pub file_locks: bool,
    /// Namespaces to make anew, without their properties.
    pub empty_namespaces: Vec<String>,
    /// How cgroups are handled (`soft`, `full`, `strict`, `ignore`).
    pub cgroups_mode: String,
}

/// What `runc restore` is told.
#[derive(Debug, Clone, Default)]
pub struct Restore {
    /// Directory of the images.
    pub images: PathBuf,
    /// CRIU's working directory, for its log.
    pub work: PathBuf,
    /// Let a handler of page faults bring the memory.
    pub lazy_pages: bool,
    /// Searched for `criu` before everything else.
    pub path_first: Option<PathBuf>,
    /// Environment for runc and thereby for `criu`.
    pub env: Vec<(OsString, OsString)>,
    /// Do not kill runc when the shim ends: it would leave mounts.
    pub outlives_shim: bool,
}

impl Runc {
    /// The runc of a container.
    #[must_use]
    pub fn new(
        options: &Options,
        namespace: &str,
        id: &str,
        bundle: &Path,
        reaper: &Reaper,
    ) -> Self {
        Self {
            binary: options.binary().to_owned(),
            root: options.runc_root(namespace),
            bundle: bundle.to_owned(),
            id: id.to_owned(),
            systemd_cgroup: options.systemd_cgroup,
            no_pivot_root: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            reaper: reaper.clone(),
        }
    }

    /// Makes the container; its init waits for [`Runc::start`].
    ///
    /// # Errors
    /// runc's own sentence.
    pub async fn create(&self, pid_file: &Path, streams: Streams<'_>) -> Result<()> {
        let call = self.call("create").value("--bundle", &self.bundle);
        let call = call.value("--pid-file", pid_file).option_if(self.no_pivot_root, "--no-pivot");
        let call = call.option_if(self.no_new_keyring, "--no-new-keyring");
        call.on(&self.id, &[]).run(streams).await
    }

    /// Lets the created container run.
    ///
    /// # Errors
    /// runc's own sentence.
    pub async fn start(&self) -> Result<()> {
        self.quiet("start").await
    }

    /// Executes a process described by an OCI process document.
    ///
    /// # Errors
    /// runc's own sentence.
    pub async fn exec(&self, document: &Path, pid_file: &Path, streams: Streams<'_>) -> Result<()> {
        let call = self.call("exec").value("--process", document).option("--detach");
        call.value("--pid-file", pid_file).on(&self.id, &[]).run(streams).await
    }

    /// Sends a signal to the init process, or to all.
    ///
    /// # Errors
    /// `NotFound` if it is over already; else runc's own sentence.
    pub async fn kill(&self, signal: u32, all: bool) -> Result<()> {
        let call = self.call("kill").option_if(all, "--all");
        call.on(&self.id, &[&signal.to_string()]).run_quiet().await.map_err(kill_error)
    }

    /// Deletes what runc knows of the container. A container that runc does not know is fine.
    ///
    /// # Errors
    /// runc's own sentence.
    pub async fn delete(&self, force: bool) -> Result<()> {
        let call = self.call("delete").option_if(force, "--force");
        match call.on(&self.id, &[]).run_quiet().await {
            Err(Error::Runtime { said, .. }) if said.contains("does not exist") => Ok(()),
            other => other,
        }
    }

    /// Freezes it.
    ///
    /// # Errors
    /// runc's own sentence.
    pub async fn pause(&self) -> Result<()> {
        self.quiet("pause").await
    }

    /// Thaws it.
    ///
    /// # Errors
    /// runc's own sentence.
    pub async fn resume(&self) -> Result<()> {
        self.quiet("resume").await
    }

    /// Changes its limits; `resources` is a file with an OCI `LinuxResources` document.
    ///
    /// # Errors
    /// runc's own sentence.
    pub async fn update(&self, resources: &Path) -> Result<()> {
        let call = self.call("update").value("--resources", resources);
        call.on(&self.id, &[]).run_quiet().await
    }

    /// Writes CRIU images into a directory.
    ///
    /// # Errors
    /// runc's own sentence.
    pub async fn checkpoint(&self, what: &Checkpoint) -> Result<()> {
        let mut call = self
            .call("checkpoint")
            .value("--image-path", &what.images)
            .value("--work-path", &what.work)
            .option_if(what.open_tcp, "--tcp-established")
            .option_if(what.external_unix_sockets, "--ext-unix-sk")
            .option_if(what.terminal, "--shell-job")
            .option_if(what.file_locks, "--file-locks")
            .option_if(what.leave_running, "--leave-running");
        for namespace in &what.empty_namespaces {
            call = call.value("--empty-ns", namespace);
        }
        if !what.cgroups_mode.is_empty() {
            call = call.value("--manage-cgroups-mode", &what.cgroups_mode);
        }
        call.on(&self.id, &[]).run_quiet().await
    }

    /// Makes the container from CRIU images; on return it runs (or, with our relay, was released).
    ///
    /// # Errors
    /// runc's own sentence. This does *not* prove that nothing of it runs.
    pub async fn restore(
        &self,
        what: &Restore,
        pid_file: &Path,
        streams: Streams<'_>,
    ) -> Result<()> {
        let mut call = self
            .call("restore")
            .value("--bundle", &self.bundle)
            .option("--detach")
            .option("--no-subreaper")
            .value("--pid-file", pid_file)
            .value("--image-path", &what.images)
            .value("--work-path", &what.work)
            .option_if(what.lazy_pages, "--lazy-pages")
            .option_if(self.no_pivot_root, "--no-pivot")
            .path_first(what.path_first.as_deref())
            .outlives_shim(what.outlives_shim);
        for (key, value) in &what.env {
            call = call.env(key, value);
        }
        call.on(&self.id, &[]).run(streams).await
    }

    /// runc's own directory of the container's state.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.root.join(&self.id)
    }

    async fn quiet(&self, verb: &'static str) -> Result<()> {
        self.call(verb).on(&self.id, &[]).run_quiet().await
    }

    fn call(&self, verb: &'static str) -> Call {
        let mut globals = vec![OsString::from("--root"), self.root.clone().into_os_string()];
        if self.systemd_cgroup {
            globals.push("--systemd-cgroup".into());
        }
        Call::new(&self.binary, verb, &self.bundle, globals, self.reaper.clone())
    }
}

/// runc's ways to say that the process is over already.
fn kill_error(error: Error) -> Error {
    let over =
        ["process already finished", "container not running", "no such process", "does not exist"];
    match &error {
        Error::Runtime { said, .. } => {
            let said = said.to_lowercase();
            if over.iter().any(|words| said.contains(words)) {
                return Error::NotFound("process already finished".into());
            }
            error
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_of_something_finished_is_not_found() {
        let said = |text: &str| Error::Runtime { verb: "kill", said: text.into() };
        assert!(matches!(kill_error(said("container not running")), Error::NotFound(_)));
        assert!(matches!(kill_error(said("permission denied")), Error::Runtime { .. }));
    }
}
