//! The stage of the kubelet: its `containerRuntimeEndpoint` becomes the CRI proxy's socket. Only where that was asked for, only when
//! containerd answers behind the proxy, and taken back before anything else is.

pub mod config;
pub mod running;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use godwit_types::names;

use crate::files::State;
use crate::process::{output, wait_for};
use crate::record::{Entry, Stage};
use crate::session::{Change, Session};
use crate::settings::{InitKind, Settings};
use crate::{Error, Result, proxy};
use config::Format;
use running::Kubelet;

/// For a kubelet that was restarted to connect.
const PATIENCE: Duration = Duration::from_secs(120);
/// Name of our file in a directory of drop-ins: the kubelet reads them in their order, and only `.conf`.
const DROP_IN: &str = "99-godwit.conf";

/// What there is of a kubelet's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The path that was named.
    pub path: PathBuf,
    /// The endpoint that it says now, or why it cannot be used.
    pub endpoint: std::result::Result<Endpoint, String>,
    /// The endpoint that the command line of the running kubelet says, which goes before every file.
    pub flag: Option<String>,
    /// Whether the running kubelet reads that path, as far as its command line tells.
    pub is_read: bool,
}

/// Whom a kubelet asks for containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// It is not told; its own default is containerd's usual socket.
    Unsaid,
    /// The CRI proxy.
    Ours,
    /// The containerd on which Godwit is installed.
    Containerd,
    /// Somebody else.
    Other(String),
}

impl Endpoint {
    fn of(said: Option<String>, containerd: &Path) -> Self {
        let Some(said) = said else { return Self::Unsaid };
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let path = Path::new(said.strip_prefix("unix://").unwrap_or(&said));
        match path {
            path if path == Path::new(names::CRI_SOCKET) => Self::Ours,
            path if real(path) == real(containerd) => Self::Containerd,
            _ => Self::Other(said),
        }
    }
}

impl Facts {
    /// Looks at what the settings name; nothing if they name nothing.
    #[must_use]
    pub fn look(settings: &Settings) -> Option<Self> {
        let path = settings.kubelet_config.clone()?;
        let running = Kubelet::find();
        let endpoint = Place::of(&path).and_then(|place| place.endpoint(running.as_ref()));
        let flag = |name: &str| running.as_ref().and_then(|kubelet| kubelet.flag(name));
        let of_path = flag(if path.is_dir() { "config-dir" } else { "config" });
        let real = |path: &Path| fs::canonicalize(path).ok();
        Some(Self {
            endpoint: endpoint
                .map(|said| Endpoint::of(said, &settings.containerd_socket))
                .map_err(|why| crate::error_chain(&why)),
            flag: flag("container-runtime-endpoint").map(str::to_owned),
            is_read: running.is_none()
                || of_path.is_some_and(|read| real(Path::new(read)) == real(&path)),
            path,
        })
    }
}

/// The path by which a file that we have written is named: of a drop-in, its directory.
#[must_use]
pub fn named_as(file: &Path) -> PathBuf {
    match file.file_name().is_some_and(|name| name == DROP_IN) {
        true => file.parent().unwrap_or(file).to_owned(),
        false => file.to_owned(),
    }
}

/// Where our setting goes.
enum Place {
    /// Into the configuration file.
    File { path: PathBuf, text: String, mode: u32 },
    /// Into a file of ours in a directory of drop-ins.
    DropIn(PathBuf),
}

impl Place {
    fn of(path: &Path) -> Result<Self> {
        let real = fs::canonicalize(path).map_err(Error::io("find", path))?;
        if real.is_dir() {
            return Ok(Self::DropIn(real.join(DROP_IN)));
        }
        let text = fs::read_to_string(&real).map_err(Error::io("read", &real))?;
        let mode = fs::metadata(&real).map_err(Error::io("look at", &real))?.permissions().mode();
        Ok(Self::File { path: real, text, mode: mode & 0o7777 })
    }

    /// What the kubelet is told now: of its file and the drop-ins, the last that says it.
    fn endpoint(&self, running: Option<&Kubelet>) -> Result<Option<String>> {
        let (path, text) = match self {
            Self::File { path, text, .. } => return config::endpoint(path, text),
            Self::DropIn(path) => (path, running.and_then(|kubelet| kubelet.flag("config"))),
        };
        let mut drop_ins: Vec<PathBuf> = fs::read_dir(path.parent().unwrap_or(path))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|file| file.extension().is_some_and(|e| e == "conf") && file != path)
            .collect();
        drop_ins.sort();
        let mut said = None;
        for file in text.map(PathBuf::from).into_iter().chain(drop_ins) {
            let text = fs::read_to_string(&file).map_err(Error::io("read", &file))?;
            said = config::endpoint(&file, &text)?.or(said);
        }
        Ok(said)
    }

    /// The path that is written, its bytes and its mode.
    fn wanted(&self) -> Result<(&Path, String, u32)> {
        match self {
            Self::File { path, text, mode } => {
                Ok((path, config::with_endpoint(path, text, config::OURS)?, *mode))
            }
            Self::DropIn(path) => Ok((path, config::drop_in(), 0o644)),
        }
    }
}

/// Writes the endpoint, if it was asked for, and has the kubelet take it, if somebody said how.
///
/// # Errors
/// Nobody answers behind the proxy: nothing is changed then. [`Error::KubeletRolledBack`] for a kubelet that does not come back.
pub fn point(session: &mut Session) -> Result<()> {
    let Some(path) = session.settings.kubelet_config.clone() else { return Ok(()) };
    let dry_run = session.settings.dry_run;
    if !dry_run && let Err(why) = proxy::answers() {
        if session.settings.init() == InitKind::Systemd {
            return Err(why);
        }
        let serve =
            "start godwit-cri-proxy --listen /run/godwit/cri.sock, then run this command again";
        session.left.push(serve.to_owned());
        return Ok(());
    }
    let place = Place::of(&path)?;
    let (path, text, mode) = place.wanted()?;
    session.put(Stage::Kubelet, path, text.as_bytes(), mode)?;
    if dry_run { Ok(()) } else { taken(session) }
}

/// Whether the kubelet has taken it.
fn taken(session: &mut Session) -> Result<()> {
    if proxy::is_in_use() {
        session.say(Stage::Kubelet, "goes through the CRI proxy");
        return Ok(());
    }
    if Kubelet::find().is_none() {
        session
            .say(Stage::Kubelet, "does not run; it goes through the CRI proxy from its start on");
        return Ok(());
    }
    let Some(hook) = session.settings.restart_kubelet.clone() else {
        session.left.push("restart the kubelet, then run this command again".to_owned());
        return Ok(());
    };
    let connects = || match proxy::is_in_use() {
        true => Ok(()),
        false => Err(Error::Refused("it has not connected".to_owned())),
    };
    let restarted = restart(session, &hook)
        .and_then(|()| wait_for("the kubelet to connect to the CRI proxy", PATIENCE, connects));
    restarted.or_else(|why| {
        undo(session)?;
        restart(session, &hook)?;
        Err(Error::KubeletRolledBack(Box::new(why)))
    })
}

fn restart(session: &mut Session, hook: &str) -> Result<()> {
    session.act(Stage::Kubelet, &format!("restart the kubelet: {hook}"), |_| {
        output(Command::new("sh").args(["-c", hook])).map(drop)
    })
}

/// Takes the endpoint back, and has the kubelet take that, if somebody said how.
///
/// # Errors
/// It cannot be put back, or the kubelet is not restarted.
pub fn revert(session: &mut Session) -> Result<()> {
    let changed = undo(session)?;
    let hook = session.settings.restart_kubelet.clone();
    let goes_through = !session.settings.dry_run && proxy::is_in_use();
    match hook {
        Some(hook) if changed == Change::Made || goes_through => restart(session, &hook)?,
        _ => return Ok(()),
    }
    if session.settings.dry_run {
        return Ok(());
    }
    wait_for("the kubelet to leave the CRI proxy", PATIENCE, || match proxy::is_in_use() {
        false => Ok(()),
        true => Err(Error::Refused("it is still connected".to_owned())),
    })
}

/// The configuration as it was; if somebody has changed it since, then with containerd's endpoint in the place of ours.
fn undo(session: &mut Session) -> Result<Change> {
    let mut change = Change::None;
    for entry in session.book.entries_of(Stage::Kubelet) {
        change = Change::Made;
        keep_others_changes(session, &entry)?;
    }
    session.undo(Stage::Kubelet, |_| true)?;
    Ok(change)
}

fn keep_others_changes(session: &mut Session, entry: &Entry) -> Result<()> {
    let now = State::of(&entry.path)?;
    let is_known = entry.ours.contains(&now) || entry.before == now;
    let (false, State::File { mode, .. }) = (is_known, now) else { return Ok(()) };
    let text = fs::read_to_string(&entry.path).map_err(Error::io("read", &entry.path))?;
    if Format::of(&entry.path, &text)?.endpoint()?.as_deref() == Some(config::OURS) {
        let containerd = format!("unix://{}", session.settings.containerd_socket.display());
        let text = config::with_endpoint(&entry.path, &text, &containerd)?;
        let what = format!("take the endpoint out of {}", entry.path.display());
        session.act(Stage::Kubelet, &what, |disk| disk.put(&entry.path, text.as_bytes(), mode))?;
    }
    if session.settings.dry_run { Ok(()) } else { session.book.forget(&entry.path) }
}
