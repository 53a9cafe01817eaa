//! Programs that the lab builds from Go modules, once, into the cache.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::command::run_shown;
use crate::error::{LabError, Result};
use crate::lock::LabLock;
use crate::places;

/// Of another process that builds the same: minutes.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// The directory of a tool in the cache; when it is not there, `build` makes it, in a directory that becomes it if all went well.
///
/// # Errors
/// What `build` says.
pub fn ensure(name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let dir = places::cache().join("tools").join(name);
    if dir.exists() {
        return Ok(dir);
    }
    // Names have dots in them, which are no extensions.
    let beside = |suffix: &str| dir.with_file_name(format!("{name}.{suffix}"));
    let _lock = LabLock::take(&beside("lock"), &format!("the build of {name}"), PATIENCE)?;
    if dir.exists() {
        return Ok(dir);
    }
    eprintln!("building {name} (once, a few minutes)");
    let half = beside("half");
    places::remove(&half)?;
    places::make_dir(&half)?;
    build(&half)?;
    std::fs::rename(&half, &dir).map_err(LabError::io("renaming", &half))?;
    Ok(dir)
}

/// Runs a line of shell, showing what it says.
///
/// # Errors
/// When it fails.
pub fn shell(from: &Path, line: &str, env: &[(&str, &Path)]) -> Result<()> {
    run_shown(Command::new("sh").args(["-c", line]).envs(env.iter().copied()).current_dir(from))
}

/// Runs `go` with these words, showing what it says. `from`: the directory of its module.
///
/// # Errors
/// When it fails.
pub fn go(from: &Path, words: &[&str], env: &[(&str, &Path)]) -> Result<()> {
    run_shown(Command::new("go").args(words).envs(env.iter().copied()).current_dir(from))
}
