//! What all operations of one node share.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use godwit_criu::launch::Launcher;
use godwit_criu_rpc::CriuVersion;
use godwit_image::manifest::Compat;
use godwit_store::Store;
use godwit_types::{Hydration, OpId, Owner, RestoreReport};
use godwit_wire::NodeIdentity;
use godwit_wire::api::OperationStatus;
use tokio::sync::Semaphore;

use crate::budget::Budget;
use crate::cluster::Cluster;
use crate::frames::source::HandedOver;
use crate::journal::Watched;
use crate::news::Channel;
use crate::pods::Pods;
use crate::pods_of::Found;
use crate::restore::{Ahead, Unfit};
use crate::stores::{NoStore, Stores};

/// The cluster of nodes without Kubernetes.
pub const NO_CLUSTER: &str = "_none";

/// One node: its identity, its stores, its limits, and what is in progress.
#[derive(Debug)]
pub struct Node {
    /// Who it is in logs.
    pub identity: NodeIdentity,
    /// Its stores.
    pub stores: Stores,
    /// Memory for capture.
    pub budget: Budget,
    /// Longest freeze.
    pub freeze_deadline: Duration,
    /// Longest wait for memory of a restored container while none comes.
    pub hydration_deadline: Duration,
    /// How CRIU is started.
    pub launcher: Launcher,
    /// CRIU's version.
    pub criu: CriuVersion,
    /// What it can run.
    pub compat: Compat,
    /// Whether its kernel lets memory come after a restored container runs.
    pub lazy_pages: bool,
    /// containerd's socket.
    pub containerd: PathBuf,
    /// Directory of what need not outlive a reboot, on tmpfs.
    pub run_dir: PathBuf,
    /// Checkpoints at the same time.
    pub operations: Semaphore,
    /// Restores that are made ready at the same time. Turns of their own: neither kind ever waits for the other.
    pub restores: Semaphore,
    /// What restores have opened for their pagers.
    pub handed: HandedOver,
    /// What is in progress.
    pub progress: Operations,
    /// Who is at work for which pod.
    pub pods: Pods,
    /// What was restored last.
    pub restored: Restored,
    /// What happens to pods.
    pub news: Channel,
    /// What was read before it is asked for.
    pub ahead: Ahead,
    /// Points that are not tried any more.
    pub unfit: Unfit,
    /// Whose containers are known.
    pub found: Found,
    /// What their cluster knows of pods.
    pub cluster: Cluster,
}

impl Node {
    /// A store by name, or the default one; with its name.
    ///
    /// # Errors
    /// There is none of this name, or it is away.
    pub fn store(&self, name: Option<&str>) -> Result<(&str, &Store), NoStore> {
        self.stores.get(name)
    }

    /// The owner that a pod of this node is.
    #[must_use]
    pub fn owner(&self, pod_uid: &str, incarnation: godwit_types::Incarnation) -> Owner {
        Owner {
            cluster: self.identity.cluster.clone(),
            node: self.identity.node.clone(),
            epoch: self.identity.epoch,
            pod_uid: pod_uid.to_owned(),
            incarnation,
        }
    }
}

/// How many reports of restores are kept.
const REPORTS: usize = 16;

/// Reports of the last restores.
#[derive(Debug, Default)]
pub struct Restored(Mutex<VecDeque<RestoreReport>>);

impl Restored {
    /// A restore is through, as its log tells as well.
    pub fn note(&self, report: RestoreReport) {
        log(&report);
        let mut last = self.lock();
        last.truncate(REPORTS - 1);
        last.push_front(report);
    }

    /// All of its memory is there.
    pub fn hydrated(&self, op: OpId, hydration: Hydration) {
        if let Some(report) = self.lock().iter_mut().find(|report| report.op == op) {
            report.hydrated = Some(hydration);
            log(report);
        }
    }

    /// All that are kept, newest first.
    #[must_use]
    pub fn last(&self) -> Vec<RestoreReport> {
        self.lock().iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<RestoreReport>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log(report: &RestoreReport) {
    let text = serde_json::to_string(report).unwrap_or_default();
    tracing::info!(report = text, "restore");
}

/// The operations in progress.
#[derive(Debug, Default)]
pub struct Operations(Mutex<BTreeMap<OpId, Running>>);

#[derive(Debug)]
struct Running {
    kind: &'static str,
    pod: String,
    watched: Watched,
}

/// Removes an operation from the list when dropped.
#[derive(Debug)]
pub struct Listed<'a> {
    operations: &'a Operations,
    op: OpId,
}

impl Operations {
    /// Lists an operation for as long as the result lives.
    pub fn enter(&self, op: OpId, kind: &'static str, pod: &str, watched: Watched) -> Listed<'_> {
        self.lock().insert(op, Running { kind, pod: pod.to_owned(), watched });
        Listed { operations: self, op }
    }

    /// What is in progress, oldest first.
    #[must_use]
    pub fn status(&self) -> Vec<OperationStatus> {
        let status = |(op, running): (&OpId, &Running)| OperationStatus {
            op: *op,
            kind: running.kind.to_owned(),
            pod: running.pod.clone(),
            progress: running.watched.progress(),
        };
        self.lock().iter().map(status).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<OpId, Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.operations.lock().remove(&self.op);
    }
}
