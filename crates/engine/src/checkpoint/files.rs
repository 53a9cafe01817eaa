//! The writable layer of one container, or a directory of the pod: rounds while it runs, the difference in the freeze. Blocking; run on threads that may.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use godwit_capture::Stop;
use godwit_files::{FileIndex, Frozen, Halt, Layer, MappedFiles, Scan, Upper};
use godwit_image::{PackRegistry, PackSink};
use godwit_types::Bytes;
use godwit_wire::shim_op::Container;

use super::CheckpointError;
use super::memory::pids;

/// Contents that change between the round and the freeze are kept in at most as much memory; more is stored in the freeze.
const MOST: Bytes = Bytes(64 << 20);

/// The part of the node's budget that one container's files get.
pub(super) fn share(whole: Bytes) -> Bytes {
    MOST.min(Bytes(whole.0 / 4))
}

/// A layer of which one round was made.
#[derive(Debug)]
pub(super) struct Files {
    layer: Layer,
    scan: Scan,
    budget: Bytes,
}

/// Where contents go, and what ends a round.
pub(super) struct Stores<'a> {
    pub(super) packs: &'a Arc<PackRegistry>,
    pub(super) sink: Arc<dyn PackSink>,
    pub(super) stop: Stop,
}

impl Files {
    /// Makes a round; `None` for a read-only root file system, which has no layer.
    ///
    /// # Errors
    /// [`CheckpointError`]: the layer cannot be read, or its kind is unknown.
    pub(super) fn scan(
        container: &Container,
        budget: Bytes,
        parent: Option<&FileIndex>,
        packs: &Arc<PackRegistry>,
        sink: Arc<dyn PackSink>,
        stop: Stop,
    ) -> Result<Option<Self>, CheckpointError> {
        let [mount] = container.mounts.as_slice() else {
            let id = &container.id;
            return Err(CheckpointError::Refused(format!(
                "{id} has no writable layer of its own (a root file system given as a directory?): run it from an image"
            )));
        };
        let options = mount.options.iter().map(String::as_str);
        let Some(upper) = Upper::of_mount(&mount.kind, options)? else { return Ok(None) };
        let stores = Stores { packs, sink, stop };
        Self::scan_upper(upper, budget, parent, stores).map(Some)
    }

    /// Makes a round of a layer.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub(super) fn scan_upper(
        upper: Upper,
        budget: Bytes,
        parent: Option<&FileIndex>,
        stores: Stores<'_>,
    ) -> Result<Self, CheckpointError> {
        let Stores { packs, sink, stop } = stores;
        let halt = Halt::when(move || stop.is_raised());
        let layer = Layer::new(upper, Arc::clone(packs), sink, halt);
        let scan = layer.scan(parent)?;
        Ok(Self { layer, scan, budget })
    }

    /// A further round, all of which is handed to the sink.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub(super) fn rescan(self) -> Result<Self, CheckpointError> {
        let mut scan = self.layer.rescan(self.scan)?;
        self.layer.hand_on(&mut scan)?;
        Ok(Self { scan, ..self })
    }

    /// Reads what has changed since. All tasks are held, and CRIU's names for deleted open files are there. `mapped`: by everybody who
    /// may map files of it.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub(super) fn freeze(self, mapped: &MappedFiles) -> Result<Frozen, CheckpointError> {
        Ok(self.layer.freeze(self.scan, mapped, self.budget)?)
    }
}

/// What everybody in these cgroups has mapped.
///
/// # Errors
/// [`CheckpointError`].
pub(super) fn mapped<'p>(
    cgroups: impl IntoIterator<Item = &'p Path>,
) -> Result<MappedFiles, CheckpointError> {
    let mut all = BTreeSet::new();
    for cgroup in cgroups {
        all.extend(pids(cgroup)?);
    }
    Ok(MappedFiles::of(all)?)
}
