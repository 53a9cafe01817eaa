//! Memory into processes: page map look-up, userfaultfd, placement, lanes.
//!
//! A [`Hydrator`] serves the userfaultfds of restored processes: it answers their faults first, fills the rest of their memory while
//! they run, and follows everything that they do to their mappings meanwhile. It knows frames only by a trait ([`FrameSource`]) and
//! reports to another one ([`Observer`]). Threads, no runtime.
//!
//! Keeps invariant 4, *no invented pages*: a page is the one that was captured, or nobody gets past it.
//!
//! What the kernel cannot tell and this crate therefore cannot know: `MADV_GUARD_INSTALL` on pages that are not there yet raises no
//! event, so what they held can come back over the guard; and a child's `MADV_WIPEONFORK` mapping looks like any other, so such pages
//! must not be lazy.

mod bits;
mod error;
mod group;
mod hydrator;
mod lanes;
mod layout;
mod limit;
mod member;
mod place;
mod prefetch;
mod source;
mod space;
mod sys;
mod translation;
mod uffd;
mod wanted;

pub use error::FaultsError;
pub use group::{GroupId, Totals};
pub use hydrator::{Delivery, FamilyId, Hydrator, Process, Settings};
pub use layout::Layout;
pub use limit::MemoryLimit;
pub use source::{
    Finished, FrameFailure, FramePages, FrameSource, Handed, Lane, Observer, Ticket, Want,
};
pub use uffd::{Event, Probed, Stop, Uffd, is_alive};
