//! The daemons of a node. Started and stopped by hand, never restarted behind a test's back; but for the CRI proxy, which is on a socket
//! of systemd's with users, and without systemd would be something else.

use std::os::unix::net::UnixStream;

use godwit_types::names;

use super::{Node, Role};
use crate::error::{LabError, Result};

/// What stands for systemd to the CRI proxy.
const SOCKET_UNIT: &str = "/run/lab/socket_unit.pl";
/// Where the installer puts it.
const PROXY: &str = "/usr/local/bin/godwit-cri-proxy";

/// A daemon of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// containerd.
    Containerd,
    /// Godwit's agent.
    Agent,
    /// Godwit's CRI proxy. Its socket is somebody else's, who starts it again 100 ms after it has ended.
    CriProxy,
    /// The kubelet, on workers.
    Kubelet,
    /// kube-proxy, on workers.
    KubeProxy,
    /// etcd, where a control plane is.
    Etcd,
    /// The API server, where a control plane is.
    ApiServer,
    /// The controller manager, where a control plane is.
    ControllerManager,
    /// The scheduler, where a control plane is.
    Scheduler,
}

/// How to start the agent.
#[derive(Debug, Clone, Default)]
pub struct AgentOptions {
    /// Added to its environment: log levels, failpoints.
    pub env: Vec<(String, String)>,
}

impl Service {
    /// Its name, as of its program and of its log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Agent => "godwit-agent",
            Self::CriProxy => "godwit-cri-proxy",
            Self::Kubelet => "kubelet",
            Self::KubeProxy => "kube-proxy",
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
        }
    }

    /// Where it tells whether it is well, for who asks from its own node.
    fn health(self) -> Option<&'static str> {
        match self {
            Self::Containerd | Self::Agent | Self::CriProxy => None,
            Self::Kubelet => Some("http://127.0.0.1:10248/healthz"),
            // It is ready only with an API server.
            Self::KubeProxy => Some("http://127.0.0.1:10256/livez"),
            Self::Etcd => Some("http://127.0.0.1:2379/health"),
            Self::ApiServer => Some("https://127.0.0.1:6443/readyz"),
            Self::ControllerManager => Some("https://127.0.0.1:10257/healthz"),
            Self::Scheduler => Some("https://127.0.0.1:10259/healthz"),
        }
    }
}

impl Node {
    /// Starts a daemon and waits until it serves. Does nothing when it runs.
    ///
    /// # Errors
    /// [`LabError::Refused`] for one that this node has not; with the end of its log when it ends or does not serve in time.
    pub fn start(&self, service: Service) -> Result<()> {
        self.start_all(&[service])
    }

    /// Starts daemons together and waits until all serve.
    pub(super) fn start_all(&self, services: &[Service]) -> Result<()> {
        for &service in services {
            self.launch(service, &[])?;
        }
        services.iter().try_for_each(|&service| self.wait_for(service))
    }

    /// Asks a daemon to end (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&self, service: Service) -> Result<()> {
        self.end_daemon(service.name(), "TERM")
    }

    /// Kills a daemon (SIGKILL). Containers and shims go on without theirs; the CRI proxy is there again 100 ms later.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill(&self, service: Service) -> Result<()> {
        match (service, self.pid_of(service)) {
            (Service::CriProxy, None) => Ok(()),
            (Service::CriProxy, Some(unit)) => {
                self.sh(&format!("pkill -KILL --parent {unit} godwit-cri || true")).map(drop)
            }
            _ => self.end_daemon(service.name(), "KILL"),
        }
    }

    /// Has the CRI proxy that is installed now take over from the one that runs; no call fails.
    ///
    /// # Errors
    /// The node is off.
    pub fn reload_cri_proxy(&self) -> Result<()> {
        match self.pid_of(Service::CriProxy) {
            Some(unit) => self.run(&["kill", "-HUP", &unit.to_string()]).map(drop),
            None => Ok(()),
        }
    }

    /// Whether one of the daemons that come up with the node is there to come up: the CRI proxy is installed.
    pub(super) fn has(&self, service: Service) -> bool {
        // A link, which leads somewhere only inside.
        service != Service::CriProxy
            || self.host_path(PROXY).is_ok_and(|program| program.symlink_metadata().is_ok())
    }

    /// Process id of a daemon inside the node, or of what stands for systemd to the CRI proxy; `None` when it does not run.
    #[must_use]
    pub fn pid_of(&self, service: Service) -> Option<u32> {
        self.daemon(service.name()).map(|daemon| daemon.pid)
    }

    /// Starts containerd and waits until it answers. Does nothing when it runs.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_containerd(&self) -> Result<()> {
        self.start(Service::Containerd)
    }

    /// Kills containerd; containers and shims go on.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill_containerd(&self) -> Result<()> {
        self.kill(Service::Containerd)
    }

    /// Process id of containerd inside the node.
    #[must_use]
    pub fn containerd_pid(&self) -> Option<u32> {
        self.pid_of(Service::Containerd)
    }

    /// Starts the installed agent and waits until its socket answers. Does nothing when it runs.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_agent(&self, options: &AgentOptions) -> Result<()> {
        self.launch(Service::Agent, &options.env)?;
        self.wait_for(Service::Agent)
    }

    /// Kills the agent with SIGKILL.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill_agent(&self) -> Result<()> {
        self.kill(Service::Agent)
    }

    /// Process id of the agent inside the node.
    #[must_use]
    pub fn agent_pid(&self) -> Option<u32> {
        self.pid_of(Service::Agent)
    }

    fn launch(&self, service: Service, env: &[(String, String)]) -> Result<()> {
        if service == Service::CriProxy {
            self.write_file(SOCKET_UNIT, include_str!("socket_unit.pl"))?;
        }
        self.start_daemon(service.name(), &self.line(service)?, env)
    }

    fn line(&self, service: Service) -> Result<String> {
        match service {
            // Started by systemd it has this, too, and so has all that it starts.
            Service::Containerd => {
                Ok("env NOTIFY_SOCKET=/run/systemd/notify containerd".to_owned())
            }
            Service::Agent => Ok(format!("{} --config {}", service.name(), names::AGENT_CONFIG)),
            Service::CriProxy => Ok(format!("perl {SOCKET_UNIT} {} {PROXY}", names::CRI_SOCKET)),
            _ => self.line_of_cluster(service).ok_or_else(|| {
                LabError::Refused(format!("node {} has no {}", self.name(), service.name()))
            }),
        }
    }

    fn wait_for(&self, service: Service) -> Result<()> {
        self.wait_for_daemon(service.name(), || match service {
            Service::Containerd if matches!(self.role(), Role::Worker(..)) => {
                // Its CRI comes last, and a kubelet that comes before that ends.
                self.run(&["crictl", "version"]).map(drop)
            }
            Service::Containerd => self.ctr(&["--timeout", "5s", "version"]).map(drop),
            Service::Agent => {
                let socket = self.host_path(names::AGENT_API_SOCKET)?;
                let answer = UnixStream::connect(&socket).map(drop);
                answer.map_err(LabError::io("connecting to", &socket))
            }
            Service::CriProxy => {
                let socket = self.host_path(names::CRI_SOCKET)?;
                let answer = UnixStream::connect(&socket).map(drop);
                answer.map_err(LabError::io("connecting to", &socket))
            }
            _ => {
                let asked = service.health().unwrap_or_default();
                // Several looks in one entry into the node: most services take a second to serve.
                self.sh(&format!(
                    "for n in {{1..20}}; do curl --silent --fail --insecure --max-time 5 {asked} && exit; sleep 0.1; done
                     exec curl --silent --show-error --fail --insecure --max-time 5 {asked}"
                ))
                .map(drop)
            }
        })
    }
}
