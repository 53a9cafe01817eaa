//! The CRI proxy: its units, and whether the one that runs is the installed one. It is never restarted: a proxy of another release
//! takes its place without a failed call (docs/design/cri-proxy.md §4).

use std::path::{Path, PathBuf};
use std::time::Duration;

use godwit_types::names;

use crate::containerd::client::Client;
use crate::kubelet::running::Kubelet;
use crate::process::{runs, wait_for};
use crate::record::Stage;
use crate::session::Session;
use crate::settings::InitKind;
use crate::{Error, Result, programs, systemd};

/// The program.
pub const PROGRAM: &str = "godwit-cri-proxy";
const SERVICE: &str = "godwit-cri-proxy.service";
/// Its socket unit.
pub const SOCKET: &str = "godwit-cri-proxy.socket";
const SERVICE_TEXT: &str = include_str!("../../cri-proxy/godwit-cri-proxy.service");
const SOCKET_TEXT: &str = include_str!("../../cri-proxy/godwit-cri-proxy.socket");
/// What `systemctl enable` would make.
const WANTED_BY: &str = "sockets.target.wants";
/// For a successor to serve: it has 10 s for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Writes and enables the units.
///
/// # Errors
/// They cannot be written, or systemd cannot read them.
pub fn install(session: &mut Session) -> Result<()> {
    let socket = systemd::place(SOCKET);
    let text = service(&session.settings.containerd_socket);
    session.put(Stage::Proxy, &systemd::place(SERVICE), text.as_bytes(), 0o644)?;
    session.put(Stage::Proxy, &socket, SOCKET_TEXT.as_bytes(), 0o644)?;
    session.link(Stage::Proxy, &systemd::place(WANTED_BY).join(SOCKET), &socket)?;
    systemd::reload(session, Stage::Proxy, &[SERVICE, SOCKET])
}

/// The service's unit for the containerd of this node.
fn service(containerd: &Path) -> String {
    let program = program();
    let start = format!("ExecStart={}", program.display());
    match containerd == Path::new(names::CONTAINERD_SOCKET) {
        true => SERVICE_TEXT.to_owned(),
        false => {
            SERVICE_TEXT.replace(&start, &format!("{start} --containerd {}", containerd.display()))
        }
    }
}

fn program() -> PathBuf {
    Path::new(programs::BIN).join(PROGRAM)
}

/// Has somebody listen, and the installed program serve. The service itself is started by its first client.
///
/// # Errors
/// The socket cannot be made, or a successor does not serve: the proxy of the release before goes on then.
pub fn start(session: &mut Session) -> Result<()> {
    if session.settings.dry_run {
        return Ok(());
    }
    if systemd::show(SOCKET, "ActiveState")? != "active" {
        session
            .act(Stage::Proxy, &format!("start {SOCKET}"), |_| systemd::call(&["start", SOCKET]))?;
    }
    if !is_other()? {
        return Ok(());
    }
    session.act(Stage::Proxy, &format!("reload {SERVICE}"), |_| {
        systemd::call(&["reload", SERVICE])?;
        wait_for("the proxy of this release to take over", PATIENCE, || match is_other()? {
            false => Ok(()),
            true => Err(Error::Refused(format!(
                "the one before serves: `journalctl --unit {SERVICE}` says why"
            ))),
        })
    })
}

/// Whether one runs that is not the installed program.
fn is_other() -> Result<bool> {
    let pid: u32 = systemd::show(SERVICE, "MainPID")?.parse().unwrap_or_default();
    Ok(pid != 0 && !runs(pid, &program()))
}

/// Asks containerd's CRI by way of the proxy.
///
/// # Errors
/// Nobody answers, or no CRI does.
pub fn answers() -> Result<()> {
    match Client::connect(Path::new(names::CRI_SOCKET))?.cri_config()? {
        Some(_) => Ok(()),
        None => Err(Error::Refused(format!(
            "the containerd behind {} has no CRI plugin (disabled_plugins): the kubelet cannot use it",
            names::CRI_SOCKET
        ))),
    }
}

/// Whether the kubelet is connected to the proxy, as it is for as long as it runs. Of a kubelet that is part of another program, and
/// where the kernel does not tell who is connected: whether somebody is.
#[must_use]
pub fn is_in_use() -> bool {
    let connected = Kubelet::find().and_then(|kubelet| kubelet.is_connected(names::CRI_SOCKET));
    connected.unwrap_or_else(has_a_client)
}

fn has_a_client() -> bool {
    std::fs::read_to_string("/proc/net/unix").is_ok_and(|table| has_clients(&table))
}

/// `/proc/net/unix`: state 03 is connected, and an accepted connection has the name of its listener.
fn has_clients(table: &str) -> bool {
    table.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(5) == Some(&"03") && words.get(7) == Some(&names::CRI_SOCKET)
    })
}

/// Stops the proxy and takes its units away; not while the kubelet is connected.
///
/// # Errors
/// It does not stop, or a unit cannot be removed.
pub fn revert(session: &mut Session) -> Result<()> {
    if is_in_use() {
        session.left.push(
            "restart the kubelet, then run this command again: it still goes through the CRI proxy, which stays until then"
                .to_owned(),
        );
        return Ok(());
    }
    let is_ours = session.book.entry(&systemd::place(SERVICE)).is_some();
    if !is_ours && session.settings.init() != InitKind::Systemd {
        return Ok(());
    }
    let runs = |unit| Ok::<_, Error>(systemd::show(unit, "ActiveState")? != "inactive");
    if is_ours && (runs(SOCKET)? || runs(SERVICE)?) {
        session.act(Stage::Proxy, &format!("stop {SOCKET}"), |_| {
            systemd::call(&["stop", SOCKET, SERVICE])
        })?;
    }
    let change = session.undo(Stage::Proxy, |_| true)?;
    systemd::forget(session, Stage::Proxy, change, &[SERVICE, SOCKET])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_names_another_containerd() {
        assert_eq!(service(Path::new(names::CONTAINERD_SOCKET)), SERVICE_TEXT);
        let text = service(Path::new("/run/k3s/containerd/containerd.sock"));
        let line = "ExecStart=/usr/local/bin/godwit-cri-proxy --containerd /run/k3s/containerd/containerd.sock";
        assert!(text.lines().any(|l| l == line), "{text}");
    }

    #[test]
    fn a_client_is_told_from_the_listener_and_from_other_sockets() {
        let head = "Num       RefCount Protocol Flags    Type St Inode Path\n";
        let listener = "00: 00000002 00000000 00010000 0001 01 5 /run/godwit/cri.sock\n";
        let other = "00: 00000003 00000000 00000000 0001 03 6 /run/containerd/containerd.sock\n\
            00: 00000003 00000000 00000000 0001 03 7\n";
        assert!(!has_clients(&format!("{head}{listener}{other}")));
        let client = "00: 00000003 00000000 00000000 0001 03 8 /run/godwit/cri.sock\n";
        assert!(has_clients(&format!("{head}{listener}{other}{client}")));
    }
}
