//! One run on one node: the lock, the record, and the few kinds of change that stages are made of. Each change is skipped when the
//! node is that way already, told, noted in the record before it is made, and only told in a dry run.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use godwit_types::names;
use godwit_wire::failpoint::site;
use rustix::fs::{FlockOperation, flock};

use crate::files::{Disk, State};
use crate::record::{Book, Entry, Stage};
use crate::settings::Settings;
use crate::{Error, Result};

/// Directory of the record.
pub const DIR: &str = "/var/lib/godwit/install";

/// Whether something was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was as it should be.
    None,
    /// It is now (in a dry run: would be).
    Made,
}

/// One run.
#[derive(Debug)]
pub struct Session {
    /// What was asked.
    pub settings: Settings,
    /// What is installed.
    pub book: Book,
    /// How files are written.
    pub disk: Disk,
    /// What is left to whoever called.
    pub left: Vec<String>,
    _lock: Option<File>,
}

impl Session {
    /// Takes the node's lock and reads the record. A dry run takes no lock and makes nothing.
    ///
    /// # Errors
    /// Another run works on this node, or the record cannot be used.
    pub fn open(settings: &Settings) -> Result<Self> {
        Self::open_in(Path::new(DIR), settings)
    }

    /// As [`Session::open`], with the record elsewhere.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub fn open_in(dir: &Path, settings: &Settings) -> Result<Self> {
        let disk = Disk { volatile: settings.volatile };
        let lock = if settings.dry_run { None } else { Some(lock(dir)?) };
        let book = Book::open(dir, disk)?;
        Ok(Self { settings: settings.clone(), book, disk, left: vec![], _lock: lock })
    }

    /// A file with these bytes at `path`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put(&mut self, stage: Stage, path: &Path, bytes: &[u8], mode: u32) -> Result<Change> {
        let wanted = State::of_bytes(bytes, mode);
        self.change(stage, path, wanted, |disk| disk.put(path, bytes, mode))
    }

    /// A link to `target` at `path`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn link(&mut self, stage: Stage, path: &Path, target: &Path) -> Result<Change> {
        let wanted = State::Link { target: target.to_owned() };
        self.change(stage, path, wanted, |disk| disk.link(path, target))
    }

    /// Something that is no change of a recorded path. It is done again when a crash leaves it half done.
    ///
    /// # Errors
    /// As `act`.
    pub fn act(
        &mut self,
        stage: Stage,
        what: &str,
        act: impl FnOnce(Disk) -> Result<()>,
    ) -> Result<()> {
        self.say(stage, what);
        if self.settings.dry_run {
            return Ok(());
        }
        act(self.disk)?;
        site("install.step");
        Ok(())
    }

    /// As [`Session::act`], and remembers that it was done: it is not done again then.
    ///
    /// # Errors
    /// As `act`, or the record cannot be written.
    pub fn act_once(
        &mut self,
        stage: Stage,
        what: &str,
        act: impl FnOnce() -> Result<()>,
        remember: impl FnOnce(&mut crate::record::Record),
    ) -> Result<()> {
        self.say(stage, what);
        if self.settings.dry_run {
            return Ok(());
        }
        act()?;
        self.remember(remember)?;
        site("install.step");
        Ok(())
    }

    /// Changes the record itself.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn remember(&mut self, change: impl FnOnce(&mut crate::record::Record)) -> Result<()> {
        let before = self.book.record.clone();
        change(&mut self.book.record);
        match self.settings.dry_run || self.book.record == before {
            true => Ok(()),
            false => self.book.store(),
        }
    }

    /// Makes a directory and those above it.
    ///
    /// # Errors
    /// One cannot be made.
    pub fn make_dirs(&mut self, stage: Stage, dir: &Path) -> Result<()> {
        let missing: Vec<PathBuf> =
            dir.ancestors().take_while(|d| !d.exists()).map(Path::to_owned).collect();
        for dir in missing.iter().rev().filter(|_| !self.settings.dry_run) {
            self.book.note(stage, dir, State::Directory)?;
            self.disk.make_dir(dir)?;
        }
        Ok(())
    }

    /// Takes those changes of a stage back that are chosen, the newest first.
    ///
    /// # Errors
    /// What was there cannot be put back.
    pub fn undo(&mut self, stage: Stage, chosen: impl Fn(&Entry) -> bool) -> Result<Change> {
        let mut change = Change::None;
        for entry in self.book.entries_of(stage).iter().filter(|entry| chosen(entry)) {
            change = Change::Made;
            self.say_undo(entry);
            if !self.settings.dry_run {
                self.book.undo(entry)?;
                site("install.step");
            }
        }
        Ok(change)
    }

    fn say_undo(&self, entry: &Entry) {
        let path = entry.path.display();
        match entry.before {
            State::Absent => self.say(entry.stage, &format!("remove {path}")),
            _ => self.say(entry.stage, &format!("put back {path}")),
        }
    }

    /// Prints what is done, or would be.
    pub fn say(&self, stage: Stage, what: &str) {
        let would = if self.settings.dry_run { "would " } else { "" };
        println!("{stage:12}  {would}{what}");
    }

    fn change(
        &mut self,
        stage: Stage,
        path: &Path,
        wanted: State,
        make: impl FnOnce(Disk) -> Result<()>,
    ) -> Result<Change> {
        let is_so = State::of(path)? == wanted;
        if is_so && self.book.entry(path).is_some() {
            return Ok(Change::None);
        }
        if !is_so {
            self.say(stage, &format!("write {}", path.display()));
        }
        if self.settings.dry_run {
            return Ok(if is_so { Change::None } else { Change::Made });
        }
        self.make_dirs(stage, path.parent().unwrap_or(path))?;
        self.book.note(stage, path, wanted)?;
        site("install.noted");
        if is_so {
            return Ok(Change::None);
        }
        make(self.disk)?;
        site("install.step");
        Ok(Change::Made)
    }
}

/// The node's lock: held until the file is closed.
fn lock(dir: &Path) -> Result<File> {
    let make = |dir: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    make(Path::new(names::STATE_DIR)).and_then(|()| make(dir)).map_err(Error::io("make", dir))?;
    let path = dir.join("lock");
    let file = File::options().create(true).append(true).open(&path);
    let file = file.map_err(Error::io("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Refused(
            "another godwit-install works on this node: wait until it has ended".to_owned(),
        )),
        Err(why) => Err(Error::io("lock", &path)(why.into())),
    }
}
