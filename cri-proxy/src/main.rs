//! `godwit-cri-proxy`: parses, takes its socket, serves until a signal.
//!
//! SIGTERM, SIGINT: ends ([`godwit_cri_proxy::server`]). SIGHUP: a successor takes over, this process ends with its last call.

use std::convert::Infallible;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser;
use godwit_cri_proxy::agent::Agent;
use godwit_cri_proxy::error::ProxyError;
use godwit_cri_proxy::handover::{self, Successor};
use godwit_cri_proxy::intercept::Intercept;
use godwit_cri_proxy::listener::listener;
use godwit_cri_proxy::notify::{self, State};
use godwit_cri_proxy::resources;
use godwit_cri_proxy::server::{self, Options, Order};
use godwit_types::names;
use tokio::process::Child;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

const AFTER_HELP: &str = "\
kubelet's containerRuntimeEndpoint is unix:///run/godwit/cri.sock; every call goes on to containerd as it is. A socket inherited from \
systemd (godwit-cri-proxy.socket) goes before --listen.

SIGHUP: the program at the same path takes over, this process ends with its last call; no call fails. SIGTERM, SIGINT: ends in a \
moment without calls, within 20 seconds; the second one ends it sooner. GODWIT_LOG=debug: more words

Exit codes: 0 told to end · 1 it cannot serve · 2 wrong usage · 3 a successor serves";

/// The wire between kubelet and containerd
#[derive(Debug, Parser)]
#[command(version, about, after_help = AFTER_HELP)]
struct Arguments {
    /// Where calls go
    #[arg(long, value_name = "SOCKET", default_value = names::CONTAINERD_SOCKET)]
    containerd: PathBuf,
    /// Who is asked about calls that concern pods' memory; while it is away they pass
    #[arg(long, value_name = "SOCKET", default_value = names::AGENT_API_SOCKET)]
    agent: PathBuf,
    /// Serve this socket where none is inherited; root's alone, as /run/godwit/cri.sock
    #[arg(long, value_name = "SOCKET")]
    listen: Option<PathBuf>,
}

/// How a process ends whose successor serves. One that was told to end, and whoever does not get so far, ends otherwise.
const FOLLOWED: u8 = 3;

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("GODWIT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let successor = Successor::of_this_process().context("which program is this?")?;
    resources::make_room();
    let socket = listener(arguments.listen.as_deref())?;
    // One thread: a call goes through it twice, and no other has to be woken.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let agent: Arc<dyn Intercept> = Arc::new(Agent::new(arguments.agent, &arguments.containerd));
    let options = Options { containerd: arguments.containerd, intercept: Some(agent) };
    Ok(match runtime.block_on(run(socket, options, successor))? {
        Order::Stop => ExitCode::SUCCESS,
        Order::HandedOver => ExitCode::from(FOLLOWED),
    })
}

async fn run(
    socket: UnixListener,
    options: Options,
    successor: Successor,
) -> Result<Order, ProxyError> {
    let served = socket
        .try_clone()
        .and_then(tokio::net::UnixListener::from_std)
        .map_err(ProxyError::Inherited)?;
    let signals = Signals::new().map_err(ProxyError::Signals)?;
    let (orders, ordered) = mpsc::channel(4);
    tracing::info!(
        containerd = %options.containerd.display(),
        version = env!("CARGO_PKG_VERSION"),
        "serving"
    );
    notify::tell(State::Ready);
    handover::tell_predecessor();
    tokio::select! {
        last = server::serve(served, options, ordered) => Ok(last),
        never = signals.obey(&orders, &socket, &successor) => match never {},
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Turns signals into orders, for ever.
    async fn obey(
        mut self,
        orders: &mpsc::Sender<Order>,
        socket: &UnixListener,
        successor: &Successor,
    ) -> Infallible {
        let mut heir: Option<Child> = None;
        let mut serves = true;
        loop {
            let order = tokio::select! {
                () = told_to_end(&mut self.terminate, &mut self.interrupt) => Some(Order::Stop),
                _ = self.hang_up.recv() => match serves {
                    true => tokio::select! {
                        started = successor.start(socket) => take_over(started, &mut heir),
                        () = told_to_end(&mut self.terminate, &mut self.interrupt) => Some(Order::Stop),
                    },
                    false => {
                        tracing::warn!("a hand-over was asked for, of a process that serves no more");
                        None
                    }
                },
                is_lost = ended(&mut heir) => is_lost.then_some(Order::Stop),
            };
            if let Some(order) = order {
                serves = false;
                // It fails when the server has ended, and with it this.
                let _ = orders.send(order).await;
            }
        }
    }
}

async fn told_to_end(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn take_over(started: Result<Child, ProxyError>, heir: &mut Option<Child>) -> Option<Order> {
    match started {
        Ok(child) => {
            tracing::info!(pid = child.id(), "a successor serves; ending with the last call");
            if let Some(id) = child.id() {
                notify::tell(State::MainProcess(id));
            }
            *heir = Some(child);
            Some(Order::HandedOver)
        }
        Err(error) => {
            tracing::error!("{:#}; this process goes on", anyhow::Error::from(error));
            None
        }
    }
}

/// Until the successor ends; whether nobody has followed it. Then we end, too: systemd, whose child it becomes by that, starts another one.
async fn ended(heir: &mut Option<Child>) -> bool {
    let Some(child) = heir else { return std::future::pending().await };
    let status = child.wait().await;
    *heir = None;
    let is_lost = !status.as_ref().is_ok_and(|status| status.code() == Some(FOLLOWED.into()));
    tracing::info!(?status, is_lost, "the successor has ended");
    is_lost
}
