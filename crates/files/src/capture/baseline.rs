//! What is known already: the round before, or the parent checkpoint.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rustix::fs::Statx;

use super::walk::time;
use crate::{Entry, FileIndex, Inode, Instance, Node, What};

/// The round before, and where in it what was found.
pub(super) struct Baseline<'a> {
    entries: &'a [Entry],
    places: &'a Places,
}

/// By inode within one upper directory, by path where it is another one (the container was moved).
#[derive(Debug)]
pub(super) enum Places {
    Inodes(HashMap<u64, u32>),
    Paths(HashMap<PathBuf, u32>),
}

impl Places {
    /// Where in the index an upper directory's files are looked up. Takes a microsecond for each name, so it is done before
    /// the freeze.
    pub(super) fn of(index: Option<&FileIndex>, instance: &Instance) -> Self {
        match index {
            None => Self::Inodes(HashMap::new()),
            Some(index) if index.instance == *instance => Self::Inodes(by_inode(index)),
            Some(index) => Self::Paths(by_path(index)),
        }
    }
}

impl<'a> Baseline<'a> {
    pub(super) fn of(entries: &'a [Entry], places: &'a Places) -> Self {
        Self { entries, places }
    }

    /// What was found as this inode, or at this path.
    pub(super) fn find(&self, ino: u64, path: &Path) -> Option<&'a Inode> {
        let at = match self.places {
            Places::Inodes(places) => places.get(&ino),
            Places::Paths(places) => places.get(path),
        };
        match &self.entries.get(*at? as usize)?.node {
            Node::Inode(inode) => Some(inode),
            _ => None,
        }
    }

    /// Whether nothing at all can have happened to the inode since it was found.
    pub(super) fn is_unchanged(&self, found: &Inode, stat: &Statx) -> bool {
        let size = match &found.what {
            What::File { size, .. } => *size == stat.stx_size,
            _ => true,
        };
        matches!(self.places, Places::Inodes(_))
            && found.seen.settled
            && found.seen.ino == stat.stx_ino
            && found.seen.changed == time(stat.stx_ctime)
            && found.modified == time(stat.stx_mtime)
            && size
    }
}

fn by_inode(index: &FileIndex) -> HashMap<u64, u32> {
    let numbered = (0u32..).zip(&index.entries);
    let inodes = numbered.filter_map(|(at, entry)| match &entry.node {
        Node::Inode(inode) => Some((inode.seen.ino, at)),
        _ => None,
    });
    inodes.collect()
}

fn by_path(index: &FileIndex) -> HashMap<PathBuf, u32> {
    let numbered = (0u32..).zip(index.paths());
    let places = numbered.filter_map(|(at, (path, entry))| match entry.node {
        Node::Inode(_) => Some((path, at)),
        Node::Link(to) => Some((path, to)),
        Node::Whiteout => None,
    });
    places.collect()
}
