//! The agent: its configuration to begin with, and whether it answers.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use godwit_types::names;
use godwit_wire::api::{AgentStatus, Diagnosis, MAX_REPLY, Reply, Request};
use serde::de::DeserializeOwned;
use toml_edit::DocumentMut;

use crate::record::Stage;
use crate::session::Session;
use crate::settings::Settings;
use crate::{Error, Result};

/// For an answer: it may look at every pod of the node before it listens.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a node begins with: every setting, with what it is for.
const EXAMPLE: &str = include_str!("../../agent/agent.toml");

/// Writes the configuration, if there is none. One that is there is never touched, and none is taken away by a revert.
///
/// # Errors
/// It cannot be written.
pub fn configure(session: &mut Session, criu: &Path) -> Result<()> {
    let path = Path::new(names::AGENT_CONFIG);
    if path.exists() {
        return Ok(());
    }
    let containerd = &session.settings.containerd_socket;
    let found = [("criu", criu), ("containerd", containerd.as_path())];
    let text = match &session.settings.agent_config {
        Some(from) => {
            let text = fs::read_to_string(from).map_err(Error::io("read", from))?;
            completed(from, &text, &found)?
        }
        None => first(&found)?,
    };
    session.act(Stage::Agent, &format!("write {}", path.display()), |disk| {
        let dir = path.parent().unwrap_or(path);
        fs::create_dir_all(dir).map_err(Error::io("make", dir))?;
        // Keys of stores may be written into it.
        disk.put(path, text.as_bytes(), 0o600)
    })
}

/// Why the configuration that is there, or the one to begin with, cannot be used on this node, if so.
#[must_use]
pub fn fault(settings: &Settings) -> Option<Error> {
    let (kept, socket) = (Path::new(names::AGENT_CONFIG), settings.containerd_socket.as_path());
    match (kept.exists(), &settings.agent_config) {
        (true, _) => asks(kept, Path::new(names::CONTAINERD_SOCKET), socket).err(),
        // Where it is silent, this one is written into it.
        (false, Some(given)) => asks(given, socket, socket).err(),
        (false, None) => None,
    }
}

/// Whether an agent with this configuration, which may be silent, asks the containerd of this socket.
fn asks(path: &Path, silent: &Path, containerd: &Path) -> Result<()> {
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    let document = parsed(path, &text)?;
    let named = document.get("containerd").and_then(|item| item.as_str()).map(Path::new);
    let (named, real) = (named.unwrap_or(silent), |path: &Path| fs::canonicalize(path).ok());
    if named == containerd || real(named).is_some_and(|named| Some(named) == real(containerd)) {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "`containerd` in {} is {}, which is another one than --containerd-socket: make them the same",
        path.display(),
        named.display()
    )))
}

/// Programs and sockets that were found on the node, by their keys.
type Found<'a> = [(&'static str, &'a Path)];

fn first(found: &Found) -> Result<String> {
    let mut document = parsed(Path::new("agent.toml"), EXAMPLE)?;
    for (key, path) in found {
        document[key] = toml_edit::value(path.to_string_lossy().as_ref());
    }
    Ok(document.to_string())
}

/// What somebody has written, with what was found where it says nothing and the agent would look elsewhere.
fn completed(from: &Path, text: &str, found: &Found) -> Result<String> {
    let (example, mut document) = (parsed(Path::new("agent.toml"), EXAMPLE)?, parsed(from, text)?);
    for (key, path) in found {
        let path = path.to_string_lossy();
        if !document.contains_key(key) && example[key].as_str() != Some(&path) {
            document[key] = toml_edit::value(path.as_ref());
        }
    }
    Ok(document.to_string())
}

fn parsed(path: &Path, text: &str) -> Result<DocumentMut> {
    let why = |why: toml_edit::TomlError| Error::Toml { path: path.into(), why: why.to_string() };
    text.parse().map_err(why)
}

/// A text of the configuration that is there; nothing if there is none or it does not say.
#[must_use]
pub fn configured(key: &str) -> Option<String> {
    configured_by(Path::new(names::AGENT_CONFIG), key)
}

/// The same of a configuration in another place.
#[must_use]
pub fn configured_by(path: &Path, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let table: toml::Table = text.parse().ok()?;
    Some(table.get(key)?.as_str()?.to_owned())
}

/// Whether the configuration that is there says of which cluster the node is.
#[must_use]
pub fn is_of_a_cluster() -> bool {
    let text = fs::read_to_string(names::AGENT_CONFIG).unwrap_or_default();
    text.parse::<toml::Table>().is_ok_and(|table| table.contains_key("kubernetes"))
}

/// Process of the agent that serves a socket.
#[must_use]
pub fn pid(socket: &Path) -> Option<u32> {
    let stream = UnixStream::connect(socket).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
}

/// Asks it what it is and does.
///
/// # Errors
/// It does not answer.
pub fn status(socket: &Path) -> Result<AgentStatus> {
    ask(socket, &Request::Status)
}

/// Asks it what only it can look at.
///
/// # Errors
/// It does not answer.
pub fn diagnosis(socket: &Path) -> Result<Diagnosis> {
    ask(socket, &Request::Diagnose)
}

/// Lets the cluster's pods come to this node, or not any more.
///
/// # Errors
/// The agent does not answer, or could not tell it.
pub fn take_pods(socket: &Path, takes: bool) -> Result<()> {
    let fault: Option<String> = ask(socket, &Request::TakePods { takes })?;
    fault.map_or(Ok(()), |why| Err(Error::Refused(why)))
}

fn ask<T: DeserializeOwned>(socket: &Path, request: &Request) -> Result<T> {
    let stream = UnixStream::connect(socket);
    let stream = stream.map_err(Error::io("connect to the agent at", socket))?;
    answer(&stream, request).map_err(Error::io("ask the agent at", socket))
}

fn answer<T: DeserializeOwned>(mut stream: &UnixStream, request: &Request) -> std::io::Result<T> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{}\n", serde_json::to_string(request)?).as_bytes())?;
    let mut lines = BufReader::new(std::io::Read::take(stream, MAX_REPLY as u64)).lines();
    loop {
        let ended = || std::io::Error::other("it ended the connection without an answer");
        match serde_json::from_str(&lines.next().ok_or_else(ended)??)? {
            Reply::Progress(_) => {}
            Reply::Done { result } => return Ok(serde_json::from_value(result)?),
            Reply::Failed(failure) => return Err(std::io::Error::other(failure.message)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_begins_with_every_setting_and_the_criu_that_it_has() {
        let found =
            [("criu", Path::new("/usr/local/sbin/criu")), ("containerd", Path::new("/run/c"))];
        let text = first(&found).unwrap();
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["criu"].as_str(), Some("/usr/local/sbin/criu"));
        let containerd = format!("\"{}\"", names::CONTAINERD_SOCKET);
        let as_it_was = text.replace("/usr/local/sbin/criu", "/usr/sbin/criu");
        assert_eq!(as_it_was.replace("\"/run/c\"", &containerd), EXAMPLE);
    }

    #[test]
    fn a_configuration_of_another_containerd_or_of_none_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, link) = (dir.path().join("c.sock"), dir.path().join("link.sock"));
        fs::write(&socket, "").unwrap();
        std::os::unix::fs::symlink(&socket, &link).unwrap();
        let file = dir.path().join("agent.toml");
        let told = |text: &str| {
            fs::write(&file, text).unwrap();
            asks(&file, &socket, &socket).err().map(|why| why.to_string())
        };
        assert_eq!(told("memory = 1\n"), None);
        assert_eq!(told(&format!("containerd = \"{}\"\n", link.display())), None);
        let other = told("containerd = \"/run/other.sock\"\n").unwrap();
        assert!(other.contains("/run/other.sock") && other.contains("make them the same"));
        assert!(told("node = 1\nnode = 2\n").unwrap().contains("agent.toml"));
        assert!(asks(&dir.path().join("none"), &socket, &socket).is_err());
    }

    #[test]
    fn what_somebody_has_written_is_completed_and_not_changed() {
        let (criu, socket) =
            (Path::new("/usr/local/sbin/criu"), Path::new(names::CONTAINERD_SOCKET));
        let found = [("criu", criu), ("containerd", socket)];
        let from = Path::new("mine.toml");
        let own = "# mine\ncriu = \"/opt/criu\"\n\n[stores.main]\nurl = \"file:///x\" # here\n";
        assert_eq!(completed(from, own, &found).unwrap(), own);
        let silent = "# mine\n\n[stores.main]\nurl = \"file:///x\" # here\n";
        let text = completed(from, silent, &found).unwrap();
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["criu"].as_str(), Some("/usr/local/sbin/criu"));
        assert!(table.get("containerd").is_none() && text.contains("# here"), "{text}");
        let told = completed(from, "[stores", &found).unwrap_err().to_string();
        assert!(told.contains("mine.toml"), "{told}");
    }
}
