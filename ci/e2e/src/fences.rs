//! How much of what is written to local disks is fences: each writing of one is seen.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use godwit_types::names;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use crate::bed::Bed;

/// What a disk gets of a fence: each writing is a new file, smaller than a block.
const BLOCK: u64 = 4096;

/// A look at the fences of both nodes.
#[derive(Debug)]
pub struct Fences(OwnedFd);

impl Fences {
    /// Looks from now on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn watch(bed: &Bed) -> Result<Self> {
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        for node in [&bed.n1, &bed.n2] {
            node.run(&["mkdir", "--parents", "--mode=700", names::FENCES])?;
            let dir = node.host_path(names::FENCES)?;
            inotify::add_watch(&watch, &dir, WatchFlags::CLOSE_WRITE)
                .with_context(|| format!("watching {}", dir.display()))?;
        }
        Ok(Self(watch))
    }

    /// Bytes that were written since.
    ///
    /// # Errors
    /// The kernel's.
    pub fn bytes(&self) -> Result<u64> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.0, &mut buffer);
        let mut writings = 0;
        loop {
            match events.next() {
                Ok(_) => writings += 1,
                Err(Errno::WOULDBLOCK) => return Ok(writings * BLOCK),
                Err(error) => return Err(error).context("reading what happened to fences"),
            }
        }
    }
}
