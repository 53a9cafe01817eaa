//! Every bound of the index in one place.

/// Names in a layer at most; 4 Mi of them take about 1 GiB of memory.
pub const MAX_ENTRIES: u64 = 4 << 20;
/// Length of a name at most: `NAME_MAX`.
pub const MAX_NAME: usize = 255;
/// Length of a path from the layer's root on, and of a symbolic link: `PATH_MAX` less the final zero.
pub const MAX_PATH: usize = 4095;
/// Size of a file at most: what ext4 with 4 KiB blocks allows.
pub const MAX_FILE: u64 = 16 << 40;
/// Length of an extended attribute's value at most: `XATTR_SIZE_MAX`.
pub const MAX_XATTR: usize = 64 << 10;
/// Bytes of names and values of all extended attributes of a file at most; the kernel lists 64 KiB of names.
pub const MAX_XATTRS: usize = 1 << 20;
/// A chunk of a file at most, and the raster on which files are cut: a frame.
pub const MAX_CHUNK: usize = godwit_image::limits::MAX_FRAME_BYTES;
/// Largest major number of a device: 12 bits.
pub const MAX_MAJOR: u32 = (1 << 12) - 1;
/// Largest minor number of a device: 20 bits.
pub const MAX_MINOR: u32 = (1 << 20) - 1;
