//! Directories that are the pod's alone and that its containers share: what is in an `emptyDir` or in the sandbox's `/dev/shm` is a part
//! of the point, like a writable layer.

use std::path::PathBuf;

use godwit_criu::mounts::binds;
use godwit_files::{Captured, FileIndex, Frozen, MappedFiles, Marks, Upper};
use godwit_image::manifest::{IN_THE_HEAD, Volume, VolumeMode};
use godwit_image::section_of_volume;
use godwit_types::Bytes;

use super::CheckpointError;
use super::files::{Files, Stores};
use super::parent::Earlier;
use super::source::Source;

/// Most that such a directory may hold in memory: as much as a container's own temporary file systems may.
const MOST_IN_MEMORY: Bytes = Bytes(256 << 20);

/// A directory of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The same in every pod of this specification.
    name: String,
    /// The first of the containers that have it: it puts the contents back.
    container: String,
    /// Where the node has it.
    path: PathBuf,
}

/// One of which a round was made.
#[derive(Debug)]
pub(super) struct Shared {
    place: Place,
    files: Files,
}

/// One that was read in the freeze.
#[derive(Debug)]
pub(super) struct SharedFrozen {
    place: Place,
    files: Frozen,
}

/// One that is stored.
#[derive(Debug)]
pub(super) struct SharedCaptured {
    place: Place,
    pub(super) files: Captured,
}

/// The directories of a pod, each once.
pub(super) fn places(sources: &[Source]) -> Vec<Place> {
    let mut all: Vec<Place> = Vec::new();
    for source in sources {
        for own in binds::pods_own(&source.spec) {
            if all.iter().all(|known| known.name != own.name) {
                let (name, path) = (own.name, own.bind.source);
                all.push(Place { name, container: source.name.clone(), path });
            }
        }
    }
    all
}

impl Shared {
    /// Makes a round.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub(super) fn scan(
        place: Place,
        budget: Bytes,
        earlier: Option<&Earlier>,
        stores: Stores<'_>,
    ) -> Result<Self, CheckpointError> {
        let known = earlier.and_then(|earlier| earlier.volume(&place.name));
        let upper = Upper::open(&place.path, Marks::None)?;
        let (held, most) = (upper.in_memory()?, MOST_IN_MEMORY);
        if held > most {
            return Err(CheckpointError::Refused(format!(
                "the pod's {} holds {held} in memory, and what is in memory is read in the freeze: at most {most} can be; put large files on disk",
                place.name
            )));
        }
        let files = Files::scan_upper(upper, budget, known.as_ref(), stores)?;
        Ok(Self { place, files })
    }

    /// A further round.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub(super) fn rescan(self) -> Result<Self, CheckpointError> {
        Ok(Self { files: self.files.rescan()?, ..self })
    }

    /// Reads what has changed since: every container's tasks are held. `mapped`: by all of them.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub(super) fn freeze(self, mapped: &MappedFiles) -> Result<SharedFrozen, CheckpointError> {
        Ok(SharedFrozen { place: self.place, files: self.files.freeze(mapped)? })
    }
}

impl SharedFrozen {
    /// Stores what was kept.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub(super) fn finish(self) -> Result<SharedCaptured, CheckpointError> {
        Ok(SharedCaptured { place: self.place, files: self.files.finish()? })
    }
}

impl SharedCaptured {
    /// What the manifest says of it.
    pub(super) fn volume(&self) -> Volume {
        Volume {
            name: self.place.name.clone(),
            container: Some(self.place.container.clone()),
            path: None,
            claim_uid: None,
            storage: None,
            mode: VolumeMode::ReadWrite,
            snapshot: Some(IN_THE_HEAD.to_owned()),
            diverged: false,
        }
    }

    /// What the head holds of it.
    pub(super) fn section(&self) -> (String, Vec<u8>) {
        (section_of_volume(&self.place.name), self.files.index.encode())
    }

    /// What is in it.
    pub(super) fn index(&self) -> &FileIndex {
        &self.files.index
    }
}
