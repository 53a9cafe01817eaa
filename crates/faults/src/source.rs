//! Where frames come from, and who is told what happens: the two traits that the owner of a [`crate::Hydrator`] implements.

use std::os::fd::BorrowedFd;

use godwit_image::FrameRef;
use godwit_types::Code;

use crate::{Delivery, FaultsError, GroupId, Totals};

/// Who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// A thread of the process: before everything else.
    Urgent,
    /// Nobody yet.
    Prefetch,
}

/// Names a request; a delivery is matched by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket {
    pub(crate) family: u32,
    pub(crate) frame: u32,
}

impl Ticket {
    /// The ticket as one number.
    #[must_use]
    pub fn number(self) -> u64 {
        u64::from(self.family) << 32 | u64::from(self.frame)
    }
}

/// A frame that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// To be given back with the frame.
    pub ticket: Ticket,
    /// The source number that came with the page map.
    pub source: u32,
    /// The frame.
    pub frame: FrameRef,
}

/// Verified, decompressed pages of one frame. Dropping it gives the memory back to the source.
pub trait FramePages: Send + Sync {
    /// Whole pages, from the frame's first on.
    fn bytes(&self) -> &[u8];
}

impl FramePages for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// Why a frame cannot be had, after all that the source could try. It is the end of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameFailure {
    /// What it means.
    pub code: Code,
    /// A sentence for a person.
    pub reason: String,
}

/// Gives frames. Retries, deadlines and reconnecting are its business.
pub trait FrameSource: Send + Sync {
    /// Called once, before the first request. Deliveries go to `delivery`, from any thread.
    fn start(&self, delivery: Delivery);

    /// Asks for frames, best first. **Must not block**: it is called by the event loop. Each ticket is delivered exactly once; one
    /// that is in flight may be asked for again with [`Lane::Urgent`], which moves it ahead.
    fn request(&self, wants: &[Want], lane: Lane);
}

/// Whether somebody holds a duplicate of a child's descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handed {
    /// Yes: the child may be served.
    Kept,
    /// Not yet: try again soon. The child waits.
    Busy,
}

/// Why a descriptor is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// Every page is in place.
    Filled,
    /// The process has ended, or has called exec.
    Gone,
}

/// Is told what happens. Called by the event loop and the copy threads: **must not block**.
pub trait Observer: Send + Sync {
    /// A process forked. Keep a duplicate of the child's descriptor: the child is served after [`Handed::Kept`] only.
    fn forked(&self, parent: u64, child: u64, uffd: BorrowedFd<'_>) -> Handed;

    /// This descriptor is of no more use. It is served until [`crate::Hydrator::release`] is called, which is to happen when all
    /// duplicates are closed.
    fn finished(&self, descriptor: u64, why: Finished);

    /// All descriptors of the group are released: its memory is its own again. Called once.
    fn hydrated(&self, group: GroupId, totals: Totals);

    /// The memory of the group (of all groups: `None`) cannot be completed: kill it. Called once for each group. Its descriptors stay
    /// open until its processes are gone.
    fn fatal(&self, group: Option<GroupId>, error: &FaultsError);
}
