//! The checkpoint whose pages an increment shares.

use std::sync::Arc;

use godwit_capture::Parent;
use godwit_files::FileIndex;
use godwit_image::{ContainerHead, FrameSource, Head, PackTable, SECTION_FILES};
use godwit_store::TenantStore;
use godwit_types::{CheckpointId, OpId, Owner};

use super::CheckpointError;

/// An earlier checkpoint of the same lineage, opened.
pub(super) struct Earlier {
    /// Which.
    pub(super) id: CheckpointId,
    head: Head,
    frames: Arc<dyn FrameSource>,
}

impl Earlier {
    /// Opens it. The writer's intent, which names it, keeps it from being collected.
    ///
    /// # Errors
    /// The store does not answer, or it is damaged.
    pub(super) async fn open(
        tenant: &TenantStore,
        id: CheckpointId,
    ) -> Result<Self, CheckpointError> {
        let reader = tenant.open_checkpoint(id).await?;
        let head = reader.head().await?;
        let frames: Arc<dyn FrameSource> =
            Arc::new(reader.frame_source(Arc::new(head.packs.clone())));
        Ok(Self { id, head, frames })
    }

    /// Its packs: the new checkpoint's table begins with them.
    pub(super) fn packs(&self) -> &PackTable {
        &self.head.packs
    }

    /// The memory of its container of this name.
    pub(super) fn of(&self, container: &str) -> Option<Parent<'_>> {
        let head: &ContainerHead = self.head.containers.iter().find(|c| c.name == container)?;
        Some(Parent { spaces: &head.spaces, frames: &*self.frames })
    }

    /// The writable layer of its container of this name.
    ///
    /// # Errors
    /// It is damaged.
    pub(super) fn files(&self, container: &str) -> Result<Option<FileIndex>, CheckpointError> {
        let head = self.head.containers.iter().find(|c| c.name == container);
        let section = head.and_then(|head| head.sections.get(SECTION_FILES));
        Ok(section.map(|bytes| FileIndex::decode(bytes)).transpose()?)
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
