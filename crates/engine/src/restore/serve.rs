//! The agent's operation socket: shims that start, and shims whose tasks have died.

use std::sync::Arc;
use std::time::Duration;

use godwit_ownership::Target;
use godwit_ownership::{Ending, Event};
use godwit_store::Pin;
use godwit_types::{CheckpointId, Code, Hydration, OpId, Phase, RestoreReport, Tenant};
use godwit_wire::agent_op::{
    AskStart, Hydrated, HydrationFailed, HydrationOver, Noted, Settled, TaskGone, ToAgentBody,
};
use godwit_wire::shim_op::HydratingRecord;
use godwit_wire::{AsyncListener, Received, Refusal, WireError, memfd, parse};
use tokio_util::sync::CancellationToken;

use super::peer::{Connection, TargetPeer};
use super::{RestoreError, Started, ask, release, restore};
use crate::driver::{Driver, Stop};
use crate::gone::{self, GonePod};
use crate::journal::Journal;
use crate::listen;
use crate::log::StoreLog;
use crate::news::{What, Why};
use crate::node::Node;
use crate::stores::Stores;

/// Longest `config.json` that is read.
const MAX_SPEC: u64 = 16 << 20;
/// A shim says hello and what it wants at once.
const GREETING: Duration = Duration::from_secs(10);

/// Serves shims until cancelled; starts in progress are carried through first. What they ask waits until the node has tried to open its
/// stores: nothing can be said before.
pub async fn serve(node: Arc<Node>, listener: AsyncListener, stop: CancellationToken) {
    let to_the_end = |connection| {
        let (node, stop) = (Arc::clone(&node), stop.clone());
        async move {
            if let Err(error) = attend(&node, connection, &stop).await {
                tracing::warn!(error = %error.sentence(), "a shim was not served to the end");
            }
        }
    };
    listen::serve(listener, "a shim", &stop, to_the_end).await
}

async fn attend(
    node: &Node,
    connection: Connection,
    stop: &CancellationToken,
) -> Result<(), RestoreError> {
    connection.greet(GREETING).await?;
    let first = connection.recv_timeout(GREETING).await?.ok_or(WireError::Closed)?;
    // To a shim that asks an agent which stops now, it is away.
    let Some(()) = stop.run_until_cancelled(node.stores.tried()).await else { return Ok(()) };
    match &first.body {
        ToAgentBody::BeginRestore(_) => begin_restore(node, first, connection, stop).await,
        ToAgentBody::AskStart(ask) => ordinary_start(node, ask.clone(), connection).await,
        ToAgentBody::TaskGone(gone) => task_gone(node, gone.clone(), connection).await,
        ToAgentBody::HydrationOver(over) => hydration_over(node, over.clone(), connection).await,
        other => Err(other.unexpected("BeginRestore, AskStart, TaskGone or HydrationOver").into()),
    }
}

async fn begin_restore(
    node: &Node,
    first: Received<godwit_wire::agent_op::ToAgentBody>,
    connection: Connection,
    stop: &CancellationToken,
) -> Result<(), RestoreError> {
    let (ToAgentBody::BeginRestore(begin), [spec]) = first.with_fds("BeginRestore")? else {
        return Err(RestoreError::Interrupted);
    };
    let spec = memfd::read(spec, MAX_SPEC)?;
    let Ok(spec) = serde_json::from_slice(&spec) else {
        let refusal = Refusal::new(Code::Corrupt, "the container's config.json cannot be read");
        connection.send(refusal, &[]).await?;
        return Ok(());
    };
    let (mut journal, watched) = Journal::begin();
    let op: OpId = parse("op", &begin.op)?;
    let _listed = node.progress.enter(op, "restore", &begin.pod_key, watched);
    let (name, pod) = (begin.container.clone(), begin.pod_uid.clone());
    let decides = begin.joins.is_none();
    let at_work = node.pods.operation(&parse("pod key", &begin.pod_key)?).await;
    let started = restore(node, begin, spec, connection, &mut journal).await;
    drop(at_work);
    let failed = |error: &RestoreError| {
        node.handed.forget(op);
        node.news.tell(&pod, What::RestoreFailed(error.why()));
    };
    let resumed = match started.inspect_err(failed)? {
        Started::Resumed(resumed) => resumed,
        other => {
            node.handed.forget(op);
            let how = match other {
                Started::Cold(why) => {
                    if let Some(why) = why {
                        node.news.tell(&pod, What::StartedFromImage(why));
                    }
                    "from its image"
                }
                _ => "was done: it does not run again",
            };
            tracing::info!(container = name, how, "started");
            return Ok(());
        }
    };
    let report = RestoreReport {
        op,
        checkpoint: resumed.manifest.id,
        lineage: resumed.manifest.lineage.clone(),
        container: name.clone(),
        resumed_ms: journal.elapsed_ms(),
        phases: journal.times(),
        hydrated: None,
    };
    let checkpoint = report.checkpoint;
    if decides {
        node.news.tell(&pod, What::RestoreSucceeded(Box::new(report.clone())));
    }
    node.restored.note(report);
    journal.enter(Phase::Hydrate);
    let hydrated = hydrate(&name, resumed.connection, resumed.pin);
    let ended = stop.run_until_cancelled(hydrated).await.unwrap_or(Ok(None));
    node.handed.forget(op);
    match ended? {
        Some(Ok(hydration)) => node.restored.hydrated(op, hydration),
        Some(Err(why)) => unfilled(node, &pod, checkpoint, why),
        None => {}
    }
    Ok(())
}

/// Its memory could not be completed: it is killed, and asks for the same checkpoint when it is started again. Bytes that are damaged stay
/// so.
fn unfilled(node: &Node, pod: &str, checkpoint: CheckpointId, why: Refusal) {
    let code = why.means();
    if code == Code::Cancelled {
        // It ended by itself.
        return;
    }
    let told = format!("its memory could not be completed, and it was killed: {}", why.reason);
    let why = Why { code, reason: None, told };
    if code == Code::Corrupt {
        node.unfit.failed(pod, checkpoint, why.clone());
    }
    node.news.tell(pod, What::RestoreFailed(why));
}

/// Waits until the shim says that every page is there, or why not. This agent's end changes nothing about that.
async fn hydrate(
    container: &str,
    connection: Connection,
    pin: Pin,
) -> Result<Option<Result<Hydration, Refusal>>, RestoreError> {
    let Some(message) = connection.recv().await? else { return Ok(None) };
    let hydration = match message.body {
        ToAgentBody::Hydrated(Hydrated { after_ms, pages, faults, .. }) => {
            Some(Ok(Hydration { ms: after_ms, pages, faults }))
        }
        ToAgentBody::HydrationFailed(failed) => {
            note_failed(container, &failed);
            failed.why.map(Err)
        }
        other => return Err(other.unexpected("Hydrated or HydrationFailed").into()),
    };
    // A shim that hears nothing says it again, until somebody lets go of the checkpoint.
    if release(pin).await {
        connection.send(Noted {}, &[]).await?;
    }
    Ok(hydration)
}

fn note_hydrated(container: &str, hydrated: &Hydrated) {
    let (ms, faults, pages) = (hydrated.after_ms, hydrated.faults, hydrated.pages);
    tracing::info!(container, ms, faults, pages, "hydrated");
}

fn note_failed(container: &str, failed: &HydrationFailed) {
    let why = failed.why.as_ref().map(|w| w.reason.as_str()).unwrap_or_default();
    tracing::error!(container, why, "killed: its memory could not be completed");
}

/// A hydration that began with an earlier agent is over. What cannot be done now the shim says again.
async fn hydration_over(
    node: &Node,
    over: HydrationOver,
    connection: Connection,
) -> Result<(), RestoreError> {
    let point = over.point.unwrap_or_default();
    unpin(&node.stores, &point).await?;
    if let Some(hydrated) = over.hydrated {
        note_hydrated(&over.container, &hydrated);
    }
    if let Some(failed) = over.failed {
        note_failed(&over.container, &failed);
        if let Some(why) = failed.why {
            unfilled(node, &over.pod_uid, parse("checkpoint", &point.checkpoint)?, why);
        }
    }
    connection.send(Noted {}, &[]).await?;
    Ok(())
}

/// Lets go of a checkpoint for which an earlier agent holds the pin.
async fn unpin(stores: &Stores, point: &HydratingRecord) -> Result<(), RestoreError> {
    let tenant: Tenant = parse("tenant", &point.tenant)?;
    let (_, store) = stores.get(Some(&point.store))?;
    let (checkpoint, op) = (parse("checkpoint", &point.checkpoint)?, parse("op", &point.op)?);
    Ok(store.tenant(&tenant).unpin(checkpoint, op).await?)
}

async fn ordinary_start(
    node: &Node,
    ask: AskStart,
    connection: Connection,
) -> Result<(), RestoreError> {
    let mut peer = TargetPeer::new(connection, None, ask.container.clone());
    let ended = decide_start(node, &ask, &mut peer).await;
    if let Err(error) = &ended {
        peer.why = Some(error.refusal());
        peer.close().await;
    }
    ended
}

async fn decide_start(
    node: &Node,
    ask: &AskStart,
    peer: &mut TargetPeer<'_>,
) -> Result<(), RestoreError> {
    let _at_work = node.pods.operation(&parse("pod key", &ask.pod_key)?).await;
    let spec = ask::ordinary(node, ask)?;
    let tenant = node.store(Some(&spec.at.store))?.1.tenant(&spec.at.tenant);
    let log = StoreLog::new(tenant, &spec.at.lineage);
    let mut driver = Driver::new(Target::new(spec), &log, peer, Duration::MAX);
    match driver.feed(Event::Begin).await {
        Stop::Done(Ending::Resumed(_)) => Ok(()),
        Stop::Done(Ending::Refused(refusal)) => {
            let told = refusal.told(&ask.container);
            Err(RestoreError::Told { code: refusal.code(), told })
        }
        _ => Err(RestoreError::Interrupted),
    }
}

async fn task_gone(
    node: &Node,
    gone: TaskGone,
    connection: Connection,
) -> Result<(), RestoreError> {
    let Some(fence) = ask::fence(&gone.fence)? else { return Err(RestoreError::NoFence) };
    let pod = GonePod { uid: gone.pod_uid, fence, wanted: gone.wanted, fence_age: Duration::ZERO };
    let remove_fence = gone::settle(node, pod).await?;
    connection.send(Settled { remove_fence }, &[]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use godwit_store::StoreConfig;
    use godwit_types::MachineId;

    use super::*;
    use crate::fixture;
    use crate::stores::Bearer;

    #[tokio::test]
    async fn what_an_earlier_agent_pinned_is_let_go_when_its_hydration_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let machine = MachineId::new("a".repeat(32)).unwrap();
        let me = Bearer { cluster: "_none".to_owned(), node: "n2".to_owned(), machine };
        let config = StoreConfig::from_url("memory://main").unwrap();
        let configs = BTreeMap::from([("main".to_owned(), config)]);
        let stores = Stores::new(configs, "main".to_owned(), me, dir.path());
        stores.open().await.unwrap();
        let tenant = stores.get(None).unwrap().1.tenant(&Tenant::node());
        let point = fixture::point(&tenant, &[vec![1; 4096]]).await;
        let [ours, another] = [OpId::mint(), OpId::mint()];
        for op in [ours, another] {
            tenant.pin(point.id, op, &fixture::owner("n2")).await.unwrap();
        }
        let record = HydratingRecord {
            op: ours.to_string(),
            store: "main".to_owned(),
            tenant: Tenant::node().to_string(),
            checkpoint: point.id.to_string(),
        };
        // It may be said twice.
        for _ in 0..2 {
            unpin(&stores, &record).await.unwrap();
            assert_eq!(tenant.pins(point.id).await.unwrap(), [another]);
        }
        let away = HydratingRecord { store: "other".to_owned(), ..record };
        assert!(unpin(&stores, &away).await.is_err(), "the shim says it again");
    }
}
