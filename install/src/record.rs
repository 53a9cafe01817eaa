//! What was changed on this node and what was there before: `/var/lib/godwit/install/`.
//!
//! An entry is on disk before its change is made. So whatever the moment of a crash, each changed path has an entry, and what
//! it was before can be put back. A path keeps the first entry's "before" through all later releases, unless somebody else has
//! changed it meanwhile: then that is what comes back.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::{Disk, State, next_of};
use crate::{Error, Result};

const FORMAT: u32 = 1;
/// States of ours that are remembered for one path: releases that a node has had.
const REMEMBERED: usize = 16;

/// The stages that change files, in the order in which they are installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Releases and links to them.
    Programs,
    /// The agent's configuration.
    Agent,
    /// containerd's configuration.
    Containerd,
    /// The agent's unit.
    Units,
    /// The CRI proxy's units.
    Proxy,
    /// The kubelet's configuration.
    Kubelet,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Programs => "programs",
            Self::Agent => "agent",
            Self::Containerd => "containerd",
            Self::Units => "units",
            Self::Proxy => "proxy",
            Self::Kubelet => "kubelet",
        })
    }
}

/// What is installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    format: u32,
    /// The release that `current` points to, or is about to.
    pub release: Option<String>,
    /// The one before it.
    pub previous: Option<String>,
    /// Digest of the agent's unit that the running agent was started with.
    pub unit_applied: Option<String>,
    /// Changed paths, oldest first.
    pub entries: Vec<Entry>,
    /// Number of the next file in `before/`.
    next: u32,
}

/// One changed path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Whose change.
    pub stage: Stage,
    /// What was changed.
    pub path: PathBuf,
    /// What was there before.
    pub before: State,
    /// Name in `before/` of its bytes, if it was a file.
    pub saved: Option<String>,
    /// What we have put there.
    pub ours: Vec<State>,
}

/// The record and the directory that it is kept in.
#[derive(Debug)]
pub struct Book {
    dir: PathBuf,
    disk: Disk,
    /// What it says.
    pub record: Record,
}

impl Book {
    /// Reads the record in `dir`; an empty one if there is none.
    ///
    /// # Errors
    /// [`Error::Record`] for one that is damaged or newer.
    pub fn open(dir: &Path, disk: Disk) -> Result<Self> {
        let path = dir.join("record.json");
        let wrong = |why: String| Error::Record { path: path.clone(), why };
        let record: Record = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|why| wrong(why.to_string()))?,
            Err(why) if why.kind() == ErrorKind::NotFound => Record {
                format: FORMAT,
                release: None,
                previous: None,
                unit_applied: None,
                entries: vec![],
                next: 0,
            },
            Err(why) => return Err(Error::io("read", &path)(why)),
        };
        if record.format != FORMAT {
            return Err(wrong(format!("its format is {}, known is {FORMAT}", record.format)));
        }
        Ok(Self { dir: dir.to_owned(), disk, record })
    }

    /// Whether nothing is installed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.record.entries.is_empty() && self.record.release.is_none()
    }

    /// Writes it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn store(&self) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(&self.record)
            .map_err(|why| Error::Record { path: self.dir.clone(), why: why.to_string() })?;
        self.disk.put(&self.dir.join("record.json"), &bytes, 0o600)
    }

    /// Notes that `path` is about to become `ours`.
    ///
    /// # Errors
    /// What is there cannot be read or kept.
    pub fn note(&mut self, stage: Stage, path: &Path, ours: State) -> Result<()> {
        let now = State::of(path)?;
        if now == ours && self.entry(path).is_none() {
            // As if we had put it there: a run of an older installer, whose record is gone.
            return self.add(stage, path, (State::Absent, None), ours);
        }
        let known = self.entry(path).map(|entry| entry.ours.contains(&now) || entry.before == now);
        match known {
            None => {
                let before = self.keep(path, now)?;
                self.add(stage, path, before, ours)
            }
            Some(known) => {
                let before = if known { None } else { Some(self.keep(path, now)?) };
                self.renew(path, before, ours)
            }
        }
    }

    fn add(
        &mut self,
        stage: Stage,
        path: &Path,
        (before, saved): (State, Option<String>),
        ours: State,
    ) -> Result<()> {
        let path = path.to_owned();
        self.record.entries.push(Entry { stage, path, before, saved, ours: vec![ours] });
        self.store()
    }

    fn renew(
        &mut self,
        path: &Path,
        before: Option<(State, Option<String>)>,
        ours: State,
    ) -> Result<()> {
        let Some(entry) = self.record.entries.iter_mut().find(|e| e.path == path) else {
            return Ok(());
        };
        if let Some((state, saved)) = before {
            (entry.before, entry.saved) = (state, saved);
        } else if entry.ours.contains(&ours) {
            return Ok(());
        }
        entry.ours.retain(|one| *one != ours);
        entry.ours.push(ours);
        let many = entry.ours.len().saturating_sub(REMEMBERED);
        entry.ours.drain(..many);
        self.store()
    }

    /// The entry of a path.
    #[must_use]
    pub fn entry(&self, path: &Path) -> Option<&Entry> {
        self.record.entries.iter().find(|entry| entry.path == path)
    }

    /// Entries of a stage, newest first.
    #[must_use]
    pub fn entries_of(&self, stage: Stage) -> Vec<Entry> {
        self.record.entries.iter().rev().filter(|e| e.stage == stage).cloned().collect()
    }

    /// Puts back what was there and forgets the entry.
    ///
    /// # Errors
    /// It cannot be put back; the entry stays.
    pub fn undo(&mut self, entry: &Entry) -> Result<()> {
        self.put_back(entry)?;
        self.disk.remove(&next_of(&entry.path))?;
        self.forget(&entry.path)
    }

    /// Forgets a path: what is there stays.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn forget(&mut self, path: &Path) -> Result<()> {
        self.record.entries.retain(|entry| entry.path != path);
        self.store()
    }

    fn put_back(&self, entry: &Entry) -> Result<()> {
        if State::of(&entry.path)? == entry.before {
            return Ok(());
        }
        match (&entry.before, &entry.saved) {
            (State::Absent, _) if entry.ours == [State::Directory] => {
                self.disk.remove_empty(&entry.path)
            }
            (State::File { mode, .. }, Some(saved)) => {
                self.disk.copy(&self.dir.join("before").join(saved), &entry.path, *mode)
            }
            (State::Link { target }, _) => self.disk.link(&entry.path, target),
            (State::Directory, _) => Ok(()),
            (State::Absent | State::File { .. }, _) => self.disk.remove(&entry.path),
        }
    }

    /// Removes record and kept files: nothing is installed any more.
    ///
    /// # Errors
    /// They cannot be removed.
    pub fn close(self) -> Result<()> {
        self.disk.remove(&self.dir.join("record.json"))?;
        self.disk.remove_tree(&self.dir)
    }

    /// Keeps the bytes of a file.
    fn keep(&mut self, path: &Path, now: State) -> Result<(State, Option<String>)> {
        let State::File { mode, .. } = now else { return Ok((now, None)) };
        let dir = self.dir.join("before");
        self.disk.make_dir(&dir)?;
        let name = format!("{:04}", self.record.next);
        self.disk.copy(path, &dir.join(&name), mode)?;
        self.record.next += 1;
        Ok((now, Some(name)))
    }
}
