//! The states of a lineage, and what an entry may do to them.
//!
//! Owns: the vocabulary ([`State`], [`Kind`]). Who may append what is [`crate::admit`]'s.

use godwit_types::{CheckpointId, LineageName, Owner};
use serde::{Deserialize, Serialize};

/// How many recovery points a state remembers, newest first: enough to step back over points that crash when restored.
pub const MAX_POINTS: usize = 8;
/// A pod that crashes sooner than this after a restore did not get well by it: the point is no longer a good one. Seconds.
pub const CRASH_WINDOW_S: u64 = 60;

/// The good recovery points of a lineage, newest first, at most [`MAX_POINTS`].
///
/// *Good*: no `cold{crashed}` says that its pod lived less than [`CRASH_WINDOW_S`] after its restore.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Points(Vec<CheckpointId>);

impl Points {
    /// The newest good one.
    #[must_use]
    pub fn latest(&self) -> Option<CheckpointId> {
        self.0.first().copied()
    }

    /// All, newest first.
    #[must_use]
    pub fn all(&self) -> &[CheckpointId] {
        &self.0
    }

    /// Whether this one is among them.
    #[must_use]
    pub fn contains(&self, checkpoint: CheckpointId) -> bool {
        self.0.contains(&checkpoint)
    }

    pub(crate) fn with(&self, checkpoint: CheckpointId) -> Self {
        let older = self.0.iter().copied().filter(|c| *c != checkpoint);
        Self(std::iter::once(checkpoint).chain(older).take(MAX_POINTS).collect())
    }

    pub(crate) fn without(&self, checkpoint: CheckpointId) -> Self {
        Self(self.0.iter().copied().filter(|c| *c != checkpoint).collect())
    }

    pub(crate) fn bounded(&self) -> bool {
        self.0.len() <= MAX_POINTS
    }
}

/// Who may run the pod after an entry. Each entry repeats it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum State {
    /// No entry: a pod that was never checkpointed needs no lineage.
    #[default]
    Empty,
    /// The owner may execute it, nobody else.
    Owned {
        /// The one that may.
        owner: Owner,
        /// The point that this life began from; none after a cold start.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        restored: Option<CheckpointId>,
        /// Where it could be continued from.
        #[serde(default)]
        good: Points,
    },
    /// Nobody executes it: the owner's tasks are frozen until a take-over or a reclaim.
    Offered {
        /// Whose tasks are frozen.
        owner: Owner,
        /// What is offered.
        checkpoint: CheckpointId,
        /// To whom; to everybody who may read the tenant and asks for this lineage if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<Recipient>,
        /// Where it could be continued from.
        #[serde(default)]
        good: Points,
    },
    /// Nobody executes it; whoever may can continue it.
    Stopped {
        /// The last owner.
        owner: Owner,
        /// What is continued.
        checkpoint: CheckpointId,
        /// Where it could be continued from.
        #[serde(default)]
        good: Points,
    },
    /// It is over; only a new life can begin.
    Ended {
        /// The last owner.
        owner: Owner,
    },
}

impl State {
    /// The owner, or the last one.
    #[must_use]
    pub fn owner(&self) -> Option<&Owner> {
        match self {
            Self::Empty => None,
            Self::Owned { owner, .. }
            | Self::Offered { owner, .. }
            | Self::Stopped { owner, .. }
            | Self::Ended { owner } => Some(owner),
        }
    }

    /// The good recovery points.
    #[must_use]
    pub fn good(&self) -> &[CheckpointId] {
        match self {
            Self::Empty | Self::Ended { .. } => &[],
            Self::Owned { good, .. } | Self::Offered { good, .. } | Self::Stopped { good, .. } => {
                good.all()
            }
        }
    }

    /// The next older good recovery point than this one.
    #[must_use]
    pub fn point_before(&self, checkpoint: CheckpointId) -> Option<CheckpointId> {
        let good = self.good();
        let at = good.iter().position(|point| *point == checkpoint)?;
        good.get(at + 1).copied()
    }

    /// Whether it is `Owned` by exactly this incarnation: the one condition under which tasks may run.
    #[must_use]
    pub fn lets_run(&self, owner: &Owner) -> bool {
        matches!(self, Self::Owned { owner: named, .. } if named == owner)
    }

    /// The word for it in logs and tables.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Owned { .. } => "owned",
            Self::Offered { .. } => "offered",
            Self::Stopped { .. } => "stopped",
            Self::Ended { .. } => "ended",
        }
    }
}

/// Whether two owners are lives of the same pod object on the same node, whatever their epoch and incarnation.
#[must_use]
pub fn same_place(a: &Owner, b: &Owner) -> bool {
    a.cluster == b.cluster && a.node == b.node && a.pod_uid == b.pod_uid
}

/// For whom an offer is meant. What is absent matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Recipient {
    /// Id of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Name of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The pod that waits for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
}

impl Recipient {
    /// Whether this one is meant.
    #[must_use]
    pub fn means(&self, who: &Owner) -> bool {
        let fits =
            |want: &Option<String>, has: &str| want.as_deref().is_none_or(|want| want == has);
        fits(&self.cluster, &who.cluster)
            && fits(&self.node, &who.node)
            && fits(&self.pod_uid, &who.pod_uid)
    }
}

/// What an entry records.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Kind {
    /// A life begins: just before the first checkpoint, of a fork, or after the end of the life before.
    Start {
        /// The point that a fork is a copy of.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        forked_from: Option<Fork>,
    },
    /// A checkpoint that left the pod running is durable.
    Checkpoint {
        /// Which.
        checkpoint: CheckpointId,
    },
    /// A container starts from its image: what its memory held is given up.
    Cold {
        /// Which container.
        container: String,
        /// Why.
        reason: ColdReason,
        /// For how many seconds the life before it lived, if it began with a restore.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lived_s: Option<u64>,
    },
    /// The pod is given away; its tasks stay frozen.
    Offer {
        /// What is offered.
        checkpoint: CheckpointId,
        /// To whom.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<Recipient>,
    },
    /// The pod runs nowhere and can be continued.
    Stop {
        /// From where.
        checkpoint: CheckpointId,
        /// What is known of its tasks.
        tasks: StoppedTasks,
    },
    /// The owner goes on; also written into a slot only to settle it.
    Reclaim,
    /// The owner goes on under another incarnation or epoch.
    Resume,
    /// Another life continues the lineage; raises the generation.
    TakeOver {
        /// From where.
        checkpoint: CheckpointId,
        /// On whose word.
        word: Word,
    },
    /// Another life begins from the image in place of one that has left no point to go on from; raises the generation.
    StartOver {
        /// On whose word, which is always a person's.
        who: String,
        /// Why; kept for ever.
        why: String,
    },
    /// The life is over and not to be continued.
    End,
}

impl Kind {
    /// What the owner's node writes when it is proved that none of its tasks lives.
    #[must_use]
    pub fn died_at(checkpoint: CheckpointId) -> Self {
        Self::Stop { checkpoint, tasks: StoppedTasks::Dead }
    }

    /// The word for it in logs and tables.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Start { .. } => "start",
            Self::Checkpoint { .. } => "checkpoint",
            Self::Cold { .. } => "cold",
            Self::Offer { .. } => "offer",
            Self::Stop { .. } => "stop",
            Self::Reclaim => "reclaim",
            Self::Resume => "resume",
            Self::TakeOver { .. } => "take-over",
            Self::StartOver { .. } => "start-over",
            Self::End => "end",
        }
    }

    /// Whether another life begins with it, wherever the one before was.
    #[must_use]
    pub(crate) fn replaces(&self) -> bool {
        matches!(self, Self::TakeOver { .. } | Self::StartOver { .. })
    }

    /// The checkpoint whose commit point this entry is.
    #[must_use]
    pub fn commits(&self) -> Option<CheckpointId> {
        match self {
            Self::Checkpoint { checkpoint }
            | Self::Offer { checkpoint, .. }
            | Self::Stop { checkpoint, tasks: StoppedTasks::Sealed } => Some(*checkpoint),
            _ => None,
        }
    }
}

/// What a fork copies.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fork {
    /// The lineage that the point belongs to.
    pub lineage: LineageName,
    /// The point.
    pub checkpoint: CheckpointId,
}

/// Why a container starts from its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ColdReason {
    /// Its first start beside a pod that has a lineage already.
    FirstStart,
    /// It exited and is started again.
    Exited,
    /// It crashed and is started again.
    Crashed,
    /// Its sandbox or shim is gone, or the node booted.
    SandboxLost,
    /// The point can never be restored here.
    CannotRestore,
    /// Its spec says that it is never to be restored.
    RestoreNever,
    /// The point is gone from the store.
    PointMissing,
}

/// What is known of the tasks of a stopped pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoppedTasks {
    /// They are sealed and will be killed now: a final checkpoint.
    Sealed,
    /// It is proved that none lives (cgroups empty): a death.
    Dead,
}

/// On whose word a lineage is continued.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Word {
    /// The owner's own: it offered or stopped.
    Owner,
    /// The owner's node lost its lease.
    Evidence {
        /// The node.
        node: String,
        /// The lease slot that was revoked.
        lease_seq: u64,
    },
    /// A person's, against the owner's.
    Force {
        /// Who.
        who: String,
        /// Why; kept for ever.
        why: String,
    },
}
