//! A start of one container that needs the log: restore, fork, or an ordinary start of a pod with a lineage.
//!
//! ```text
//! check      which point, may it be continued, does it fit this node        nothing is written yet but a pin
//! stage      head → CRIU's images, vetted; relay's and pager's plans
//! restore    the shim runs `runc restore` up to post-restore: every task is held
//! take-over  one create-only entry: one winner. After it, and only then, the tasks run
//! hydrate    the pager asks for frames (`frames`); the shim tells when all are there
//! ```
//! # Failure and cancellation
//! Before the take-over nothing has been written but the pin, which goes: the shim kills what it held, and somebody else may try. From
//! `Committing` on only the settled slot decides; if this agent dies there, the next one finds the shim by `Attach`.

mod ask;
mod error;
mod fits;
pub(crate) mod peer;
pub mod serve;
mod stage;

use std::path::PathBuf;
use std::sync::Arc;

use godwit_files::Halt;
use godwit_image::{FrameSource, Head, Manifest};
use godwit_ownership::{Ending, Event};
use godwit_ownership::{Target, TargetSpec};
use godwit_store::{CheckpointReader, Pin, TenantStore};
use godwit_types::{CheckpointId, Phase, Tenant, names};
use godwit_wire::agent_op::BeginRestore;
use godwit_wire::parse;
use oci_spec::runtime::Spec;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use crate::checkpoint::peer::lineage_at;
use crate::compat;
use crate::containerd;
use crate::driver::{Driver, Peer, Stop};
use crate::frames::source::{Handed, SourceWords};
use crate::journal::Journal;
use crate::log::StoreLog;
use crate::node::Node;
use crate::volumes;

pub use error::RestoreError;

use self::peer::{Connection, TargetPeer};
use self::stage::{Stage, Staged};

/// What a spec's annotations ask for, found in a store.
struct Wanted {
    /// Name of the store.
    store_name: String,
    tenant: TenantStore,
    /// Pinned when it was opened; that it exists is for the machine to check.
    reader: CheckpointReader,
}

impl Wanted {
    async fn find(
        node: &Node,
        begin: &BeginRestore,
        pinned: &mut Option<Pin>,
    ) -> Result<Self, RestoreError> {
        let asked = ask::Asked::read(begin)?;
        let (store_name, store) = node.store(asked.store.as_deref())?;
        let tenant = store.tenant(&Tenant::node());
        let me = node.owner(&begin.pod_uid, parse("incarnation", &begin.incarnation)?);
        let op = parse("op", &begin.op)?;
        let (pin, reader) = tenant.pin_and_open(asked.checkpoint, op, &me).await?;
        *pinned = Some(pin);
        Ok(Self { store_name: store_name.to_owned(), tenant, reader })
    }

    fn manifest(&self) -> &Manifest {
        self.reader.manifest()
    }
}

/// A container that runs, and what follows: its memory.
pub(crate) struct Resumed {
    /// The shim's.
    pub(crate) connection: Connection,
    /// What was restored.
    pub(crate) manifest: Manifest,
    /// Keeps the checkpoint until all memory is there.
    pub(crate) pin: Pin,
}

/// What became of a start that asked for a restore.
pub(crate) enum Started {
    /// Its tasks are the checkpoint's.
    Resumed(Box<Resumed>),
    /// There was nothing to restore, and it may start from its image.
    Cold,
}

/// Carries a restore through; the connection is given back for what follows the resume.
///
/// # Errors
/// [`RestoreError`]: nothing of it runs, and the shim was told.
pub(crate) async fn restore(
    node: &Node,
    begin: BeginRestore,
    spec: Spec,
    connection: Connection,
    journal: &mut Journal,
) -> Result<Started, RestoreError> {
    journal.enter(Phase::Check);
    let mut peer = TargetPeer::new(connection, Some(journal), begin.container.clone());
    let mut pin = None;
    match Box::pin(carry_through(node, &begin, &spec, &mut peer, &mut pin)).await {
        Ok(manifest) => {
            let pin = pin.ok_or(RestoreError::Interrupted)?;
            if peer.held.is_none() {
                // It started from its image: nothing is read.
                release(pin).await;
                return Ok(Started::Cold);
            }
            let connection = peer.into_socket();
            Ok(Started::Resumed(Box::new(Resumed { connection, manifest, pin })))
        }
        Err(error) => {
            if let Some(pin) = pin {
                release(pin).await;
            }
            peer.why
                .get_or_insert_with(|| godwit_wire::Refusal::new(error.code(), error.sentence()));
            peer.close().await;
            Err(error)
        }
    }
}

async fn carry_through(
    node: &Node,
    begin: &BeginRestore,
    spec: &Spec,
    peer: &mut TargetPeer<'_>,
    pinned: &mut Option<Pin>,
) -> Result<Manifest, RestoreError> {
    let wanted = Wanted::find(node, begin, pinned).await?;
    let target = ask::target(node, begin, &wanted.store_name, wanted.manifest())?;
    let log = StoreLog::new(wanted.tenant.clone(), &target.at.lineage);
    let reclaim = std::time::Duration::MAX;
    let shim = peer.pid();
    let mut driver = Driver::new(Target::new(target.clone()), &log, peer, reclaim);
    let mut event = Event::Begin;
    let mut opened = wanted.manifest().clone();
    loop {
        match driver.feed(event).await {
            Stop::Prepare(checkpoint) => {
                driver.peer().enter(Phase::Stage);
                let turn = match turn(&node.restores, driver.peer()).await {
                    Ok(turn) => turn,
                    Err(heard) => {
                        event = heard;
                        continue;
                    }
                };
                let stop = CancellationToken::new();
                let work =
                    prepare(node, begin, spec, &wanted, &target, checkpoint, shim, pinned, &stop);
                let staged = match unless_heard(work, &stop, driver.peer()).await {
                    Ok(staged) => staged,
                    Err(heard) => {
                        event = heard;
                        continue;
                    }
                };
                drop(turn);
                event = match staged {
                    Ok((mut staged, manifest)) => {
                        opened = manifest;
                        staged.plan.checkpoint = checkpoint.to_string();
                        staged.plan.whole = ask::is_whole(&begin.annotations);
                        staged.plan.at = Some(lineage_at(&target.at));
                        driver.peer().plan = Some((staged.plan, staged.fds));
                        driver.peer().enter(Phase::Restore);
                        Event::Prepared
                    }
                    Err(error) => {
                        let never = error.never();
                        let told = godwit_wire::Refusal::new(error.code(), error.sentence());
                        driver.peer().why = Some(told);
                        tracing::warn!(error = %error.sentence(), "a point cannot be restored here");
                        Event::CannotRestore { never }
                    }
                };
            }
            Stop::Done(Ending::Resumed(_)) => return Ok(opened),
            Stop::Done(Ending::Refused(refusal)) => {
                let told = refusal.told(&begin.container);
                return Err(match driver.peer().why.take() {
                    Some(why) => RestoreError::Told { code: why.means(), told: why.reason },
                    None => RestoreError::Told { code: refusal.code(), told },
                });
            }
            Stop::Done(_) | Stop::Examine | Stop::Ready => return Err(RestoreError::Interrupted),
        }
    }
}

/// Waits for a turn to make a restore ready: a head in memory and what is read for it. What the shim says meanwhile ends the wait.
async fn turn<'s>(
    turns: &'s Semaphore,
    shim: &mut impl Peer,
) -> Result<Option<SemaphorePermit<'s>>, Event> {
    tokio::select! {
        biased;
        // It is never closed; without a permit the work would only be less bounded.
        turn = turns.acquire() => Ok(turn.ok()),
        heard = shim.hear() => Err(heard.map_or(Event::Ended, Event::Shim)),
    }
}

/// Does work for as long as the shim wants it. A shim that says something, or is gone, waits for nothing and takes nobody's turn: the
/// work is stopped, and has ended when this returns. Nothing is written any more into a root file system that others use next.
async fn unless_heard<T>(
    work: impl Future<Output = T>,
    stop: &CancellationToken,
    shim: &mut impl Peer,
) -> Result<T, Event> {
    // Whoever drops this asks threads to end, too.
    let _dropped = stop.clone().drop_guard();
    tokio::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => Ok(done),
        heard = shim.hear() => {
            stop.cancel();
            work.await;
            Err(heard.map_or(Event::Ended, Event::Shim))
        }
    }
}

/// Everything that the plan needs. Once `stop` is cancelled it ends soon; when it has ended, nothing of it goes on.
#[expect(clippy::too_many_arguments, reason = "all that is known of one start")]
async fn prepare(
    node: &Node,
    begin: &BeginRestore,
    spec: &Spec,
    wanted: &Wanted,
    target: &TargetSpec,
    checkpoint: CheckpointId,
    shim: u32,
    pinned: &mut Option<Pin>,
    stop: &CancellationToken,
) -> Result<(Staged, Manifest), RestoreError> {
    let opened = open(node, begin, spec, wanted, target, checkpoint, pinned);
    let (reader, head) =
        stop.run_until_cancelled(opened).await.ok_or(RestoreError::Interrupted)??;
    let manifest = reader.manifest().clone();
    let packs = Arc::new(head.packs.clone());
    let frames = reader.frame_source(Arc::clone(&packs)).stopped_by(stop.clone());
    let frames: Arc<dyn FrameSource> = Arc::new(frames);
    if let Some(pin) = pinned.clone() {
        node.handed.put(target.op(), Handed { reader, packs, pin });
    }
    let words = SourceWords {
        store: wanted.store_name.clone(),
        tenant: wanted.tenant.tenant().clone(),
        checkpoint,
        op: target.op(),
        owner: target.pen.me.clone(),
    };
    let source = serde_json::to_vec(&words).map_err(RestoreError::Words)?;
    let work_dir = PathBuf::from(&begin.work_dir);
    let (spec, launcher, version) = (spec.clone(), node.launcher.clone(), node.criu);
    let (run_dir, deadline) = (node.run_dir.clone(), node.hydration_deadline);
    let (rootfs, name) = (PathBuf::from(&begin.rootfs), begin.container.clone());
    let addresses = manifest.network.ips.clone();
    let score = score_of(shim);
    let halt = Halt::when({
        let stop = stop.clone();
        move || stop.is_cancelled()
    });
    let staged = tokio::task::spawn_blocking(move || {
        let [container] = head.containers.as_slice() else {
            return Err(RestoreError::SeveralContainers);
        };
        fits::memory(container, &spec, &name)?;
        let images = make_dir(&work_dir.join("images"))?;
        let workspace = make_dir(&run_dir.join("relay"))?;
        let stage = Stage {
            container,
            addresses: &addresses,
            rootfs: &rootfs,
            packs: &head.packs,
            spec: &spec,
            images: &images,
            workspace: &workspace,
            frames: &frames,
            source,
            deadline,
            shim,
            score,
            launcher: &launcher,
            version,
            halt: &halt,
        };
        stage.run()
    });
    let staged = staged.await.map_err(|_| RestoreError::Interrupted)??;
    Ok((staged, manifest))
}

/// What is read before anything is written, for a point that fits here.
async fn open(
    node: &Node,
    begin: &BeginRestore,
    spec: &Spec,
    wanted: &Wanted,
    target: &TargetSpec,
    checkpoint: CheckpointId,
    pinned: &mut Option<Pin>,
) -> Result<(CheckpointReader, Head), RestoreError> {
    let reader = reader_of(wanted, target, checkpoint, pinned).await?;
    let manifest = reader.manifest();
    compat::check(&manifest.compat, &node.compat)?;
    compat::check_lazy(node.lazy_pages)?;
    let here = containerd::image_of(&node.containerd, &begin.namespace, &begin.container).await?;
    fits::image(manifest, &here, &begin.container)?;
    let fit = check_volumes(node, begin, spec, &wanted.tenant, manifest);
    let (fit, head) = tokio::join!(fit, reader.head());
    fit?;
    Ok((reader, head?))
}

/// The checkpoint that the log says: the one that was asked for, but for a container whose request is consumed.
async fn reader_of(
    wanted: &Wanted,
    target: &TargetSpec,
    checkpoint: CheckpointId,
    pinned: &mut Option<Pin>,
) -> Result<CheckpointReader, RestoreError> {
    if checkpoint == wanted.manifest().id {
        return Ok(wanted.reader.clone());
    }
    let (pin, reader) = wanted.tenant.pin(checkpoint, target.op(), &target.pen.me).await?;
    if let Some(former) = pinned.replace(pin) {
        release(former).await;
    }
    Ok(reader)
}

/// The out-of-memory score of the shim, which a new container's processes inherit.
fn score_of(shim: u32) -> i32 {
    let score = std::fs::read_to_string(format!("/proc/{shim}/oom_score_adj"));
    score.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

async fn check_volumes(
    node: &Node,
    begin: &BeginRestore,
    spec: &Spec,
    tenant: &TenantStore,
    manifest: &Manifest,
) -> Result<(), RestoreError> {
    if manifest.volumes.is_empty() {
        return Ok(());
    }
    let newest = tenant.lineage(&manifest.lineage).newest().await?;
    let asked = |name| ask::annotation(&begin.annotations, name);
    let start = volumes::Start {
        checkpoint: manifest.id,
        source: &manifest.source,
        node: &node.identity,
        spec,
        cared_for: asked(names::VOLUMES).unwrap_or_default(),
        fork: asked(names::FORK_FROM).is_some(),
        newest: newest.as_ref().map(|entry| &entry.kind),
    };
    Ok(volumes::check(start, &manifest.volumes)?)
}

/// Whether it was released. One that cannot be ends by age.
pub(crate) async fn release(pin: Pin) -> bool {
    let checkpoint = pin.checkpoint();
    let released = pin.release().await;
    if let Err(error) = &released {
        tracing::info!(%checkpoint, error = %error, "a pin is left to its age");
    }
    released.is_ok()
}

fn make_dir(path: &std::path::Path) -> Result<PathBuf, RestoreError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| RestoreError::Write { path: path.to_owned(), source })?;
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests;
