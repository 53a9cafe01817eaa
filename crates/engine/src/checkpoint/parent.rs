//! The checkpoint whose pages an increment shares.

use std::sync::Arc;

use godwit_capture::Parent;
use godwit_files::FileIndex;
use godwit_image::{
    ContainerHead, FrameRef, FrameSource, Head, PackTable, SECTION_FILES, SinkError,
    section_of_volume,
};
use godwit_store::{StoreFrames, TenantStore};
use godwit_types::{CheckpointId, Code, OpId, Owner};

use super::CheckpointError;

/// An earlier checkpoint of the same lineage, opened.
pub(super) struct Earlier {
    /// Which.
    pub(super) id: CheckpointId,
    head: Head,
    /// Its memory and files.
    data: StoreFrames,
    /// Its digests.
    digests: Told,
}

impl Earlier {
    /// One that the store has opened. The writer's intent, which names it, keeps it from being collected.
    pub(super) fn new(parent: godwit_store::Parent) -> Self {
        let godwit_store::Parent { reader, head } = parent;
        let id = reader.manifest().id;
        let data = reader.frame_source(Arc::new(head.packs.clone()));
        let digests = Told { id, frames: data.clone() };
        Self { id, head, data, digests }
    }

    /// Its packs: the new checkpoint's table begins with them.
    pub(super) fn packs(&self) -> &PackTable {
        &self.head.packs
    }

    /// The memory of its container of this name.
    pub(super) fn of(&self, container: &str) -> Option<Parent<'_>> {
        let head: &ContainerHead = self.head.containers.iter().find(|c| c.name == container)?;
        Some(Parent { spaces: &head.spaces, frames: &self.digests })
    }

    /// Every frame that it names.
    pub(super) fn data(&self) -> &dyn FrameSource {
        &self.data
    }

    /// The writable layer of its container of this name. One that cannot be read is not shared.
    pub(super) fn files(&self, container: &str) -> Option<FileIndex> {
        let head = self.head.containers.iter().find(|c| c.name == container)?;
        self.index(head.sections.get(SECTION_FILES)?)
    }

    /// The contents of its volume of this name.
    pub(super) fn volume(&self, name: &str) -> Option<FileIndex> {
        self.index(self.head.sections.get(&section_of_volume(name))?)
    }

    fn index(&self, section: &[u8]) -> Option<FileIndex> {
        let index = FileIndex::decode(section);
        let told = |error| tracing::warn!(parent = %self.id, %error, "files are stored anew");
        index.map_err(told).ok()
    }
}

/// Frames of digests; says so where they are damaged, because the capture then only takes their pages for changed.
struct Told {
    id: CheckpointId,
    frames: StoreFrames,
}

impl Told {
    fn told(&self, error: SinkError) -> SinkError {
        if matches!(error.code(), Code::Corrupt | Code::NotFound) {
            tracing::warn!(parent = %self.id, %error, "digests are damaged: their pages are stored anew");
        }
        error
    }
}

impl FrameSource for Told {
    fn frame(&self, frame: FrameRef) -> Result<Vec<u8>, SinkError> {
        self.frames.frame(frame).map_err(|e| self.told(e))
    }

    fn frames(&self, frames: &[FrameRef]) -> Result<Vec<Vec<u8>>, SinkError> {
        self.frames.frames(frames).map_err(|e| self.told(e))
    }
}

/// The good points of a lineage, newest first: what a new checkpoint may share pages with.
pub(super) async fn candidates(
    tenant: &TenantStore,
    lineage: &godwit_types::LineageName,
) -> Result<Vec<CheckpointId>, CheckpointError> {
    let newest = tenant.lineage(lineage).newest().await?;
    Ok(newest.map(|entry| entry.state.good().to_vec()).unwrap_or_default())
}

/// For whom the intent is written.
pub(super) fn new_checkpoint(
    id: CheckpointId,
    op: OpId,
    owner: Owner,
    lineage: godwit_types::LineageName,
    parents: Vec<CheckpointId>,
) -> godwit_store::NewCheckpoint {
    godwit_store::NewCheckpoint { id, op, owner, lineage, parents }
}
