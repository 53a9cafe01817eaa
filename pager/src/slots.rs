//! Shared memory in which an agent puts frames: one memfd for each connection, so that a former agent that still writes spoils nothing.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use godwit_faults::FramePages;
use godwit_wire::pager::frames::SLOT_BYTES;
use rustix::fs::{MemfdFlags, SealFlags};

use crate::error::PagerError;
use crate::sys::Shared;

/// The slots of one connection.
#[derive(Debug)]
pub(crate) struct Slots {
    fd: OwnedFd,
    memory: Shared,
    free: Mutex<Vec<u32>>,
    freed: Box<dyn Notify>,
}

/// Is told when a slot becomes free.
pub(crate) trait Notify: Send + Sync + std::fmt::Debug {
    fn notify(&self);
}

impl Slots {
    /// `count` slots, all free.
    ///
    /// # Errors
    /// No memory.
    pub(crate) fn new(count: u32, freed: Box<dyn Notify>) -> Result<Self, PagerError> {
        let len = u64::from(count) * SLOT_BYTES;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let os = PagerError::os::<std::io::Error>("making shared memory for frames");
        let made = || -> Result<_, std::io::Error> {
            let fd = rustix::fs::memfd_create("godwit-frames", flags)?;
            rustix::fs::ftruncate(&fd, len)?;
            let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
            rustix::fs::fcntl_add_seals(&fd, seals)?;
            let memory = Shared::map(&fd, len as usize)?;
            Ok((fd, memory))
        };
        let (fd, memory) = made().map_err(os)?;
        Ok(Self { fd, memory, free: Mutex::new((0..count).rev().collect()), freed })
    }

    /// The memfd, for the agent.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<u32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A free slot.
    pub(crate) fn take(&self) -> Option<u32> {
        self.free().pop()
    }

    /// Gives a slot back into which nothing was put.
    pub(crate) fn give_back(&self, slot: u32) {
        self.free().push(slot);
        self.freed.notify();
    }

    /// The contents of a slot that the agent calls ready. Dropping them gives the slot back.
    pub(crate) fn filled(self: &Arc<Self>, slot: u32, bytes: u32) -> SlotPages {
        SlotPages { slots: Arc::clone(self), slot, bytes }
    }
}

/// See [`Slots::filled`].
#[derive(Debug)]
pub(crate) struct SlotPages {
    slots: Arc<Slots>,
    slot: u32,
    bytes: u32,
}

impl FramePages for SlotPages {
    fn bytes(&self) -> &[u8] {
        let from = self.slot as usize * SLOT_BYTES as usize;
        self.slots.memory.bytes(from, self.bytes as usize)
    }
}

impl Drop for SlotPages {
    fn drop(&mut self) {
        self.slots.give_back(self.slot);
    }
}
