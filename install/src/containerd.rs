//! The stage of containerd: its drop-in, what it has loaded, its restart.
//!
//! Order of writing: the drop-in before the line that imports it, and the line is gone before the drop-in goes, so that the
//! configuration can be read at any moment. What it will mean is tried before on copies beside it.

pub mod client;
pub mod config;
pub mod daemon;
pub mod foreign;
pub mod place;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use godwit_types::names;
use godwit_wire::failpoint::site;
use serde_json::Value;
use toml::Table;

use crate::containerd::client::Client;
use crate::containerd::daemon::Daemon;
use crate::containerd::place::{drop_in_of, import_of, is_written_anew};
use crate::files::{Disk, State, next_of};
use crate::process::{output, wait_for};
use crate::record::Stage;
use crate::session::{Change, Session};
use crate::settings::InitKind;
use crate::{Error, Result, systemd};

/// For a containerd that was restarted to serve.
const PATIENCE: Duration = Duration::from_secs(120);

/// The files of a containerd's configuration that we touch, and what they shall say.
#[derive(Debug)]
struct Files {
    /// The main file, links followed.
    main: PathBuf,
    /// What is in it; nothing if it does not exist.
    text: Option<String>,
    mode: u32,
    version: i64,
    /// Our own file.
    drop_in: PathBuf,
}

impl Files {
    fn look(daemon: &Daemon) -> Result<Self> {
        let main = fs::canonicalize(&daemon.config).unwrap_or_else(|_| daemon.config.clone());
        let text = match fs::read_to_string(&main) {
            Ok(text) => Some(text),
            Err(why) if why.kind() == ErrorKind::NotFound => None,
            Err(why) => return Err(Error::io("read", &main)(why)),
        };
        let mode = fs::metadata(&main).map_or(0o644, |meta| meta.permissions().mode() & 0o7777);
        let version = match &text {
            Some(text) => config::version_of(&main, text)?,
            // containerd reads its defaults then, and says the version that it likes best.
            None => daemon.dump(&main)?.get("version").and_then(|v| v.as_integer()).unwrap_or(3),
        };
        Ok(Self { drop_in: drop_in_of(&daemon.config), main, text, mode, version })
    }

    fn main_with(&self, import: &Path) -> Result<String> {
        let new = || format!("version = {}\n", self.version);
        let text = self.text.clone().unwrap_or_else(new);
        config::with_import(&self.main, &text, import)
    }
}

/// Why this containerd's configuration cannot take a drop-in, if so.
#[must_use]
pub fn fault(daemon: &Daemon) -> Option<Error> {
    let looked = Files::look(daemon).and_then(|files| {
        let main = files.main_with(&files.drop_in)?;
        match files.text {
            Some(text) if text != main && is_written_anew(&text) => Err(Error::Refused(format!(
                "{} is written anew whenever its program starts, and imports no directory: let the template that its first lines name begin \
                 with `imports = [\"{}\"]`, restart that program, and run this command again",
                files.main.display(),
                import_of(&files.drop_in).display()
            ))),
            _ => Ok(main),
        }
    });
    looked.and_then(|_| daemon.dump(&daemon.config)).err()
}

/// Tries what [`configure`] would write, before anything is changed.
///
/// # Errors
/// [`Error::Foreign`] if containerd would read anything else differently; the configuration is what it was.
pub fn rehearse(session: &mut Session, daemon: &Daemon) -> Result<()> {
    let wanted = Wanted::look(daemon)?;
    if wanted.is_written || session.settings.dry_run {
        return Ok(());
    }
    let main = &wanted.files.main;
    session.make_dirs(Stage::Containerd, main.parent().unwrap_or(main))?;
    let tried = wanted.read_by(session.disk, daemon);
    tried.or_else(|why| {
        // What an earlier release has written, stays.
        if session.book.entry(&wanted.files.drop_in).is_none() {
            undo(session, daemon)?;
        }
        Err(why)
    })
}

/// Writes drop-in and import. [`rehearse`] has said that containerd reads nothing else differently for it; if it does all the same, as when
/// somebody else writes at the same time, they are taken back.
///
/// # Errors
/// [`Error::Foreign`], [`Error::Meanwhile`]; of the configuration, what is ours is gone then.
pub fn configure(session: &mut Session, daemon: &Daemon) -> Result<()> {
    let wanted = Wanted::look(daemon)?;
    session.put(Stage::Containerd, &wanted.files.drop_in, wanted.drop_in.as_bytes(), 0o644)?;
    site("containerd.drop_in");
    wanted.finish(session, daemon).or_else(|why| {
        undo(session, daemon)?;
        Err(why)
    })
}

/// What shall be read, and what containerd reads without it.
#[derive(Debug)]
struct Wanted {
    files: Files,
    before: Table,
    /// What our own file shall say.
    drop_in: String,
    /// What the main file shall say.
    main: String,
    is_written: bool,
}

impl Wanted {
    fn look(daemon: &Daemon) -> Result<Self> {
        let files = Files::look(daemon)?;
        let before = daemon.dump(&daemon.config)?;
        let drop_in = config::drop_in(files.version, &before);
        let main = files.main_with(&files.drop_in)?;
        let is_written = files.text.as_ref() == Some(&main)
            && fs::read(&files.drop_in).is_ok_and(|bytes| bytes == drop_in.as_bytes());
        Ok(Self { files, before, drop_in, main, is_written })
    }

    /// Lets containerd read copies, beside the files that relative imports are relative to.
    fn read_by(&self, disk: Disk, daemon: &Daemon) -> Result<()> {
        let [main, drop_in] = tries(daemon);
        disk.put(&drop_in, self.drop_in.as_bytes(), 0o644)?;
        disk.put(&main, self.files.main_with(&drop_in)?.as_bytes(), 0o600)?;
        let read = daemon.dump(&main);
        disk.remove(&main)?;
        disk.remove(&drop_in)?;
        self.is_only_ours(&read?, daemon, &[&main, &drop_in])
    }

    /// Writes the import, and has containerd read all of it.
    fn finish(&self, session: &mut Session, daemon: &Daemon) -> Result<()> {
        let files = &self.files;
        if files.text.as_ref() != Some(&self.main) {
            if !session.settings.dry_run && fs::read_to_string(&files.main).ok() != files.text {
                return Err(Error::Meanwhile(files.main.clone()));
            }
            session.put(Stage::Containerd, &files.main, self.main.as_bytes(), files.mode)?;
        }
        if self.is_written || session.settings.dry_run {
            return Ok(());
        }
        self.is_only_ours(&daemon.dump(&daemon.config)?, daemon, &[])
    }

    fn is_only_ours(&self, after: &Table, daemon: &Daemon, tried: &[&PathBuf]) -> Result<()> {
        let own = [&daemon.config, &self.files.main, &self.files.drop_in];
        let read: Vec<&Path> = own.iter().chain(tried).map(|path| path.as_path()).collect();
        let mut changes = foreign::changes(&self.before, after, &read);
        if config::starter_of_ours(after).map(Path::new) != Some(&config::shim()) {
            changes.push(format!("no runtime {}", names::RUNTIME_HANDLER));
        }
        if changes.is_empty() { Ok(()) } else { Err(Error::Foreign(changes)) }
    }
}

/// Copies of main file and drop-in, that are only tried.
fn tries(daemon: &Daemon) -> [PathBuf; 2] {
    [".godwit-try-main", ".godwit-try-drop-in"].map(|name| daemon.config.with_file_name(name))
}

/// What the running containerd has of our runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// It has no CRI, so nobody asks it for runtimes by name.
    NoCri,
    /// Nothing.
    Nothing,
    /// What the drop-in says.
    Ours,
    /// Something else of that name: an older drop-in, or somebody else's.
    Other,
}

/// Asks the running containerd.
///
/// # Errors
/// It does not answer.
pub fn loaded(socket: &Path, daemon: &Daemon) -> Result<Loaded> {
    let client = Client::connect(socket)?;
    let Some(status) = client.cri_config()? else { return Ok(Loaded::NoCri) };
    let pointer = format!("/containerd/runtimes/{}", names::RUNTIME_HANDLER);
    let Some(runtime) = status.pointer(&pointer) else { return Ok(Loaded::Nothing) };
    let text = fs::read_to_string(drop_in_of(&daemon.config)).unwrap_or_default();
    let table: Table = text.parse().unwrap_or_default();
    let wanted =
        config::runtimes(&table).and_then(|all| all.get(names::RUNTIME_HANDLER)?.as_table());
    Ok(match wanted.is_some_and(|wanted| agrees(runtime, wanted)) {
        true => Loaded::Ours,
        false => Loaded::Other,
    })
}

fn loaded_now(session: &Session, daemon: &Daemon) -> Result<Loaded> {
    loaded(&session.settings.containerd_socket, daemon)
}

/// Whether what containerd's CRI says of a runtime is what a stanza says. Its names are those of its JSON
/// (`internal/cri/config/config.go`).
fn agrees(loaded: &Value, wanted: &Table) -> bool {
    let json = |key: &str| wanted.get(key).and_then(|value| serde_json::to_value(value).ok());
    let same = |key: &str, name: &str| loaded.get(name) == json(key).as_ref();
    let options = json("options").unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    let has = match loaded.get("options") {
        None | Some(Value::Null) => Value::Object(serde_json::Map::new()),
        Some(options) => options.clone(),
    };
    // It is always told, also where it is not set.
    let path = loaded.get("runtimePath").and_then(Value::as_str).unwrap_or_default();
    same("runtime_type", "runtimeType")
        && path == wanted.get("runtime_path").and_then(|path| path.as_str()).unwrap_or_default()
        && same("pod_annotations", "PodAnnotations")
        && same("container_annotations", "ContainerAnnotations")
        && options == has
}

/// Restarts containerd if it has not loaded what its configuration says, and waits until it has. One that does not come back gets its
/// old configuration and is started with that.
///
/// # Errors
/// [`Error::RolledBack`].
pub fn load(session: &mut Session, daemon: &Daemon) -> Result<()> {
    if session.settings.dry_run
        || matches!(loaded_now(session, daemon)?, Loaded::Ours | Loaded::NoCri)
    {
        return Ok(());
    }
    let taken = match restart(session, daemon) {
        Ok(Change::None) => return Ok(()),
        Ok(Change::Made) => wait_for("containerd to load the runtime", PATIENCE, || {
            match loaded_now(session, daemon)? {
                Loaded::Ours => Ok(()),
                other => Err(Error::Refused(format!("it has loaded {other:?}"))),
            }
        }),
        Err(why) => Err(why),
    };
    taken.or_else(|why| {
        undo(session, daemon)?;
        restart(session, daemon)?;
        answers(session)?;
        Err(Error::RolledBack(Box::new(why)))
    })
}

/// Restarts it, where somebody can.
fn restart(session: &mut Session, daemon: &Daemon) -> Result<Change> {
    let hook = session.settings.restart_containerd.clone();
    match (hook, session.settings.init()) {
        (Some(hook), _) => {
            let run = |_| output(Command::new("sh").args(["-c", &hook])).map(drop);
            session.act(Stage::Containerd, &format!("restart containerd: {hook}"), run)?;
        }
        (None, InitKind::Systemd) => {
            let unit = daemon.unit.clone().unwrap_or_else(|| "containerd.service".to_owned());
            let run = |_| systemd::call(&["restart", &unit]);
            session.act(Stage::Containerd, &format!("restart {unit}"), run)?;
        }
        (None, InitKind::None) => {
            session.left.push("restart containerd, then run this command again".to_owned());
            return Ok(Change::None);
        }
    }
    Ok(Change::Made)
}

fn answers(session: &Session) -> Result<()> {
    let socket = session.settings.containerd_socket.clone();
    let ask = || Client::connect(&socket)?.version().map(drop);
    wait_for("containerd to answer", PATIENCE, ask)
}

/// Takes the configuration back, and restarts containerd if it still has our runtime.
///
/// # Errors
/// It cannot be taken back, or containerd does not answer afterwards.
pub fn revert(session: &mut Session, daemon: Option<&Daemon>) -> Result<()> {
    let Some(daemon) = daemon else {
        return session.undo(Stage::Containerd, |_| true).map(drop);
    };
    undo(session, daemon)?;
    if session.settings.dry_run {
        return Ok(());
    }
    let stays = config::starter_of_ours(&daemon.dump(&daemon.config)?).is_some();
    if stays || matches!(loaded_now(session, daemon)?, Loaded::Nothing | Loaded::NoCri) {
        return Ok(());
    }
    if restart(session, daemon)? == Change::None {
        return Ok(());
    }
    wait_for("containerd to come back without the runtime", PATIENCE, || {
        match loaded_now(session, daemon)? {
            Loaded::Nothing | Loaded::NoCri => Ok(()),
            other => Err(Error::Refused(format!("it has loaded {other:?}"))),
        }
    })
}

/// The main file as it was; if somebody has changed it since, then without our import.
fn undo(session: &mut Session, daemon: &Daemon) -> Result<()> {
    let main = fs::canonicalize(&daemon.config).unwrap_or_else(|_| daemon.config.clone());
    let drop_in = drop_in_of(&daemon.config);
    if let Some(entry) = session.book.entry(&main).cloned() {
        let now = State::of(&main)?;
        let is_known = entry.ours.contains(&now) || entry.before == now;
        if let (false, State::File { mode, .. }) = (is_known, &now) {
            let text = fs::read_to_string(&main).map_err(Error::io("read", &main))?;
            let text = config::without_import(&main, &text, &drop_in)?;
            let what = format!("take the import out of {}", main.display());
            session
                .act(Stage::Containerd, &what, |disk| disk.put(&main, text.as_bytes(), *mode))?;
            if !session.settings.dry_run {
                session.book.forget(&main)?;
            }
        }
    }
    for beside in tries(daemon).iter().flat_map(|path| [path.clone(), next_of(path)]) {
        if !session.settings.dry_run {
            session.disk.remove(&beside)?;
        }
    }
    session.undo(Stage::Containerd, |_| true).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_loaded_is_compared_with_all_that_the_stanza_says() {
        let wanted: Table =
            "runtime_type = 'io.containerd.runc.v2'\nruntime_path = '/x'\npod_annotations = ['godwit.dev/*']\n\
            container_annotations = ['godwit.dev/*']\n[options]\nSystemdCgroup = true\n"
                .parse()
                .unwrap();
        let json = serde_json::json!({
            "runtimeType": "io.containerd.runc.v2", "runtimePath": "/x", "PodAnnotations": ["godwit.dev/*"],
            "ContainerAnnotations": ["godwit.dev/*"], "options": {"SystemdCgroup": true}
        });
        assert!(agrees(&json, &wanted));
        for (key, other) in [
            ("runtimeType", Value::from("io.containerd.godwit.v2")),
            ("runtimePath", Value::from("")),
            ("PodAnnotations", Value::Null),
            ("options", Value::Null),
        ] {
            let mut json = json.clone();
            json[key] = other;
            assert!(!agrees(&json, &wanted), "{key}");
        }
        let plain: Table = toml::from_str("runtime_type = 'x'").unwrap();
        assert!(agrees(
            &serde_json::json!({"runtimeType": "x", "runtimePath": "", "options": null}),
            &plain
        ));
    }
}
