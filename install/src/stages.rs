//! The order of things: install and revert as flat lists, each the mirror of the other.

use std::path::Path;
use std::process::Command;

use godwit_types::names;

use crate::check::{Verdict, findings};
use crate::containerd::Loaded;
use crate::containerd::client::Container;
use crate::containerd::daemon::Daemon;
use crate::host::{Containerd, Host};
use crate::process::{output, running_below, wait_for};
use crate::record::Stage;
use crate::session::Session;
use crate::settings::{InitKind, Settings};
use crate::{Error, Result, agent, containerd, kubelet, programs, proxy, systemd};

/// For an agent that was started to answer.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// What a person does whose agent cannot.
const TAKE_OFF: &str = "`kubectl label node NAME godwit.dev/ready-` takes the node's label off";

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// All is done.
    Done,
    /// All that this program can do is done; the rest is somebody else's.
    LeftToYou(Vec<String>),
}

/// The host check alone.
///
/// # Errors
/// The node is not ready; why has been printed.
pub fn check(settings: &Settings) -> Result<()> {
    checked(settings).map(drop)
}

/// Installs a release, or brings the node to another one.
///
/// # Errors
/// A stage fails. What was done before stays, containers can be started, and the same command goes on where it was.
pub fn install(settings: &Settings) -> Result<Ending> {
    let host = checked(settings)?;
    let (Ok(release), Ok(containerd)) = (&host.release, &host.containerd) else {
        return Err(Error::NotReady(1));
    };
    let daemon = &containerd.daemon;
    let mut session = Session::open(settings)?;
    containerd::rehearse(&mut session, daemon)?;
    programs::install(&mut session, release)?;
    agent::configure(&mut session, &host.criu)?;
    containerd::configure(&mut session, daemon)?;
    if settings.init() == InitKind::Systemd {
        systemd::install(&mut session)?;
        systemd::start(&mut session)?;
        proxy::install(&mut session)?;
        proxy::start(&mut session)?;
    }
    containerd::load(&mut session, daemon)?;
    verify(&mut session, daemon)?;
    kubelet::point(&mut session)?;
    programs::prune(&mut session)?;
    Ok(ending(session))
}

/// Takes Godwit off the node.
///
/// # Errors
/// It is in use, or a stage fails; the same command goes on where it was.
pub fn revert(settings: &Settings) -> Result<Ending> {
    let mut session = Session::open(settings)?;
    let look = || Daemon::find(settings).and_then(|d| Containerd::look(settings, d));
    let daemon = match look() {
        Ok(containerd) => {
            refuse_in_use(settings, &containerd.containers)?;
            take_no_pods(&mut session);
            // One that was on its way may be here now.
            let again = look().and_then(|now| refuse_in_use(settings, &now.containers));
            if let Err(why) = again {
                take_pods(&mut session, true);
                return Err(why);
            }
            Some(containerd.daemon)
        }
        Err(_) if settings.force => {
            take_no_pods(&mut session);
            None
        }
        Err(why) => return Err(why),
    };
    // First: whatever happens afterwards, the kubelet has a runtime.
    kubelet::revert(&mut session)?;
    proxy::revert(&mut session)?;
    if settings.init() == InitKind::Systemd {
        systemd::revert(&mut session)?;
    } else if agent::pid(Path::new(names::AGENT_API_SOCKET)).is_some() {
        session.left.push("stop godwit-agent".to_owned());
    }
    containerd::revert(&mut session, daemon.as_ref())?;
    let users = running_below(&settings.prefix.join("releases"));
    let users: Vec<_> = users.iter().filter(|(_, exe)| is_needed(exe)).collect();
    if users.is_empty() {
        programs::revert(&mut session)?;
    } else {
        session.left.push(format!(
            "{} processes of containers or of the CRI proxy use the programs, which stay until then: run this command again when they are \
             gone",
            users.len()
        ));
    }
    if settings.purge {
        match users.is_empty() && session.left.is_empty() {
            true => purge(&mut session)?,
            // The CRI proxy's socket, fences and sockets of containers that run.
            false => {
                session.left.push("nothing was purged yet: run this command again then".to_owned())
            }
        }
    }
    if users.is_empty() && session.left.is_empty() && !settings.dry_run {
        let left = std::mem::take(&mut session.left);
        session.book.close()?;
        return Ok(if left.is_empty() { Ending::Done } else { Ending::LeftToYou(left) });
    }
    Ok(ending(session))
}

fn ending(session: Session) -> Ending {
    match session.left.is_empty() {
        true => Ending::Done,
        false => Ending::LeftToYou(session.left),
    }
}

/// Looks at the node and prints what was found.
fn checked(settings: &Settings) -> Result<Host> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::Refused("this needs root: run it with sudo".to_owned()));
    }
    let host = Host::look(settings);
    let findings = findings(&host);
    for finding in &findings {
        let (mark, text) = match &finding.verdict {
            Verdict::Good(text) => ("ok", text),
            Verdict::Limited(text) => ("limited", text),
            Verdict::Bad(text) => ("FAILED", text),
            Verdict::Unknown(text) => ("unknown", text),
        };
        println!("check         {mark:8} {}: {text}", finding.subject);
    }
    let is_bad = |verdict: &Verdict| matches!(verdict, Verdict::Bad(_));
    match findings.iter().filter(|finding| is_bad(&finding.verdict)).count() {
        0 => Ok(host),
        bad => Err(Error::NotReady(bad)),
    }
}

/// What is loaded and runs, not what was written.
fn verify(session: &mut Session, daemon: &Daemon) -> Result<()> {
    if session.settings.dry_run {
        return Ok(());
    }
    let shim = Path::new(programs::BIN).join(programs::SHIM);
    let told = output(Command::new(&shim).arg("-info"))?;
    if !told.windows(names::RUNTIME.len()).any(|bytes| bytes == names::RUNTIME.as_bytes()) {
        return Err(Error::Refused(format!(
            "{} does not say that it is {}",
            shim.display(),
            names::RUNTIME
        )));
    }
    match containerd::loaded(&session.settings.containerd_socket, daemon)? {
        Loaded::Ours => session.say(Stage::Containerd, "has loaded the runtime"),
        Loaded::NoCri => session.say(
            Stage::Containerd,
            "has no CRI plugin (disabled_plugins): Kubernetes cannot use this node; ctr and nerdctl can",
        ),
        // Told as left to do already.
        Loaded::Nothing | Loaded::Other => {}
    }
    verify_agent(session)
}

fn verify_agent(session: &mut Session) -> Result<()> {
    if session.settings.init() == InitKind::None
        && agent::pid(Path::new(names::AGENT_API_SOCKET)).is_none()
    {
        let start = "start the agent: godwit-agent --config /etc/godwit/agent.toml";
        session.left.push(start.to_owned());
        return Ok(());
    }
    let status = wait_for("the agent to answer", PATIENCE, || {
        agent::status(Path::new(names::AGENT_API_SOCKET))
    })?;
    session.say(Stage::Agent, &format!("{} answers on {}", status.version, status.node));
    // A revert that was broken off has told it otherwise.
    take_pods(session, true);
    for store in status.stores.iter().filter(|store| store.state != "ready") {
        session.say(Stage::Agent, &format!("store {}: {}", store.name, store.state));
    }
    Ok(())
}

/// Lets the cluster's pods come to this node, or not any more, if an agent is there to tell it.
fn take_pods(session: &mut Session, takes: bool) {
    let socket = Path::new(names::AGENT_API_SOCKET);
    if agent::pid(socket).is_none() {
        if !takes && agent::is_of_a_cluster() {
            session.say(Stage::Agent, &format!("does not run: {TAKE_OFF}"));
        }
        return;
    }
    let what =
        format!("tell the cluster that {} may come here", if takes { "pods" } else { "no pod" });
    session.say(Stage::Agent, &what);
    if session.settings.dry_run {
        return;
    }
    if let Err(why) = agent::take_pods(socket, takes) {
        session.say(Stage::Agent, &format!("cannot: {why}. {TAKE_OFF}"));
    }
}

/// No pod comes any more to a node that loses its runtime. While some run there its label stays: a kubelet that starts anew admits only
/// pods whose RuntimeClass finds its node, and ends the others.
fn take_no_pods(session: &mut Session) {
    let releases = running_below(&session.settings.prefix.join("releases"));
    let is_shim = |exe: &Path| exe.file_name().is_some_and(|name| name == programs::SHIM);
    // Without --force nothing runs by now but shims that end.
    if !session.settings.force || !releases.iter().any(|(_, exe)| is_shim(exe)) {
        return take_pods(session, false);
    }
    if agent::is_of_a_cluster() {
        session.left.push(
            "pods run on: close the node to others (`kubectl cordon NAME`), and leave its label godwit.dev/ready until they are gone, or the \
             kubelet ends them when it starts anew"
                .to_owned(),
        );
    }
}

fn refuse_in_use(settings: &Settings, containers: &[Container]) -> Result<()> {
    let mut running: Vec<String> =
        containers.iter().filter(|c| c.has_task).map(ToString::to_string).collect();
    running.sort();
    running.dedup();
    if running.is_empty() || settings.force {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "Godwit's runtime is in use by {}: move or delete them first, or use --force, which leaves them running but without checkpoints, and ends those whose memory is still coming",
        running.join(", ")
    )))
}

/// Shims and pagers live and die with containers, and calls of the kubelet go through the proxy.
fn is_needed(exe: &Path) -> bool {
    let name = exe.file_name().and_then(|name| name.to_str());
    matches!(name, Some(programs::SHIM | "godwit-pager" | proxy::PROGRAM))
}

/// What an ordinary revert leaves: what people and agents have written.
fn purge(session: &mut Session) -> Result<()> {
    let config = Path::new(names::AGENT_CONFIG).parent().unwrap_or(Path::new(names::AGENT_CONFIG));
    let state = Path::new(names::STATE_DIR);
    let own = Path::new(crate::session::DIR);
    // The directory itself may be a mount point.
    let inside = std::fs::read_dir(state).into_iter().flatten().flatten();
    let inside = inside.map(|entry| entry.path()).filter(|path| path != own);
    for path in [config.to_owned(), names::RUN_DIR.into()].into_iter().chain(inside) {
        if path.exists() {
            let what = format!("purge {}", path.display());
            session.act(Stage::Agent, &what, |disk| match path.is_dir() {
                true => disk.remove_tree(&path),
                false => disk.remove(&path),
            })?;
        }
    }
    Ok(())
}
