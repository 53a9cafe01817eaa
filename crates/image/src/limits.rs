//! Every bound of the format in one place. Decoders check them before they allocate.

/// Pages in a full frame of memory.
pub const PAGES_PER_FRAME: u32 = 32;
/// Uncompressed bytes in a frame at most: 32 pages of 4 KiB.
pub const MAX_FRAME_BYTES: usize = 128 << 10;
/// Size of a pack at most, header and footer included.
pub const MAX_PACK_BYTES: usize = 16 << 20;
/// Frames in a pack at most. A pack of 4 KiB frames has about 4,000; small files may make more.
pub const MAX_FRAMES_PER_PACK: u32 = 1 << 16;
/// Packs that one checkpoint may refer to: 1 Mi × 16 MiB = 16 TiB.
pub const MAX_PACKS: u32 = 1 << 20;
/// Frames that one checkpoint may refer to: 64 Mi × 128 KiB = 8 TiB.
pub const MAX_FRAMES: u64 = 64 << 20;
/// Highest page number: 2^64 bytes of 4 KiB pages.
pub const MAX_PAGE: u64 = 1 << 52;
/// Runs in a page map at most: 16 Mi scattered pages, 64 GiB at the very worst.
pub const MAX_RUNS: u64 = 16 << 20;
/// Pages of one address space that are remembered as written last, at most: 64 MiB.
pub const MAX_RECENT_PAGES: u64 = 16 << 10;
/// Uncompressed bytes of an encoded page map or digest index: 16 Mi runs of at most 24 bytes.
pub const MAX_MAP_BYTES: u64 = 24 * MAX_RUNS;
/// Uncompressed bytes of one section of a head (a CRIU image, a file index, a page map). The largest are CRIU's ghost
/// files: deleted files that are still open, at most 512 MiB by default.
pub const MAX_SECTION_BYTES: u64 = 1 << 30;
/// Uncompressed bytes of all sections of a head.
pub const MAX_HEAD_BYTES: u64 = 2 << 30;
/// Sections in a head at most.
pub const MAX_SECTIONS: u64 = 1 << 20;
/// Containers in a pod at most.
pub const MAX_CONTAINERS: u64 = 1 << 10;
/// Length of a name (of a container, an image, a section) at most.
pub const MAX_NAME_BYTES: u64 = 512;
/// Size of a manifest at most.
pub const MAX_MANIFEST_BYTES: usize = 64 << 20;
