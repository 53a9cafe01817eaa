//! Packs: frames back to back in one object of at most 16 MiB, written once.
//!
//! ```text
//! header (32) | frame 0 | frame 1 | … | footer | length of the footer, u32 LE | "GWFT"
//! ```
//! The footer names the pack and holds the frame table. Its digest is named by the head, so a reader that has the head
//! needs neither footer nor header: one ranged GET is one frame. The header's CRC is that of the footer.

mod builder;
mod footer;
mod name;
mod reads;
mod registry;
mod table;

pub use builder::PackBuilder;
pub use footer::Footer;
pub use name::{PackKind, PackName, PackSlot};
pub use registry::{FinishedPack, PackRegistry, PackWriter, WriteError};
pub use table::{FrameTable, FrameUsage, Located, PackRecord, PackTable};

/// Bytes after the footer: its length and four letters.
pub(crate) const TRAILER_BYTES: usize = 8;
pub(crate) const TRAILER_MAGIC: [u8; 4] = *b"GWFT";

#[cfg(test)]
mod tests;
