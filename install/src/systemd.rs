//! systemd: the agent's unit, and whether the agent that runs is the installed one.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::files::{State, digest_of};
use crate::process::{output, runs, text};
use crate::record::Stage;
use crate::session::{Change, Session};
use crate::{Error, Result, programs};

/// The unit.
pub const UNIT: &str = "godwit-agent.service";
const TEXT: &str = include_str!("../../agent/godwit-agent.service");
const DIR: &str = "/etc/systemd/system";
/// What `systemctl enable` would make.
const WANTED_BY: &str = "multi-user.target.wants";

/// Calls `systemctl`.
///
/// # Errors
/// It fails.
pub fn call(words: &[&str]) -> Result<()> {
    output(Command::new("systemctl").args(words)).map(drop)
}

/// Writes and enables the unit.
///
/// # Errors
/// It cannot be written, or systemd cannot read it.
pub fn install(session: &mut Session) -> Result<()> {
    let unit = place(UNIT);
    session.put(Stage::Units, &unit, TEXT.as_bytes(), 0o644)?;
    session.link(Stage::Units, &place(WANTED_BY).join(UNIT), &unit)?;
    reload(session, Stage::Units, &[UNIT])
}

/// Where a unit is.
#[must_use]
pub fn place(unit: &str) -> PathBuf {
    Path::new(DIR).join(unit)
}

/// Has systemd read units anew. It knows itself whether it has read what is there.
///
/// # Errors
/// It cannot be asked, or cannot read them.
pub fn reload(session: &mut Session, stage: Stage, units: &[&str]) -> Result<()> {
    if session.settings.dry_run {
        return Ok(());
    }
    for unit in units {
        if show(unit, "NeedDaemonReload")? == "yes" || show(unit, "LoadState")? != "loaded" {
            return session.act(stage, "reload systemd", |_| call(&["daemon-reload"]));
        }
    }
    Ok(())
}

/// A property of a unit.
///
/// # Errors
/// systemd does not answer.
pub fn show(unit: &str, property: &str) -> Result<String> {
    text(Command::new("systemctl").args(["show", "--value", "--property", property, unit]))
}

/// Starts the agent, anew if one runs that is of another release or was started by another unit.
///
/// # Errors
/// It does not start; with the words of systemd.
pub fn start(session: &mut Session) -> Result<()> {
    if session.settings.dry_run {
        return Ok(());
    }
    let applied = Some(digest_of(&place(UNIT))?);
    let pid: u32 = show(UNIT, "MainPID")?.parse().unwrap_or_default();
    let program = Path::new(programs::BIN).join("godwit-agent");
    let is_ours = pid != 0 && runs(pid, &program) && session.book.record.unit_applied == applied;
    if is_ours && show(UNIT, "ActiveState")? == "active" {
        return Ok(());
    }
    let restart = || {
        // One that has failed too often would not be tried again.
        call(&["reset-failed", UNIT]).or_else(|_| Ok::<_, Error>(()))?;
        call(&["restart", UNIT]).map_err(|why| with_log(&why))
    };
    session.act_once(Stage::Units, &format!("start {UNIT}"), restart, |record| {
        record.unit_applied = applied;
    })
}

fn with_log(why: &Error) -> Error {
    let words = ["--no-pager", "--lines", "5", "--output", "cat", "--unit", UNIT];
    let log = text(Command::new("journalctl").args(words)).unwrap_or_default();
    Error::Refused(format!(
        "{UNIT} does not start ({}). Its last words: {log}",
        crate::error_chain(why)
    ))
}

/// Stops the agent and takes its unit away.
///
/// # Errors
/// It does not stop, or the unit cannot be removed.
pub fn revert(session: &mut Session) -> Result<()> {
    let has_unit = State::of(&place(UNIT))? != State::Absent;
    let runs = || Ok::<_, Error>(show(UNIT, "ActiveState")? != "inactive");
    if has_unit && session.book.entry(&place(UNIT)).is_some() && runs()? {
        session.act(Stage::Units, &format!("stop {UNIT}"), |_| call(&["stop", UNIT]))?;
    }
    let change = session.undo(Stage::Units, |_| true)?;
    session.remember(|record| record.unit_applied = None)?;
    forget(session, Stage::Units, change, &[UNIT])
}

/// Has systemd forget units whose files are gone, also when a run before has died in between.
///
/// # Errors
/// It cannot be asked.
pub fn forget(session: &mut Session, stage: Stage, change: Change, units: &[&str]) -> Result<()> {
    let mut is_due = change == Change::Made;
    for unit in units {
        is_due = is_due || show(unit, "NeedDaemonReload")? == "yes";
    }
    match is_due {
        true => session.act(stage, "reload systemd", |_| call(&["daemon-reload"])),
        false => Ok(()),
    }
}
