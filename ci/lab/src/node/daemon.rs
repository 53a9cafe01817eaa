//! Starting and ending programs of a node that are to outlive who starts them.

use std::path::PathBuf;
use std::time::Duration;

use super::Node;
use crate::error::{LabError, Result};
use crate::process::Recorded;
use crate::{command, places, wait};

/// For a daemon to serve or to end, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

impl Node {
    /// What a daemon of the node, or its start, has logged: `containerd`, `godwit-agent`, `kubelet`, … or `console`.
    ///
    /// # Errors
    /// When there is no such log.
    pub fn log(&self, what: &str) -> Result<String> {
        if what == "console" {
            return places::read(&self.console());
        }
        places::read(&self.dir.join("upper/var/log/lab").join(format!("{what}.log")))
    }

    /// Starts a daemon as child of the node's process 1 and records it; its log survives reboots, and is written by somebody
    /// else, as journald does: what a daemon writes to disk is its own.
    pub(super) fn start_daemon(
        &self,
        name: &str,
        line: &str,
        env: &[(String, String)],
    ) -> Result<()> {
        if self.daemon(name).is_some() {
            return Ok(());
        }
        let start = format!(
            "mkdir -p /var/log/lab /run/lab; ulimit -n \"$(ulimit -Hn)\"; \
             setsid {line} > >(exec cat >>/var/log/lab/{name}.log 2>&1) 2>&1 </dev/null & echo $!"
        );
        let mut started = self.command(&["bash", "-c", &start])?;
        started.envs(env.iter().map(|(key, value)| (key, value)));
        let text = command::run(&mut started)?;
        let pid: u32 = text.trim().parse().unwrap_or_default();
        let proc = self.host_path("/proc")?;
        Recorded::of_in(&proc, pid)
            .map_or_else(|| Err(self.gone(name)), |daemon| daemon.store(&self.daemon_record(name)?))
    }

    pub(super) fn end_daemon(&self, name: &str, signal: &str) -> Result<()> {
        let Some(daemon) = self.daemon(name) else { return Ok(()) };
        self.run(&["kill", &format!("-{signal}"), &daemon.pid.to_string()])?;
        wait::until_true(&format!("{name} to end"), PATIENCE, || self.daemon(name).is_none())
    }

    pub(super) fn daemon(&self, name: &str) -> Option<Recorded> {
        Recorded::load_in(&self.host_path("/proc").ok()?, &self.daemon_record(name).ok()?)
    }

    fn daemon_record(&self, name: &str) -> Result<PathBuf> {
        self.host_path(&format!("/run/lab/{name}.pid"))
    }

    /// Waits until `answers` succeeds; gives up at once when the daemon ends.
    pub(super) fn wait_for_daemon(
        &self,
        name: &str,
        answers: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let up = wait::until(&format!("{name} to answer"), PATIENCE, || {
            if self.daemon(name).is_none() {
                return Ok(Err(self.gone(name)));
            }
            answers().map(Ok)
        });
        up.map_err(|late| self.failed(name, late))?
    }

    fn gone(&self, name: &str) -> LabError {
        self.failed(name, "it ended")
    }

    fn failed(&self, name: &str, why: impl ToString) -> LabError {
        let log = self.log(name).unwrap_or_default();
        LabError::Service {
            service: format!("{name} on node {}", self.name()),
            why: why.to_string(),
            log: command::tail(log.trim(), 3000).to_owned(),
        }
    }
}
