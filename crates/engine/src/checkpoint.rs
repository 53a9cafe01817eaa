//! A checkpoint of one pod: a flat list of phases.
//!
//! ```text
//! queue      others have their turn
//! preflight  the shim, the log: do we own it? the refusals, then its first entry (fence on disk, armed if it may be given away)
//! prepare    intent, parent, memory reserved
//! pre-copy   live memory read and stored (given away, or larger than the budget)      pod runs
//! freeze     CRIU warm → frozen → dumped → CRIU gone → [leaves it running: thawed]
//! upload     page maps, digests, packs, [leaves it running: sparse frames rewritten,] head, manifest
//! commit     [given away: sealed] → entry → settled → [stop: killed]
//! finish     intent removed, report stored
//! ```
//! # Failure and cancellation
//! Until the seal every failure ends in the same way: CRIU is ended, the shim thaws, what was stored is removed. From the
//! seal on nothing is undone here; the machine goes on, and after this process's death the next agent does.

mod compact;
mod cut;
pub(crate) mod dump;
mod error;
mod files;
mod members;
pub(crate) mod memory;
mod nameless;
mod outside;
mod parent;
pub(crate) mod peer;
mod poked;
mod precopy;
mod preflight;
mod record;
mod shared;
pub(crate) mod source;
mod work;

use godwit_ownership::SourceSpec;
use godwit_ownership::{Ending, Event, Fence, LineageRef, Pen, Refusal, Source};
use godwit_types::{
    Bytes, CheckpointId, CheckpointReport, Code, LineageName, Nonce, OpId, Outcome, Phase, PodKey,
    Tenant, names,
};
use godwit_wire::api::CheckpointRequest;
use godwit_wire::parse;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use crate::containerd;
use crate::driver::{Driver, Stop};
use crate::identity::Identity;
use crate::journal::Journal;
use crate::log::StoreLog;
use crate::news::{What, Why};
use crate::node::Node;
use crate::pods::{Operation, Turn};
use crate::shim::{Shim, ShimError};

pub use error::{CheckpointError, Step};

use self::outside::Outside;
use self::peer::SourcePeer;
use self::source::{Source as Container, annotation};
use self::work::Work;

/// Makes a checkpoint of a running container.
///
/// # Errors
/// [`CheckpointError`]: nothing was lost; the sentence says whether the container runs on.
pub async fn checkpoint(
    node: &Node,
    request: CheckpointRequest,
    journal: Journal,
    cancel: CancellationToken,
) -> Result<CheckpointReport, CheckpointError> {
    let asked = Asked::find(node, &request).await?;
    let pod = asked.key.to_string();
    node.news.tell(&pod, What::CheckpointStarted);
    let made = carry_through(node, asked, request, journal, cancel).await;
    node.news.tell(
        &pod,
        match &made {
            Ok(report) => What::CheckpointCompleted(Box::new(report.clone())),
            Err(error) => What::CheckpointFailed(Why {
                code: error.code(),
                reason: None,
                told: crate::sentence(error),
            }),
        },
    );
    made
}

/// Whether a checkpoint could be made of the pod as it is now. Nothing is stored; the pod is looked at and not frozen. Whoever is
/// at work for it is not held up: then the answer is [`CheckpointError::Cancelled`].
///
/// # Errors
/// [`CheckpointError`]: why not, or why that is not known now.
pub async fn eligible(node: &Node, request: CheckpointRequest) -> Result<(), CheckpointError> {
    let asked = Asked::find(node, &request).await?;
    let key = asked.key.clone();
    let Some(looking) = node.pods.look(&key) else { return Err(CheckpointError::Cancelled) };
    let examined =
        async { Attempt::begin(node, OpId::mint(), asked, request).await?.examined().await };
    looking.unless_wanted(examined).await.unwrap_or(Err(CheckpointError::Cancelled))
}

async fn carry_through(
    node: &Node,
    asked: Asked,
    request: CheckpointRequest,
    mut journal: Journal,
    cancel: CancellationToken,
) -> Result<CheckpointReport, CheckpointError> {
    let op = OpId::mint();
    let key = asked.key.clone();
    let _listed = node.progress.enter(op, "checkpoint", key.as_str(), journal.watched());
    let goes_first = request.outcome.gives_away();
    let place = turn(&node.operations, &mut journal, &cancel);
    let _turn = match goes_first {
        // Another one of this pod may have the place that is waited for.
        true => tokio::select! {
            place = place => place,
            never = node.pods.keep_cancelling(&key) => match never {},
        },
        false => place.await,
    }?;
    journal.enter(Phase::Preflight);
    let at_work = node.pods.operation(&key).await;
    if goes_first {
        at_work.goes_first().await;
    }
    let attempt = Attempt::begin(node, op, asked, request).await?;
    attempt.run(&at_work, &mut journal, cancel.child_token()).await
}

/// What is to be checkpointed: always a whole pod.
struct Asked {
    key: PodKey,
    /// Which logical pod it is; none without Kubernetes.
    identity: Option<Identity>,
}

impl Asked {
    /// The pod of a container: one without company is its own.
    async fn find(node: &Node, request: &CheckpointRequest) -> Result<Self, CheckpointError> {
        let CheckpointRequest { namespace, container, .. } = request;
        let alone = PodKey::new(format!("{namespace}+{container}"))?;
        if Shim::listens(&alone) {
            return Ok(Self { key: alone, identity: None });
        }
        let spec = match containerd::spec_of(&node.containerd, namespace, container).await {
            Ok(spec) => spec,
            // That nothing of it runs is told better by who connects to its shim.
            Err(error) if error.code() == Code::NotFound => {
                return Ok(Self { key: alone, identity: None });
            }
            Err(error) => return Err(error.into()),
        };
        let get = |name: &'static str| annotation(&spec, name);
        let Some(group) = get(names::SANDBOX_ID) else {
            return Ok(Self { key: alone, identity: None });
        };
        let key = match get(names::SANDBOX_UID) {
            Some(uid) => PodKey::new(uid)?,
            None => PodKey::new(format!("{namespace}+{group}"))?,
        };
        let identity = Identity::of(&node.containerd, namespace, get).await?;
        Ok(Self { key, identity })
    }
}

/// Waits until fewer operations than the configuration allows are in progress.
async fn turn<'n>(
    operations: &'n Semaphore,
    journal: &mut Journal,
    cancel: &CancellationToken,
) -> Result<SemaphorePermit<'n>, CheckpointError> {
    if let Ok(turn) = operations.try_acquire() {
        return Ok(turn);
    }
    journal.enter(Phase::Queue);
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(CheckpointError::Cancelled),
        turn = operations.acquire() => turn.map_err(|_| CheckpointError::ShuttingDown),
    }
}

/// One checkpoint, before anything has happened.
struct Attempt<'n> {
    node: &'n Node,
    key: PodKey,
    request: CheckpointRequest,
    store: godwit_store::Store,
    counts: std::sync::Arc<godwit_store::wrap::Counts>,
    shim: Shim,
    spec: SourceSpec,
    /// What the pod was made from.
    template: Option<String>,
}

impl<'n> Attempt<'n> {
    /// Finds the shim and what the pod's fence says.
    async fn begin(
        node: &'n Node,
        op: OpId,
        asked: Asked,
        request: CheckpointRequest,
    ) -> Result<Self, CheckpointError> {
        let shim = Shim::connect(&asked.key).await?;
        let status = shim.attach().await?;
        let fence = match status.fence.as_slice() {
            [] => None,
            bytes => Some(Fence::decode(bytes)?),
        };
        let (name, _) = node.store(request.store.as_deref())?;
        let at = match &fence {
            Some(fence) => fence.at.clone(),
            None => begins(name, asked.identity.as_ref()),
        };
        let asked_elsewhere = request.store.as_ref().filter(|asked| **asked != at.store);
        if let Some(asked) = asked_elsewhere {
            let (asked, lives) = (asked.clone(), at.store.clone());
            return Err(CheckpointError::OtherStore { asked, lives });
        }
        let (store, counts) = node.store(Some(&at.store))?.1.metered();
        let incarnation = parse("incarnation", &status.incarnation)?;
        let pen = Pen {
            me: node.owner(&status.pod_uid, incarnation),
            op: Some(op),
            nonce: Nonce::mint(),
            at_ms: peer::unix_ms(),
        };
        let spec = SourceSpec {
            pen,
            op,
            at,
            fence,
            checkpoint: CheckpointId::mint(),
            outcome: request.outcome,
            to: None,
            reclaim_after_s: None,
        };
        let template = asked.identity.and_then(|identity| identity.template);
        Ok(Self { node, key: asked.key, request, store, counts, shim, spec, template })
    }

    /// Only looks, and lets go.
    async fn examined(self) -> Result<(), CheckpointError> {
        let Self { node, key, request, store, shim, spec, .. } = self;
        let log = StoreLog::new(store.tenant(&spec.at.tenant), &spec.at.lineage);
        let mut peer = SourcePeer::new(shim, spec.at.clone(), node.freeze_deadline).only_looks();
        let mut driver =
            Driver::new(Source::new(spec.clone()), &log, &mut peer, std::time::Duration::MAX);
        match driver.feed(Event::Begin).await {
            Stop::Examine => {}
            stop => return Err(ended(stop, &request.container, driver.peer())),
        }
        let examined = examine(node, &key, driver.peer(), &spec.at.store).await;
        driver.feed(Event::Cancel).await;
        examined.map(drop)
    }

    async fn run(
        self,
        at_work: &Operation<'_>,
        journal: &mut Journal,
        cancel: CancellationToken,
    ) -> Result<CheckpointReport, CheckpointError> {
        let Self { node, key, request, store, counts, shim, spec, template } = self;
        let tenant = store.tenant(&spec.at.tenant);
        let log = StoreLog::new(tenant.clone(), &spec.at.lineage);
        let patience = node.cluster.longest_freeze(&key, spec.outcome, node.freeze_deadline);
        let mut peer = SourcePeer::new(shim, spec.at.clone(), patience);
        let mut driver =
            Driver::new(Source::new(spec.clone()), &log, &mut peer, std::time::Duration::MAX)
                .too_old_after(store.identity().horizon() / 2, store.clock())
                .cancelled_by(&cancel);
        match driver.feed(Event::Begin).await {
            Stop::Examine => {}
            stop => return Err(ended(stop, &request.container, driver.peer())),
        }
        let begun = Begun::new(at_work, spec.outcome, &cancel);
        let sources = match examine(node, &key, driver.peer(), &spec.at.store).await {
            Ok(sources) => sources,
            Err(error) => {
                driver.feed(Event::Cancel).await;
                return Err(worse(error, driver.peer()));
            }
        };
        match driver.feed(Event::Fit).await {
            Stop::Ready => {}
            stop => return Err(ended(stop, &request.container, driver.peer())),
        }
        let outside = Outside::new(&cancel);
        let done = driver.peer().done.clone();
        let work = Work {
            node,
            request: &request,
            spec: &spec,
            template,
            tenant: &tenant,
            outside,
            done,
            patience,
            begun: &begun,
        };
        let made = async {
            let made = work.make(sources, driver.peer(), journal).await?;
            Ok((made, begun.turn(&cancel).await?))
        };
        let (made, turn) = match made.await {
            Ok(both) => both,
            Err(error) => {
                driver.feed(Event::Cancel).await;
                tidy_up(&tenant, spec.checkpoint).await;
                return Err(worse(error, driver.peer()));
            }
        };
        journal.enter(Phase::Commit);
        let event = if made.commit.is_too_old() { Event::TooOld } else { Event::Manifest };
        match driver.feed(event).await {
            Stop::Done(Ending::Committed(_) | Ending::Stopped(_)) => {}
            stop => {
                let refused = is_refused(&stop);
                let error = ended(stop, &request.container, driver.peer());
                match refused {
                    true => discard(&tenant, spec.checkpoint).await,
                    false => tidy_up(&tenant, spec.checkpoint).await,
                }
                return Err(error);
            }
        }
        turn.written();
        journal.enter(Phase::Finish);
        Ok(record::finish(&spec, &tenant, &counts, made, journal).await)
    }
}

/// An operation that the shim has begun, in its place among those of the pod.
struct Begun<'o> {
    at_work: &'o Operation<'o>,
    number: u64,
}

impl<'o> Begun<'o> {
    fn new(at_work: &'o Operation<'o>, outcome: Outcome, cancel: &CancellationToken) -> Self {
        Self { at_work, number: at_work.begun(outcome == Outcome::Run, cancel) }
    }

    fn thawed(&self) {
        self.at_work.thawed(self.number);
    }

    /// Its turn to be written down: not in the middle of another one's, whose entry would take its slot.
    async fn turn(&self, cancel: &CancellationToken) -> Result<Turn<'o>, CheckpointError> {
        let turn = cancel.run_until_cancelled(self.at_work.turn(self.number)).await;
        turn.ok_or(CheckpointError::Cancelled)?.ok_or(CheckpointError::Overtaken)
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.thawed();
    }
}

/// The lineage of a pod that has none yet. One that goes on with the lineage of those before it has asked for it when it started.
fn begins(store: &str, identity: Option<&Identity>) -> LineageRef {
    let (tenant, lineage) = match identity {
        Some(identity) => (identity.tenant.clone(), identity.own.clone()),
        None => (Tenant::node(), LineageName::mint()),
    };
    LineageRef { store: store.to_owned(), tenant, lineage }
}

/// What is checkpointed, if all of it can be. Nothing is stored before that is known, not even that its lineage begins.
async fn examine(
    node: &Node,
    key: &PodKey,
    peer: &mut SourcePeer,
    store: &str,
) -> Result<Vec<Container>, CheckpointError> {
    let sources = source::all(peer)?;
    if let Some(source) = sources.iter().find(|source| node.cluster.is_ephemeral(key, &source.name))
    {
        return Err(CheckpointError::Ephemeral { container: source.name.clone() });
    }
    let ghost_limit = Bytes(node.launcher.ghost_limit.into());
    let server = node.stores.server(store);
    for source in &sources {
        preflight::check(source, ghost_limit, server.clone()).await?;
    }
    nameless::check(&sources).await?;
    Ok(sources)
}

/// Removes what a checkpoint that did not take place has stored. With a manifest, the log decides: the sweep does it.
async fn tidy_up(tenant: &godwit_store::TenantStore, checkpoint: CheckpointId) {
    if let Err(error) = tenant.abandon(checkpoint).await {
        tracing::info!(%checkpoint, error = %error, "what was stored is left to the sweep");
    }
}

/// Whether its entry was refused by the store: nothing of it was written, nor will be.
fn is_refused(stop: &Stop) -> bool {
    matches!(stop, Stop::Done(Ending::GivenUp(Refusal::StoreRefuses)))
}

/// Removes all of a checkpoint whose entry was refused.
async fn discard(tenant: &godwit_store::TenantStore, checkpoint: CheckpointId) {
    if let Err(error) = tenant.discard(checkpoint).await {
        tracing::info!(%checkpoint, error = %error, "what was stored is left to the sweep");
    }
}

/// The shim went away, or has said why it ended the operation.
fn detached(peer: &mut SourcePeer) -> CheckpointError {
    match peer.trouble.take() {
        None | Some(ShimError::Wire(_)) => CheckpointError::Detached,
        Some(trouble) => trouble.into(),
    }
}

/// An error, or what the shim told after it: that the container does not run on.
fn worse(error: CheckpointError, peer: &mut SourcePeer) -> CheckpointError {
    match peer.trouble.take() {
        Some(trouble @ (ShimError::Damaged { .. } | ShimError::Exited { .. })) => trouble.into(),
        _ => error,
    }
}

/// How a machine ended, for the person who asked.
fn ended(stop: Stop, container: &str, peer: &mut SourcePeer) -> CheckpointError {
    let refusal = match stop {
        Stop::Done(Ending::GivenUp(refusal) | Ending::Refused(refusal)) => refusal,
        Stop::Done(Ending::Moved(entry)) => Refusal::NotOwner {
            node: entry.state.owner().map(|o| o.node.clone()).unwrap_or_default(),
        },
        Stop::Done(Ending::Unsealed(_)) => return CheckpointError::TakenBack,
        Stop::Done(Ending::Detached) => return detached(peer),
        Stop::Examine | Stop::Ready | Stop::Prepare(_) | Stop::Done(_) => {
            return CheckpointError::Order(Step::Log);
        }
    };
    match peer.trouble.take() {
        Some(trouble) => CheckpointError::Shim(trouble),
        None => CheckpointError::Ownership { code: refusal.code(), told: refusal.told(container) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_a_turn_is_told_and_can_give_up() {
        let (operations, cancel) = (Semaphore::new(1), CancellationToken::new());
        let (mut first, _) = Journal::begin();
        let running = turn(&operations, &mut first, &cancel).await.unwrap();
        assert_eq!(first.watched().progress(), None);

        let (mut second, _) = Journal::begin();
        let watched = second.watched();
        let waiting = turn(&operations, &mut second, &cancel);
        tokio::pin!(waiting);
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        assert_eq!(watched.progress().unwrap().phase, Phase::Queue);
        cancel.cancel();
        assert!(matches!(waiting.await, Err(CheckpointError::Cancelled)));

        // Nor does anybody begin when the agent stops.
        let (mut third, _) = Journal::begin();
        let never = CancellationToken::new();
        let waiting = turn(&operations, &mut third, &never);
        tokio::pin!(waiting);
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        operations.close();
        assert!(matches!(waiting.await, Err(CheckpointError::ShuttingDown)));
        drop(running);
    }
}
