//! The writable layer of a container: out of an overlay's upper directory into packs, and back into a root file system.
//!
//! ```text
//!            running                              frozen                    after the thaw
//!  Upper ── Layer::scan ──► Scan ── (rescan) ──► Layer::freeze ──► Frozen ── finish ──► FileIndex (a section of the head)
//!              │ packs                             │ what changed: memory      │ packs
//!           PackSink                            (beyond the budget: packs)   PackSink
//!
//!  FileIndex ── apply ──► the new container's root file system, before any process of it exists
//!               ▲ frames
//!            FrameSource
//! ```
//! Owns: what a writable layer is ([`FileIndex`]), how it is read without trusting the container that writes it, what
//! counts as unchanged, and how a hostile index is kept inside the root it is applied to. Does not own packs, the store,
//! the freeze, or what CRIU keeps itself: files that are deleted but open have no name, so they are CRIU's (ghost files in
//! its images). The names that CRIU gives to other such files while it dumps (`link_remap.*`) are ordinary names: therefore
//! [`Layer::freeze`] belongs *after* CRIU's dump and before its verdict.
//!
//! Everything here blocks and is meant for threads that may. Nothing here is `unsafe`, and nothing writes to a layer that
//! it captures.

mod apply;
mod capture;
mod error;
mod halt;
mod index;
mod mapped;
mod upper;
mod xattr;

#[cfg(test)]
mod fixture;

pub use apply::{Application, Applied, Devices, Target, apply, empty};
pub use capture::{Captured, FileStats, Frozen, Layer, Scan};
pub use error::FilesError;
pub use halt::Halt;
pub use index::{
    Chunk, Device, Entry, FileIndex, Inode, Instance, Node, Seen, Time, What, Xattr, limits,
};
pub use mapped::MappedFiles;
pub use upper::{Marks, Upper, is_in_memory};
