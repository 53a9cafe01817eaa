//! Programs that the installer runs, and processes that it looks at.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(50);
/// Most that is told of what a program printed.
const SHOWN: usize = 1500;

/// Runs a program to its end; it has to succeed. What it printed to standard output.
///
/// # Errors
/// It cannot be started or fails.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let line = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ");
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Io { attempt: format!("run `{line}`"), source })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let mut said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.is_empty() {
        said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    }
    let from = said.char_indices().rev().nth(SHOWN).map_or(0, |(at, _)| at);
    let how = output.status.to_string();
    Err(Error::Failed { command: line, how, said: said[from..].to_owned() })
}

/// As [`output`], as text.
///
/// # Errors
/// As [`output`].
pub fn text(command: &mut Command) -> Result<String> {
    output(command).map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// Asks until there is an answer.
///
/// # Errors
/// [`Error::Late`] with the last answer that was none.
pub fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut ask: impl FnMut() -> Result<T>,
) -> Result<T> {
    let end = Instant::now() + patience;
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(why) if Instant::now() > end => {
                return Err(Error::Late {
                    what: what.to_owned(),
                    seconds: patience.as_secs(),
                    last: crate::error_chain(&why),
                });
            }
            Err(_) => std::thread::sleep(INTERVAL),
        }
    }
}

/// The program that a process runs; its path without what the kernel adds when the file was replaced.
#[must_use]
pub fn exe_of(pid: u32) -> Option<PathBuf> {
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let text = exe.to_string_lossy();
    Some(text.strip_suffix(" (deleted)").map_or_else(|| exe.clone(), PathBuf::from))
}

/// Whether a process runs this very file, whatever the names of either.
#[must_use]
pub fn runs(pid: u32, program: &Path) -> bool {
    let inode = |path: &Path| std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    let running = inode(Path::new(&format!("/proc/{pid}/exe")));
    running.is_some() && running == inode(program)
}

/// All processes whose program is below this directory, with the program.
#[must_use]
pub fn running_below(dir: &Path) -> Vec<(u32, PathBuf)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, exe_of(pid)?)))
        .filter(|(_, exe)| exe.starts_with(dir))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_is_told_with_its_words() {
        let error = output(Command::new("sh").args(["-c", "echo no room >&2; exit 3"]));
        let text = error.unwrap_err().to_string();
        assert!(text.contains("no room") && text.contains("exit status: 3"), "{text}");
    }

    #[test]
    fn a_process_is_found_by_its_program() {
        let me = std::env::current_exe().unwrap();
        let found = running_below(me.parent().unwrap());
        assert!(found.contains(&(std::process::id(), me.clone())));
        assert!(runs(std::process::id(), &me));
        assert!(!runs(std::process::id(), Path::new("/bin/sh")));
    }
}
