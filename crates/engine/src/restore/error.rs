//! Why a container was not restored.

use std::path::PathBuf;

use godwit_types::{Bytes, CheckpointId, Code};

use crate::compat::Mismatch;
use crate::identity::NoIdentity;
use crate::news::Why;
use crate::stores::NoStore;

/// A restore that did not take place. Nothing of it runs.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Annotations that contradict each other.
    #[error(
        "give one of godwit.dev/restore-from and godwit.dev/fork-from; godwit.dev/restore=never goes with restore-from=latest or \
         checkpoint-on-stop only"
    )]
    Annotations,
    /// One that cannot be obeyed.
    #[error(transparent)]
    Misused(#[from] godwit_types::annotations::Misused),
    /// Not the id of a checkpoint.
    #[error(transparent)]
    Id(#[from] godwit_types::InvalidName),
    /// No such store.
    #[error(transparent)]
    Store(#[from] NoStore),
    /// One log cannot tell of both.
    #[error(
        "an earlier {container} of this node has its recovery points in store {lives:?}, and the checkpoint is in store \
         {asked:?}: give the container another name"
    )]
    OtherStore {
        /// The container that starts.
        container: String,
        /// The store of the earlier one.
        lives: String,
        /// That of the checkpoint.
        asked: String,
    },
    /// The checkpoint is not there, or the store does not answer.
    #[error(transparent)]
    Reading(#[from] godwit_store::StoreError),
    /// This node cannot run it.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// The image of the container that starts is not known.
    #[error(transparent)]
    Containerd(#[from] crate::containerd::ContainerdError),
    /// Files would differ under the processes.
    #[error(
        "the checkpoint is of the image {source_image} ({source_chain}), and {container} is of {image} ({chain}), \
         whose files differ: run it from the image of the checkpoint"
    )]
    OtherImage {
        /// The container that starts.
        container: String,
        /// The source's.
        source_image: String,
        /// Chain id of the source's layers.
        source_chain: String,
        /// That of the container that starts.
        image: String,
        /// Chain id of its layers.
        chain: String,
    },
    /// The processes would be killed for the lack of memory while it comes back.
    #[error(
        "NeedsMemory: processes and directories in memory of the checkpoint have {need}, and {container} may use {limit}: give it \
         a limit above that"
    )]
    NeedsMemory {
        /// The container that starts, or its pod.
        container: String,
        /// Private and formerly shared pages, and what directories of the pod hold in memory.
        need: Bytes,
        /// Its limit.
        limit: Bytes,
    },
    /// The checkpoint asks for more than the new spec gives.
    #[error(transparent)]
    Vet(#[from] godwit_criu::vet::Refusal),
    /// Its memory would not match its files.
    #[error(transparent)]
    Volume(#[from] crate::volumes::VolumeRefusal),
    /// CRIU's images cannot be understood.
    #[error(transparent)]
    Criu(#[from] godwit_criu::Error),
    /// A frame cannot be read.
    #[error("the checkpoint's memory cannot be read")]
    Frames(#[from] godwit_image::SinkError),
    /// A part of the checkpoint cannot be decoded or encoded.
    #[error("a part of the checkpoint cannot be decoded")]
    Image(#[from] godwit_image::ImageError),
    /// Files cannot be restored.
    #[error(transparent)]
    Files(#[from] godwit_files::FilesError),
    /// An image name that is no file name.
    #[error("the checkpoint names an image {name:?}: it was not written by godwit")]
    HostileName {
        /// The name.
        name: String,
    },
    /// A page lies outside its frame.
    #[error("frame {frame} of the checkpoint is shorter than its pages")]
    ShortFrame {
        /// Number of the frame.
        frame: u32,
    },
    /// The mounts cannot be had.
    #[error(
        "the checkpoint's mounts are not those of the container's spec: give it the mounts that the checkpoint's container has"
    )]
    NoMounts,
    /// The pod has a container that the checkpoint does not know.
    #[error(
        "the checkpoint has the containers {there}, and none named {container}: start those alone, or name this one as one of them \
         (--annotation {}=NAME)",
        godwit_types::names::CONTAINER_NAME
    )]
    NotOfPoint {
        /// The container that starts.
        container: String,
        /// Those of the checkpoint.
        there: String,
    },
    /// The new pod has no such volume.
    #[error(
        "the checkpoint holds what was in the pod's {name}, and this pod has none: give it the volumes of the checkpoint's pod"
    )]
    NoVolume {
        /// `emptyDir/cache`, `shm`.
        name: String,
    },
    /// Head and manifest do not belong together.
    #[error("the checkpoint's head has other containers than its manifest")]
    OtherHead,
    /// A file on tmpfs cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A message of the shim cannot be read or sent.
    #[error("the shim's message cannot be read")]
    Wire(#[from] godwit_wire::WireError),
    /// A fence that cannot be read is not "no fence".
    #[error(
        "what says who may run the container (its fence, in {}) cannot be read",
        godwit_types::names::FENCES
    )]
    Fence(#[from] godwit_ownership::OwnershipError),
    /// Nobody comes after this pod, nor did anybody come before it.
    #[error(
        "AmbiguousIdentity: {container} is of a pod that another one replaces under another name, so it has no lineage of its own to go on with: name a checkpoint in restore-from or fork-from, or use a StatefulSet or an indexed Job"
    )]
    Ambiguous {
        /// The container that starts.
        container: String,
    },
    /// Who owned the lineage would own it for ever.
    #[error(
        "NoCluster: nobody would hear when the pod of {container} is gone, so it cannot own the lineage that its name has: add the section [kubernetes] to agent.toml"
    )]
    NoCluster {
        /// The container that starts.
        container: String,
    },
    /// What only a pod can ask for.
    #[error(
        "{container} is of no pod, so it has no lineage of its own: name a checkpoint in restore-from or fork-from"
    )]
    NoPod {
        /// The container that starts.
        container: String,
    },
    /// Which pod it is is not known.
    #[error(transparent)]
    Identity(#[from] NoIdentity),
    /// The pod was changed since.
    #[error(
        "TemplateChanged: {checkpoint} is of a pod made from {was:?}, and this one is made from {is:?}: it is not continued (fork-from copies it)"
    )]
    OtherTemplate {
        /// The point.
        checkpoint: CheckpointId,
        /// What its pod was made from.
        was: String,
        /// What this one is made from.
        is: String,
    },
    /// Its annotation says so.
    #[error("RestoreNever: {checkpoint} is not continued, because the pod says so")]
    Never {
        /// The point.
        checkpoint: CheckpointId,
    },
    /// What was begun in its root file system or its directories was not ended.
    #[error(transparent)]
    HalfDone(Box<Self>),
    /// A shim that asks without a fence.
    #[error("the shim asked for permission without a fence")]
    NoFence,
    /// What the pager is told cannot be written.
    #[error("the pager's plan cannot be written")]
    Words(#[source] serde_json::Error),
    /// The log, or the shim, said no.
    #[error("{told}")]
    Told {
        /// The kind.
        code: Code,
        /// The sentence.
        told: String,
    },
    /// Somebody debugs a pod whose own containers have not all started.
    #[error(
        "{container} of `kubectl debug` cannot start before its pod has continued its checkpoint: debug it again when the pod runs"
    )]
    Ephemeral {
        /// Its name.
        container: String,
    },
    /// The connection ended; what is committing is settled by the next look.
    #[error("the start was interrupted")]
    Interrupted,
}

impl RestoreError {
    /// What it means to the caller.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Annotations
            | Self::Misused(_)
            | Self::Id(_)
            | Self::Mismatch(_)
            | Self::OtherStore { .. }
            | Self::OtherImage { .. }
            | Self::NeedsMemory { .. }
            | Self::Vet(_)
            | Self::Volume(_)
            | Self::NoMounts
            | Self::NoVolume { .. }
            | Self::NotOfPoint { .. }
            | Self::Ambiguous { .. }
            | Self::NoPod { .. }
            | Self::NoCluster { .. }
            | Self::OtherTemplate { .. }
            | Self::Never { .. } => Code::Refused,
            Self::Identity(NoIdentity::Containerd(e)) => e.code(),
            Self::Identity(NoIdentity::Name(_)) => Code::Refused,
            Self::HalfDone(e) => e.code(),
            Self::Store(e) => e.code(),
            Self::Reading(e) => e.code(),
            Self::Containerd(e) => e.code(),
            Self::Criu(e) => e.code(),
            Self::Files(e) => e.code(),
            Self::Frames(e) => e.code(),
            Self::Image(_)
            | Self::HostileName { .. }
            | Self::ShortFrame { .. }
            | Self::OtherHead => Code::Corrupt,
            Self::Wire(e) => e.code(),
            Self::Fence(_) | Self::NoFence => Code::Corrupt,
            Self::Told { code, .. } => *code,
            Self::Interrupted => Code::Unavailable,
            Self::Ephemeral { .. } => Code::Precondition,
            Self::Write { .. } | Self::Words(_) => Code::Internal,
        }
    }

    /// Whether no other try of the same point on this node can succeed, and nothing of this one was left in the container's files.
    #[must_use]
    pub fn never(&self) -> bool {
        let is_final = matches!(self.code(), Code::Refused | Code::Corrupt | Code::NotFound);
        is_final && !matches!(self, Self::HalfDone(_))
    }

    /// Its name in one word, where users are told by it.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Ambiguous { .. } => Some("AmbiguousIdentity"),
            Self::NoCluster { .. } => Some("NoCluster"),
            Self::OtherTemplate { .. } => Some("TemplateChanged"),
            Self::Never { .. } => Some("RestoreNever"),
            Self::NeedsMemory { .. } => Some("NeedsMemory"),
            Self::OtherImage { .. } => Some("OtherImage"),
            Self::HalfDone(e) => e.reason(),
            _ => None,
        }
    }

    /// What its shim is told. A pod that has lived here is started again without a store that is away.
    pub(crate) fn refusal(&self) -> godwit_wire::Refusal {
        let code = self.code();
        let store_away =
            code == Code::Unavailable && matches!(self, Self::Store(_) | Self::Reading(_));
        godwit_wire::Refusal { store_away, ..godwit_wire::Refusal::new(code, self.sentence()) }
    }

    /// All that users are told.
    #[must_use]
    pub fn why(&self) -> Why {
        Why { code: self.code(), reason: self.reason(), told: self.sentence() }
    }

    /// The message with what lies behind it, for a person.
    #[must_use]
    pub fn sentence(&self) -> String {
        crate::sentence(self)
    }
}
