//! Directories of the node that a container writes to: its writable bind mounts.
//!
//! They are not part of a checkpoint, so its memory matches them only where they are and as long as nobody has written to
//! them since. Owns what a checkpoint says of them ([`of`]) and whether a start finds them as they were ([`check`]).

mod storage;

use std::path::Path;

use godwit_criu::mounts::{MountPlan, binds};
use godwit_image::manifest::{Source, Volume, VolumeMode};
use godwit_ownership::state::Kind;
use godwit_types::{CheckpointId, Outcome, names};
use godwit_wire::NodeIdentity;
use oci_spec::runtime::Spec;

/// Why a container does not find the files that its memory knows. The name is that of its mount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VolumeRefusal {
    /// Two would write to one directory, or the copy would find other files.
    #[error(
        "VolumeShared: the checkpoint's container writes to {name} ({path} of node {node}), of which nobody makes a copy: give \
         the fork a copy of it as it was then, and say so with --annotation {}={name}",
        names::VOLUMES
    )]
    Fork {
        /// Where the container has it.
        name: String,
        /// Where the source has it.
        path: String,
        /// The source.
        node: String,
    },
    /// Something ran on with it.
    #[error(
        "VolumeDiverged: {name} ({path} of node {node}) may have been written to since the checkpoint, which a container has run \
         on from: continue the newest checkpoint, made with --stop, or put back what was there, and say so with --annotation {}={name}",
        names::VOLUMES
    )]
    Diverged {
        /// Where the container has it.
        name: String,
        /// Where the source has it.
        path: String,
        /// The source.
        node: String,
    },
    /// It is on another node.
    #[error(
        "VolumeElsewhere: the checkpoint's container writes to {name}, which is {path} of node {node}: continue it there, or \
         give it storage that both nodes share, and say so with --annotation {}={name}",
        names::VOLUMES
    )]
    Elsewhere {
        /// Where the container has it.
        name: String,
        /// Where the source has it.
        path: String,
        /// The source.
        node: String,
    },
    /// The new spec has another one there.
    #[error(
        "VolumeChanged: the checkpoint's container has {path} at {name}, and the one that starts has {here} there: mount the \
         same directory, or give it the same files, and say so with --annotation {}={name}",
        names::VOLUMES
    )]
    Changed {
        /// Where the container has it.
        name: String,
        /// Where the source has it.
        path: String,
        /// Where the new spec has it.
        here: String,
    },
}

/// What a checkpoint with this outcome says of the container's volumes.
pub(crate) fn of(plan: &MountPlan, container: &str, spec: &Spec, outcome: Outcome) -> Vec<Volume> {
    let volume = |bind: binds::Bind| Volume {
        name: bind.destination.display().to_string(),
        container: Some(container.to_owned()),
        path: Some(bind.source.display().to_string()),
        claim_uid: None,
        storage: storage::of(&bind.source),
        mode: VolumeMode::ReadWrite,
        snapshot: None,
        diverged: outcome == Outcome::Run,
    };
    binds::writable(plan, spec).into_iter().map(volume).collect()
}

/// A start of a checkpoint's container.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start<'a> {
    /// From this checkpoint.
    pub(crate) checkpoint: CheckpointId,
    /// Where that was taken.
    pub(crate) source: &'a Source,
    /// Where.
    pub(crate) node: &'a NodeIdentity,
    /// Which of its containers.
    pub(crate) container: &'a str,
    /// Under which spec.
    pub(crate) spec: &'a Spec,
    /// Value of the annotation [`names::VOLUMES`].
    pub(crate) cared_for: &'a str,
    /// Whether the source has a life of its own.
    pub(crate) fork: bool,
    /// The newest entry of the checkpoint's lineage.
    pub(crate) newest: Option<&'a Kind>,
}

/// Whether every volume is as the checkpoint's memory knows it.
///
/// # Errors
/// The first one that is not.
pub(crate) fn check(start: Start<'_>, volumes: &[Volume]) -> Result<(), VolumeRefusal> {
    let outside = |v: &&Volume| v.mode == VolumeMode::ReadWrite && v.snapshot.is_none();
    let written = volumes.iter().filter(|v| outside(v) && start.has(v));
    written.filter(|v| !start.is_cared_for(v)).try_for_each(|v| start.check(v))
}

impl Start<'_> {
    fn has(&self, volume: &Volume) -> bool {
        volume.container.as_ref().is_none_or(|container| container == self.container)
    }

    fn is_cared_for(&self, volume: &Volume) -> bool {
        self.cared_for.split(',').map(str::trim).any(|path| {
            !path.is_empty()
                && Path::new(path).components().eq(Path::new(&volume.name).components())
        })
    }

    fn check(&self, volume: &Volume) -> Result<(), VolumeRefusal> {
        let name = volume.name.clone();
        let path = volume.path.clone().unwrap_or_else(|| "a volume".to_owned());
        let node = self.source.node.clone();
        if self.fork {
            return Err(VolumeRefusal::Fork { name, path, node });
        }
        if volume.diverged || !self.nobody_ran_on() {
            return Err(VolumeRefusal::Diverged { name, path, node });
        }
        let here = binds::source_of(self.spec, Path::new(&name)).unwrap_or_default();
        let same_cluster = self.source.cluster == self.node.cluster;
        let same_storage = volume.storage.is_some() && volume.storage == storage::of(&here);
        if same_cluster && same_storage {
            return Ok(());
        }
        if !same_cluster || node != self.node.node {
            return Err(VolumeRefusal::Elsewhere { name, path, node });
        }
        if volume.path.as_ref().is_some_and(|path| Path::new(path) != here) {
            let here = here.display().to_string();
            return Err(VolumeRefusal::Changed { name, path, here });
        }
        Ok(())
    }

    /// The checkpoint ended a life, and nothing has happened since: a life that died leaves its lineage stopped at the same checkpoint.
    fn nobody_ran_on(&self) -> bool {
        self.newest.and_then(Kind::commits) == Some(self.checkpoint)
    }
}

#[cfg(test)]
mod tests;
