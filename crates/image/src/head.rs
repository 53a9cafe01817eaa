//! The head: one object with all small parts of a checkpoint, so that a restore needs one GET before its first frame.
//!
//! Owns what a head holds and its bytes (`docs/format/head.md`). CRIU's images, specs and the file index are opaque here.

mod codec;
mod ranges;
mod recent;
mod space;

use std::collections::BTreeMap;
use std::ops::Range;

use crate::{FrameUsage, PackTable};

pub use ranges::{decode_recent, encode_recent};
pub use space::{PagemapEntry, Space, SpaceHead};

/// Section of a container: the OCI spec it ran with.
pub const SECTION_SPEC: &str = "config.json";
/// Section of a container: what its stdio was connected to (runc's `descriptors.json`).
pub const SECTION_DESCRIPTORS: &str = "descriptors.json";
/// Section of a container: the index of its writable layer.
pub const SECTION_FILES: &str = "files";

/// Section of the pod: the index of what is in a volume that is the pod's alone.
#[must_use]
pub fn section_of_volume(name: &str) -> String {
    format!("volume:{name}")
}

/// Names and their bytes.
pub type Sections = BTreeMap<String, Vec<u8>>;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// Every pack that anything in the checkpoint refers to.
    pub packs: PackTable,
    /// The pod's containers, in the order of their start.
    pub containers: Vec<ContainerHead>,
    /// What belongs to the pod as a whole (volumes, network).
    pub sections: Sections,
}

/// One container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerHead {
    /// Its name within the pod.
    pub name: String,
    /// CRIU's images by file name, without pagemaps and pages, which follow from `spaces`.
    pub images: Sections,
    /// Its address spaces.
    pub spaces: BTreeMap<Space, SpaceHead>,
    /// Everything else: [`SECTION_SPEC`], [`SECTION_DESCRIPTORS`], [`SECTION_FILES`], ….
    pub sections: Sections,
}

/// A head as an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedHead {
    /// The object.
    pub bytes: Vec<u8>,
    /// For each container, in order: the part of the object that holds it.
    pub containers: Vec<Range<u64>>,
}

impl Head {
    /// Adds every frame that page maps and digest indexes refer to. The file index is not known here: `files` adds its
    /// own before [`PackTable::retain`].
    pub fn count_usage(&self, usage: &mut FrameUsage) {
        for space in self.containers.iter().flat_map(|c| c.spaces.values()) {
            space.map.count_usage(usage);
            space.digests.count_usage(usage);
        }
    }
}
