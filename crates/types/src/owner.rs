//! Who runs a pod.

use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// A random id per sandbox life. A number that repeats would be two copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(Ulid);

impl Incarnation {
    /// A new one.
    #[must_use]
    pub fn mint() -> Self {
        Self(Ulid::generate())
    }
}

impl From<u128> for Incarnation {
    fn from(bits: u128) -> Self {
        Self(Ulid(bits))
    }
}

impl std::fmt::Display for Incarnation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for Incarnation {
    type Err = ulid::DecodeError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ulid::from_string(s).map(Self)
    }
}

/// The one that may execute a pod: named by the newest entry of its lineage log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// Id of the cluster; `_none` without Kubernetes.
    pub cluster: String,
    /// Name of the node. A store binds it once to the machine that bears it: no other writes under it.
    pub node: String,
    /// Raised when a node returns after its lease was revoked.
    pub epoch: u64,
    /// Kubernetes pod uid, or `<containerd namespace>+<container id>`.
    pub pod_uid: String,
    /// The sandbox life.
    pub incarnation: Incarnation,
}

/// What becomes of the source after its checkpoint is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It goes on; thawed before the commit.
    Run,
    /// It is killed once the entry is settled; anyone permitted may continue it.
    Stop,
    /// It stays frozen until a take-over is read or the offer is reclaimed.
    Offer,
}

impl Outcome {
    /// Whether the pod may run elsewhere after it: such an operation arms the fence and is sealed.
    #[must_use]
    pub fn gives_away(self) -> bool {
        !matches!(self, Self::Run)
    }
}
