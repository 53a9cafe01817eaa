//! Releases: `PREFIX/releases/VERSION-DIGEST/`, each complete before anything names it, and `PREFIX/current`, a link to one of them.
//! Everybody finds programs by links that lead through `current`, so that one rename brings all of them to another release, up or
//! down. Processes keep the files that they were started from.

use std::path::{Path, PathBuf};
use std::process::Command;

use godwit_types::names;

use crate::files::{State, digest_of};
use crate::process::{running_below, text};
use crate::record::Stage;
use crate::session::Session;
use crate::{Error, Result};

/// Programs of a release that are called by people, containerd or units: by this name in [`BIN`].
pub const CALLED: [&str; 5] = [
    "containerd-shim-godwit-v2",
    "godwit-agent",
    "godwit",
    "godwit-install",
    crate::proxy::PROGRAM,
];
/// Where they are found.
pub const BIN: &str = "/usr/local/bin";
/// The shim.
pub const SHIM: &str = "containerd-shim-godwit-v2";

/// Every program of a release and the link by which it is found.
#[must_use]
pub fn places() -> Vec<(&'static str, PathBuf)> {
    let called = CALLED.iter().map(|name| (*name, Path::new(BIN).join(name)));
    called
        .chain([
            ("godwit-pager", PathBuf::from(names::PAGER_PATH)),
            // runc starts it as its CRIU.
            ("godwit-relay", Path::new(names::RELAY_DIR).join("criu")),
        ])
        .collect()
}

/// A release that is not installed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// `VERSION-DIGEST`.
    pub id: String,
    /// The directory that it comes from.
    pub from: PathBuf,
    /// Its programs and their digests.
    pub programs: Vec<(&'static str, String)>,
    /// Bytes of all of them.
    pub bytes: u64,
}

impl Release {
    /// Looks at the programs in a directory and runs each: one that was built for another system says so here.
    ///
    /// # Errors
    /// One is missing or does not run.
    pub fn look(from: &Path) -> Result<Self> {
        let mut programs = vec![];
        let mut bytes = 0;
        for (name, _) in places() {
            let path = from.join(name);
            let meta = std::fs::metadata(&path).map_err(|_| missing(&path))?;
            bytes += meta.len();
            programs.push((name, digest_of(&path)?));
        }
        let version = version_of(from)?;
        let mut hasher = blake3::Hasher::new();
        for (name, digest) in &programs {
            hasher.update(format!("{name} {digest}\n").as_bytes());
        }
        let digest = hasher.finalize().to_hex();
        Ok(Self {
            id: format!("{version}-{}", &digest[..12]),
            from: from.to_owned(),
            programs,
            bytes,
        })
    }
}

/// The version that `godwit` of this directory says; the programs that can be asked have to run.
fn version_of(from: &Path) -> Result<String> {
    let ask = |name: &str, flag: &str| {
        text(Command::new(from.join(name)).arg(flag)).map_err(|why| {
            Error::Refused(format!(
                "{name} does not run on this node ({}): take a release that was built for it",
                crate::error_chain(&why)
            ))
        })
    };
    ask(SHIM, "-version")?;
    ask("godwit-agent", "--version")?;
    let told = ask("godwit", "--version")?;
    let version = told.split_whitespace().last().unwrap_or_default();
    let fits = |c: char| c.is_ascii_alphanumeric() || ".-+_".contains(c);
    match !version.is_empty() && !version.starts_with('.') && version.chars().all(fits) {
        true => Ok(version.to_owned()),
        false => Err(Error::Refused(format!("{told:?} is no version of godwit"))),
    }
}

fn missing(path: &Path) -> Error {
    Error::Refused(format!(
        "{} is missing: name the directory of a complete release by --from (`make release` builds one)",
        path.display()
    ))
}

/// Where a release is kept.
#[must_use]
pub fn dir_of(prefix: &Path, release: &str) -> PathBuf {
    prefix.join("releases").join(release)
}

/// Puts the release beside the others, then in their place.
///
/// # Errors
/// It cannot be written.
pub fn install(session: &mut Session, release: &Release) -> Result<()> {
    let prefix = session.settings.prefix.clone();
    let dir = dir_of(&prefix, &release.id);
    session.make_dirs(Stage::Programs, &prefix)?;
    copy(session, release, &dir)?;
    let current = session.book.record.release.clone();
    if current.as_ref() != Some(&release.id) {
        session.remember(|record| {
            record.previous = current;
            record.release = Some(release.id.clone());
        })?;
    }
    session.link(Stage::Programs, &prefix.join("current"), &dir)?;
    for (name, place) in places() {
        session.link(Stage::Programs, &place, &prefix.join("current").join(name))?;
    }
    Ok(())
}

/// Nobody names the directory before `current` does.
fn copy(session: &mut Session, release: &Release, dir: &Path) -> Result<()> {
    let mut stale = vec![];
    for (name, digest) in &release.programs {
        let wanted = State::File { digest: digest.clone(), mode: 0o755 };
        if State::of(&dir.join(name))? != wanted {
            stale.push(*name);
        }
    }
    if stale.is_empty() {
        return Ok(());
    }
    session.act(Stage::Programs, &format!("copy release {}", release.id), |disk| {
        disk.make_dir(dir.parent().unwrap_or(dir))?;
        disk.make_dir(dir)?;
        stale
            .iter()
            .try_for_each(|name| disk.copy(&release.from.join(name), &dir.join(name), 0o755))
    })
}

/// Removes releases but the present one, the one before it, and those that processes run from.
///
/// # Errors
/// One cannot be removed.
pub fn prune(session: &mut Session) -> Result<()> {
    let releases = session.settings.prefix.join("releases");
    let running = running_below(&releases);
    let record = &session.book.record;
    let kept = [record.release.clone(), record.previous.clone()];
    let old = std::fs::read_dir(&releases).into_iter().flatten().flatten().filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let used = running.iter().any(|(_, exe)| exe.starts_with(entry.path()));
        !kept.contains(&Some(name)) && !used
    });
    for entry in old.collect::<Vec<_>>() {
        let what = format!("remove release {}", entry.file_name().to_string_lossy());
        session.act(Stage::Programs, &what, |disk| disk.remove_tree(&entry.path()))?;
    }
    Ok(())
}

/// Takes links and releases away.
///
/// # Errors
/// They cannot be removed.
pub fn revert(session: &mut Session) -> Result<()> {
    // Links first, in the opposite order; the prefix's own entries come last and need it empty.
    let releases = session.settings.prefix.join("releases");
    let entries = session.book.entries_of(Stage::Programs);
    if entries.is_empty() && !releases.exists() {
        return Ok(());
    }
    let links = |entry: &crate::record::Entry| entry.ours != [State::Directory];
    session.undo(Stage::Programs, links)?;
    if releases.exists() {
        let what = format!("remove {}", releases.display());
        session.act(Stage::Programs, &what, |disk| disk.remove_tree(&releases))?;
    }
    session.undo(Stage::Programs, |_| true).map(drop)
}
