//! Page digests: what tells the pages that changed since the parent checkpoint.
//!
//! A *block* covers 1 MiB of addresses (256 pages, numbered `page / 256`) and is one frame in a pack of kind
//! [`crate::PackKind::Digests`]. The *index* of an address space names its blocks. Pages of zeros and pages that are not
//! there have no digest: the page map knows them.

mod block;
mod index;
mod known;
mod merge;

pub use block::{BLOCK_PAGES, BlockNumber, DigestBlock};
pub use index::DigestIndex;
pub use known::{KnownBlock, KnownDigests, StoredDigests};
pub use merge::DigestMerge;
