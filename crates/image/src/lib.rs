//! The checkpoint's format: packs, frames, page maps, digests, head, manifest; encode and decode only, no I/O.
//!
//! ```text
//! page ─┬─ zero ............................ a run in the page map
//!       └─ frame (≤ 32 pages) ── pack (≤ 16 MiB) ── pack table of the head ── head ── manifest
//! ```
//! Every decoder treats its input as hostile: lengths are checked before anything is allocated ([`limits`]), and errors
//! are typed. Byte tables are in `docs/format/`; `tests/golden` holds objects of every released version.

mod compress;
pub mod cursor;
mod digest;
mod digests;
mod error;
mod exchange;
#[cfg(any(test, feature = "fixture"))]
pub mod fixture;
mod frame;
mod head;
pub mod header;
pub mod limits;
pub mod manifest;
mod pack;
mod page_map;

pub use digest::{Digest, InvalidDigest, PageDigest};
pub use digests::{
    BLOCK_PAGES, BlockNumber, DigestBlock, DigestIndex, DigestMerge, KnownBlock, KnownDigests,
    StoredDigests,
};
pub use error::ImageError;
pub use exchange::{FrameSource, PackSink, SinkError};
pub use frame::{Codec, EncodedFrame, FrameDecoder, FrameEncoder, FrameRecord, FrameRef};
pub use head::{
    ContainerHead, EncodedHead, Head, PagemapEntry, SECTION_DESCRIPTORS, SECTION_FILES,
    SECTION_SPEC, Sections, Space, SpaceHead, decode_recent, encode_recent, section_of_volume,
};
pub use header::{HEADER_BYTES, Header, Kind};
pub use manifest::Manifest;
pub use pack::{
    FinishedPack, Footer, FrameTable, FrameUsage, Located, PackBuilder, PackKind, PackName,
    PackRecord, PackRegistry, PackSlot, PackTable, PackWriter, WriteError,
};
pub use page_map::{PageMap, PageMapBuilder, PageRun, PageSource};
