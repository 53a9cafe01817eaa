//! What restores will need, read before they ask: a pod's sandbox is made some hundred milliseconds before its first container starts.
//!
//! Owns: heads of checkpoints, for a minute. They never change under their id, and are compared with the manifest's digest when they are
//! read; who may continue one, and whether it still is there, is asked when a container starts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use godwit_image::{Digest, Head};
use godwit_store::{CheckpointReader, StoreError, TenantStore};
use godwit_types::{CheckpointId, Tenant, names};
use godwit_wire::api::StartingPod;
use godwit_wire::parse;

use super::RestoreError;
use super::ask::From;
use crate::identity::Identity;
use crate::log::StoreLog;
use crate::node::Node;

/// For a container to follow its sandbox. An image that must be pulled first may take longer: then it is read again with the container.
const KEPT: Duration = Duration::from_secs(60);
/// So many at once, and none that is longer: memory of the node is not ours.
const MOST: usize = 8;
const LONGEST: u64 = 64 << 20;

type Reading = Shared<BoxFuture<'static, Option<(Digest, Arc<Head>)>>>;

/// Heads that are being read, or were.
#[derive(Debug, Default)]
pub struct Ahead(Mutex<BTreeMap<CheckpointId, Reading>>);

impl Ahead {
    /// The head of a checkpoint, read by now or not.
    pub(super) async fn head(&self, reader: &CheckpointReader) -> Result<Arc<Head>, StoreError> {
        let reading = self.lock().get(&reader.manifest().id).cloned();
        if let Some(reading) = reading
            && let Some((digest, head)) = reading.await
            && reader.manifest().head().is_some_and(|object| object.digest == digest)
        {
            return Ok(head);
        }
        reader.head().await.map(Arc::new)
    }

    /// Whether it is not being read yet.
    fn begin(&self, checkpoint: CheckpointId, reading: Reading) -> bool {
        let mut all = self.lock();
        let is_new = all.len() < MOST && !all.contains_key(&checkpoint);
        if is_new {
            all.insert(checkpoint, reading);
        }
        is_new
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CheckpointId, Reading>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads what a pod that is about to start will ask for; what cannot be read is told when it does.
pub async fn read(node: &Arc<Node>, pod: &StartingPod) {
    match wanted(node, pod).await {
        Ok(Some((tenant, checkpoint))) => begin(node, tenant, checkpoint).await,
        Ok(None) => {}
        Err(error) => {
            tracing::debug!(pod = pod.name, error = %error.sentence(), "nothing is read ahead");
        }
    }
}

async fn begin(node: &Arc<Node>, tenant: TenantStore, checkpoint: CheckpointId) {
    let reading = async move {
        let reader = tenant.open_checkpoint(checkpoint).await.ok()?;
        let object = reader.manifest().head().filter(|head| head.size <= LONGEST)?;
        Some((object.digest, Arc::new(reader.head().await.ok()?)))
    };
    let reading: Reading = reading.boxed().shared();
    if !node.ahead.begin(checkpoint, reading.clone()) {
        return;
    }
    if reading.await.is_some() {
        tracing::info!(%checkpoint, "read ahead");
    }
    tokio::time::sleep(KEPT).await;
    node.ahead.lock().remove(&checkpoint);
}

/// Which checkpoint its containers will ask for, as far as that is known now.
async fn wanted(
    node: &Node,
    pod: &StartingPod,
) -> Result<Option<(TenantStore, CheckpointId)>, RestoreError> {
    let from = From::read(|name| pod.annotations.get(name).map(String::as_str))?;
    let store = node.store(pod.annotations.get(names::STORE).map(String::as_str))?.1;
    let tenant: Tenant = parse("namespace", &pod.namespace)?;
    let tenant = store.tenant(&tenant);
    if let Some(named) = from.checkpoint() {
        return Ok(Some((tenant, named)));
    }
    let known = [&pod.namespace, &pod.name, &pod.uid].map(String::as_str);
    let Some(lineage) = Identity::by(known, &pod.labels)?.stable else { return Ok(None) };
    let latest = StoreLog::new(tenant.clone(), &lineage).last_point().await;
    Ok(latest.map(|checkpoint| (tenant, checkpoint)))
}
