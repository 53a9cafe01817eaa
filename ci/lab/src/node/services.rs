//! The daemons of a node: containerd and Godwit's agent. Started and stopped by hand, never restarted behind a test's back.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use godwit_types::names;

use super::Node;
use crate::error::{LabError, Result};
use crate::process::Recorded;
use crate::{command, wait};

/// For a daemon to serve or to end.
const PATIENCE: Duration = Duration::from_secs(60);
const CONTAINERD: &str = "containerd";
const AGENT: &str = "godwit-agent";

/// How to start the agent.
#[derive(Debug, Clone, Default)]
pub struct AgentOptions {
    /// Added to its environment: log levels, failpoints.
    pub env: Vec<(String, String)>,
}

impl Node {
    /// Starts containerd and waits until it answers. Does nothing when it runs.
    ///
    /// # Errors
    /// With the end of its log when it ends or does not serve in time.
    pub fn start_containerd(&self) -> Result<()> {
        self.start_service(CONTAINERD, "containerd", &[])?;
        self.wait_for_service(CONTAINERD, || self.ctr(&["--timeout", "5s", "version"]).map(drop))
    }

    /// Kills containerd; containers and shims go on.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill_containerd(&self) -> Result<()> {
        self.kill_service(CONTAINERD)
    }

    /// Process id of containerd inside the node.
    #[must_use]
    pub fn containerd_pid(&self) -> Option<u32> {
        self.service(CONTAINERD).map(|service| service.pid)
    }

    /// Starts the installed agent and waits until its socket answers. Does nothing when it runs.
    ///
    /// # Errors
    /// With the end of its log when it ends or does not serve in time.
    pub fn start_agent(&self, options: &AgentOptions) -> Result<()> {
        let line = format!("{AGENT} --config {}", names::AGENT_CONFIG);
        self.start_service(AGENT, &line, &options.env)?;
        self.wait_for_service(AGENT, || {
            let socket = self.host_path(names::AGENT_API_SOCKET)?;
            UnixStream::connect(&socket).map(drop).map_err(LabError::io("connecting to", &socket))
        })
    }

    /// Kills the agent with SIGKILL.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill_agent(&self) -> Result<()> {
        self.kill_service(AGENT)
    }

    /// Process id of the agent inside the node.
    #[must_use]
    pub fn agent_pid(&self) -> Option<u32> {
        self.service(AGENT).map(|service| service.pid)
    }

    /// What a daemon of the node, or its start, has logged: `containerd`, `godwit-agent` or `console`.
    ///
    /// # Errors
    /// When there is no such log.
    pub fn log(&self, what: &str) -> Result<String> {
        if what == "console" {
            return crate::places::read(&self.console());
        }
        crate::places::read(&self.dir.join("upper/var/log/lab").join(format!("{what}.log")))
    }

    /// Starts a daemon as child of the node's process 1 and records it; its log survives reboots, and is written by somebody
    /// else, as journald does: what a daemon writes to disk is its own.
    fn start_service(&self, name: &str, line: &str, env: &[(String, String)]) -> Result<()> {
        if self.service(name).is_some() {
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
        Recorded::of_in(&proc, pid).map_or_else(
            || Err(self.gone(name)),
            |service| service.store(&self.service_record(name)?),
        )
    }

    fn kill_service(&self, name: &str) -> Result<()> {
        let Some(service) = self.service(name) else { return Ok(()) };
        self.run(&["kill", "-KILL", &service.pid.to_string()])?;
        wait::until_true(&format!("{name} to end"), PATIENCE, || self.service(name).is_none())
    }

    fn service(&self, name: &str) -> Option<Recorded> {
        Recorded::load_in(&self.host_path("/proc").ok()?, &self.service_record(name).ok()?)
    }

    fn service_record(&self, name: &str) -> Result<PathBuf> {
        self.host_path(&format!("/run/lab/{name}.pid"))
    }

    /// Waits until `answers` succeeds; gives up at once when the daemon ends.
    fn wait_for_service(&self, name: &str, answers: impl Fn() -> Result<()>) -> Result<()> {
        let up = wait::until(&format!("{name} to answer"), PATIENCE, || {
            if self.service(name).is_none() {
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
