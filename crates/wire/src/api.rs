//! The agent's local API: what the CLI asks on [`godwit_types::names::AGENT_API_SOCKET`].
//!
//! One connection is one request. The client writes one line of JSON, the agent answers with lines of JSON: any number
//! of [`Reply::Progress`], then exactly one [`Reply::Done`] or [`Reply::Failed`], then the end of the stream. Closing
//! the connection cancels the request; up to the seal a checkpoint is undone by that, after it the agent goes on alone.
//! Listing, showing and verifying end at once, a deletion is carried through, a collection of garbage ends where a later one
//! goes on. A client that closes only its own half is told how it ended.
//! A request is bounded by [`MAX_REQUEST`]. An answer grows with the store, and is bounded by [`MAX_REPLY`]. The socket is root's
//! alone.

use std::collections::HashMap;

use godwit_types::{CheckpointId, Code, OpId, Outcome, Phase, RestoreReport, names};
use serde::{Deserialize, Serialize};

/// Longest line of a request in bytes.
pub const MAX_REQUEST: usize = 1 << 20;
/// Longest line of an answer in bytes: a list of some 700,000 checkpoints, at less than 400 bytes each.
pub const MAX_REPLY: usize = 256 << 20;

/// What the CLI asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Make a checkpoint of a running container. Done: a `CheckpointReport`.
    Checkpoint(CheckpointRequest),
    /// What the agent is and does. Done: an [`AgentStatus`].
    Status,
    /// The kubelet's pods of this node that run with our runtime, and whether each could be checkpointed now. Nothing is stored and
    /// nobody is frozen. Done: a [`PodList`].
    Pods,
    /// What only the agent can look at, for who looks for a fault; in each store that is open small objects are written and removed.
    /// Done: a [`Diagnosis`], within a minute.
    Diagnose,
    /// Lets the cluster's pods come to this node, or not any more: until the agent is started anew. Done: why the cluster does not
    /// know of it; `null` where it does, or there is none.
    TakePods {
        /// They may come.
        takes: bool,
    },
    /// A call of the kubelet that may be ours to answer. Done: a [`CriVerdict`], which may take as long as the call may.
    Cri(CriCall),
    /// An operation on a store of the agent's configuration, carried out by the agent. Done: as the command says.
    Store {
        /// Name of the store; the default store when absent.
        store: Option<String>,
        /// What to do.
        command: StoreCommand,
    },
}

/// A checkpoint to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointRequest {
    /// containerd's namespace.
    pub namespace: String,
    /// Container id.
    pub container: String,
    /// What becomes of the source.
    pub outcome: Outcome,
    /// Name of the store in the agent's configuration; the default store when absent.
    pub store: Option<String>,
    /// Do not share pages with an earlier checkpoint.
    #[serde(default)]
    pub full: bool,
}

/// A call of the kubelet to its container runtime, as `godwit-cri-proxy` has read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub enum CriCall {
    /// `StopContainer`.
    Stop {
        /// Container id.
        container: String,
        /// For how long the container may go on after it was told.
        grace_seconds: u64,
    },
    /// `ExecSync`.
    Exec {
        /// Container id.
        container: String,
    },
    /// `CheckpointContainer`.
    Checkpoint {
        /// Container id.
        container: String,
    },
    /// `RunPodSandbox`, or `CreateContainer` in it.
    Sandbox(StartingPod),
}

/// A pod whose sandbox is being made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartingPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its labels.
    pub labels: HashMap<String, String>,
    /// Its annotations.
    pub annotations: HashMap<String, String>,
}

/// What becomes of a [`CriCall`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CriVerdict {
    /// It goes to containerd.
    Pass,
    /// It is answered as if it had been done well: there is nothing left to do it to.
    Done,
}

impl CheckpointRequest {
    /// For a container of the kubelet's, in its pod's store, as small as can be.
    #[must_use]
    pub fn of_pod(container: &str, outcome: Outcome) -> Self {
        let (namespace, container) = (names::CRI_NAMESPACE.to_owned(), container.to_owned());
        Self { namespace, container, outcome, store: None, full: false }
    }
}

/// What can be done with a store, by the agent or by the CLI straight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum StoreCommand {
    /// All checkpoints, newest first.
    List,
    /// One checkpoint with its lineage.
    Show {
        /// Which.
        checkpoint: CheckpointId,
    },
    /// Read and check every object of one checkpoint.
    Verify {
        /// Which.
        checkpoint: CheckpointId,
    },
    /// Remove a checkpoint from use; its bytes go with a later sweep.
    Delete {
        /// Which.
        checkpoint: CheckpointId,
        /// Also if it is the only good one of its lineage.
        force: bool,
    },
    /// Keep a checkpoint from being deleted, until it is let go.
    Hold {
        /// Which.
        checkpoint: CheckpointId,
        /// Who holds it, for people.
        who: String,
        /// What for, for people.
        why: String,
    },
    /// Let a checkpoint go that is held. One that nobody holds stays as it is.
    Unhold {
        /// Which.
        checkpoint: CheckpointId,
    },
    /// Delete what the limits say, then remove the bytes of what is not needed any more.
    Gc(Gc),
}

/// A collection of garbage. Limits are for each lineage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gc {
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// How many checkpoints stay, the newest ones.
    #[serde(default)]
    pub keep_last: Option<usize>,
    /// How old the oldest may be: seconds.
    #[serde(default)]
    pub max_age_seconds: Option<u64>,
    /// How many bytes their own objects may have together.
    #[serde(default)]
    pub max_bytes: Option<u64>,
}

/// A line of the agent's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// The request goes on.
    Progress(Progress),
    /// It is done; the type of `result` depends on the request.
    Done {
        /// The result as JSON.
        result: serde_json::Value,
    },
    /// It failed; nothing was half done.
    Failed(Failure),
}

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The phase that runs.
    pub phase: Phase,
    /// Bytes handled so far in this phase; 0 where bytes are not counted.
    pub done: u64,
    /// Bytes to handle in this phase as far as known; 0 where not known.
    pub total: u64,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Kind of failure; decides the exit code.
    pub code: Code,
    /// One sentence that says what to do.
    pub message: String,
    /// What lay behind it, outermost first.
    #[serde(default)]
    pub causes: Vec<String>,
}

/// What the agent is and does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Version of the agent.
    pub version: String,
    /// Name of the node.
    pub node: String,
    /// CRIU's version, or why it cannot be used.
    pub criu: String,
    /// Configured stores.
    pub stores: Vec<StoreStatus>,
    /// Pods with a lineage on this node.
    pub pods: Vec<PodStatus>,
    /// Operations in progress.
    pub operations: Vec<OperationStatus>,
    /// The last restores, newest first.
    #[serde(default)]
    pub restored: Vec<RestoreReport>,
    /// Bytes of capture memory in use and at most.
    pub budget: (u64, u64),
}

/// One configured store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Its URL, without credentials.
    pub url: String,
    /// `ready`, or why it cannot be used.
    pub state: String,
}

/// One pod of this node that has a lineage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStatus {
    /// Its key: pod uid, or `<containerd namespace>+<container id>`.
    pub pod: String,
    /// Its lineage.
    pub lineage: String,
    /// State of its fence (`owned`, `armed`, `moved`).
    pub fence: String,
    /// State of its shim, or `no shim`.
    pub shim: String,
}

/// The kubelet's pods of a node that run with our runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodList {
    /// By namespace and name.
    pub pods: Vec<ListedPod>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The containers that run, by their names in the pod's specification.
    pub containers: Vec<String>,
    /// Its lineage, if it has one already.
    pub lineage: Option<String>,
    /// The newest checkpoint that it could be continued from, as far as its store tells.
    pub last_checkpoint: Option<CheckpointId>,
    /// Whether it could be checkpointed as it is now.
    pub eligibility: Eligibility,
}

/// Whether a pod could be checkpointed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Eligibility {
    /// It could.
    Yes,
    /// It could not, as it is.
    No {
        /// A sentence.
        reason: String,
    },
    /// It is not known now: somebody is at work for it, or somebody who must be asked is away.
    Unknown {
        /// A sentence.
        reason: String,
    },
}

/// How the node is where only its agent can look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// Each configured store.
    pub stores: Vec<StoreDiagnosis>,
    /// The API server; absent: `agent.toml` has no section `[kubernetes]`.
    pub kubernetes: Option<ClusterDiagnosis>,
    /// Why the node's logind does not tell whether the node shuts down; absent: it does.
    pub logind: Option<String>,
    /// The last operations that failed since the agent started, newest first.
    pub failures: Vec<PastFailure>,
}

/// One store, tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreDiagnosis {
    /// Its name in the configuration.
    pub name: String,
    /// Its URL, without credentials.
    pub url: String,
    /// What it does not do, or why it cannot be used; absent: it does all that is needed.
    pub fault: Option<String>,
    /// By how many milliseconds its clock is ahead of the node's, where it could be asked.
    pub ahead_ms: Option<i64>,
    /// Bytes each second that one stream into it and one out of it had, where it could be tried.
    pub speed: Option<StoreSpeed>,
}

/// Bytes each second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreSpeed {
    /// Into the store.
    pub written: u64,
    /// Out of it.
    pub read: u64,
}

/// The API server of the node's cluster, asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterDiagnosis {
    /// The node, by the name under which it was asked for.
    pub node: String,
    /// How it answers.
    pub answer: ClusterAnswer,
    /// Since when (RFC 3339) it does not tell of the node's pods; absent while it does.
    pub away_since: Option<String>,
}

/// How an API server answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum ClusterAnswer {
    /// It knows the node.
    Knows {
        /// The node has the label that lets pods come.
        labelled: bool,
        /// What its condition `GodwitReady` says, if it has one.
        ready: Option<String>,
        /// What the agent needs and may not do there: verb and resource.
        denied: Vec<String>,
    },
    /// It refuses the agent, or does not know the node.
    Refuses {
        /// Its words.
        why: String,
    },
    /// It does not answer.
    Away {
        /// What was seen.
        why: String,
    },
}

/// An operation that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastFailure {
    /// When (RFC 3339).
    pub at: String,
    /// `checkpoint` or `restore`.
    pub kind: String,
    /// The pod: its uid, or `<containerd namespace>+<container id>`.
    pub pod: String,
    /// Why.
    pub told: String,
}

/// One operation in progress.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperationStatus {
    /// Its id.
    pub op: OpId,
    /// `checkpoint` or `restore`.
    pub kind: String,
    /// The pod that it concerns.
    pub pod: String,
    /// How far it is.
    pub progress: Option<Progress>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reads_back_from_its_line() {
        let request = Request::Store {
            store: None,
            command: StoreCommand::Delete { checkpoint: CheckpointId::mint(), force: true },
        };
        let line = serde_json::to_string(&request).unwrap();
        assert!(line.starts_with("{\"request\":\"store\""), "{line}");
        assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request);
    }
}
