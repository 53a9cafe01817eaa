//! Running commands inside a node, from the host.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use rustix::process::{Pid, Signal};

use super::Node;
use crate::command::{output, run};
use crate::error::{LabError, Result};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Node {
    /// A command inside the node: all its namespaces, its control groups, a clean environment, directory `/`.
    /// Standard input and output are as the caller sets them. The command is killed when whoever waits for it dies.
    ///
    /// # Errors
    /// [`LabError::Missing`] when the node is powered off, [`LabError::Refused`] for no words.
    pub fn command(&self, words: &[&str]) -> Result<Command> {
        if words.is_empty() {
            return Err(LabError::Refused("no command was given to run in the node".to_owned()));
        }
        let init = self.init_pid()?.to_string();
        let mut command = self.groups.command(false, "nsenter");
        command
            .args(["--target", &init, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"])
            .args(["--", "setpriv", "--pdeathsig", "KILL", "--"])
            .args(words)
            .env_clear()
            .envs([("PATH", PATH), ("HOME", "/root"), ("LANG", "C.UTF-8")]);
        Ok(command)
    }

    /// Runs a command to its end and returns all it printed, whatever its exit status.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn exec(&self, words: &[&str]) -> Result<Output> {
        output(&mut self.command(words)?)
    }

    /// Runs a command that has to succeed and returns its standard output.
    ///
    /// # Errors
    /// [`LabError::Failed`] with what it printed.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        run(&mut self.command(words)?)
    }

    /// Runs a line of bash that has to succeed and returns its standard output.
    ///
    /// # Errors
    /// [`LabError::Failed`] with what it printed.
    pub fn sh(&self, line: &str) -> Result<String> {
        self.run(&["bash", "-euo", "pipefail", "-c", line])
    }

    /// Runs `ctr` with these arguments in namespace `default`; it has to succeed.
    ///
    /// # Errors
    /// [`LabError::Failed`] with what it printed.
    pub fn ctr(&self, arguments: &[&str]) -> Result<String> {
        let mut words = vec!["ctr"];
        words.extend(arguments);
        self.run(&words)
    }

    /// Starts a command with pipes for standard input, output and error.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, words: &[&str]) -> Result<Spawned> {
        let child = self
            .command(words)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|source| LabError::Start { program: words.join(" "), source })?;
        Ok(Spawned { child })
    }
}

/// A command that runs in a node, the leader of a process group; all of the group are killed when it is dropped.
#[derive(Debug)]
pub struct Spawned {
    child: Child,
}

impl Spawned {
    /// The command, to take its pipes or ask for its status.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Kills the command and returns how it ended.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(mut self) -> std::io::Result<ExitStatus> {
        self.end()
    }

    /// Whoever is killed before it has asked to be told of its parent's death outlives its parent: its group is killed.
    fn end(&mut self) -> std::io::Result<ExitStatus> {
        if let Some(ended) = self.child.try_wait()? {
            return Ok(ended);
        }
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            rustix::process::kill_process_group(group, Signal::KILL)?;
        }
        self.child.wait()
    }

    /// Waits for the end and returns what was printed and not yet read.
    ///
    /// # Errors
    /// When the pipes cannot be read.
    pub fn wait_with_output(mut self) -> std::io::Result<Output> {
        use std::io::Read;
        drop(self.child.stdin.take());
        let errors = self.child.stderr.take();
        let reader = std::thread::spawn(move || {
            let mut text = vec![];
            errors.map(|mut pipe| pipe.read_to_end(&mut text)).transpose().map(|_| text)
        });
        let mut stdout = vec![];
        if let Some(mut pipe) = self.child.stdout.take() {
            pipe.read_to_end(&mut stdout)?;
        }
        let stderr = reader.join().unwrap_or_else(|_| Ok(vec![]))?;
        Ok(Output { status: self.child.wait()?, stdout, stderr })
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        // It fails only for what is no child any more.
        let _ = self.end();
    }
}
