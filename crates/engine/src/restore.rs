//! A start of a container that needs the log: restore, fork, or an ordinary start of a pod with a lineage.
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

pub mod ahead;
mod ask;
mod connections;
mod error;
mod fits;
pub(crate) mod peer;
pub mod serve;
mod stage;
mod unfit;
mod wanted;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use godwit_criu::mounts::binds;
use godwit_files::Halt;
use godwit_image::{ContainerHead, FrameSource, Head, Manifest, SECTION_SPEC, section_of_volume};
use godwit_ownership::{Ending, Event, Fence, LineageRef, Refusal, Target};
use godwit_store::{CheckpointReader, Pin, TenantStore};
use godwit_types::{CheckpointId, Code, OpId, Owner, Phase, names};
use godwit_wire::agent_op::BeginRestore;
use godwit_wire::parse;
use oci_spec::runtime::Spec;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use crate::checkpoint::source::name_of;
use crate::compat;
use crate::containerd;
use crate::driver::{Driver, Peer, Stop};
use crate::frames::source::{Handed, SourceWords};
use crate::journal::Journal;
use crate::log::StoreLog;
use crate::news::{What, Why};
use crate::node::Node;
use crate::volumes;

pub use ahead::Ahead;
pub use error::RestoreError;
pub use unfit::Unfit;

use self::peer::{Connection, TargetPeer};
use self::stage::{Stage, Staged};
use self::wanted::{Point, Wanted};

/// A start that asks for a restore.
struct Asking<'a> {
    node: &'a Node,
    begin: &'a BeginRestore,
    spec: &'a Spec,
    op: OpId,
    me: Owner,
    /// Pid of its shim; 0 if it is not known.
    shim: u32,
}

impl<'a> Asking<'a> {
    fn new(
        node: &'a Node,
        begin: &'a BeginRestore,
        spec: &'a Spec,
        shim: u32,
    ) -> Result<Self, RestoreError> {
        let me = node.owner(&begin.pod_uid, parse("incarnation", &begin.incarnation)?);
        Ok(Self { node, begin, spec, op: parse("op", &begin.op)?, me, shim })
    }

    /// Whoever is debugged knows nothing of its checkpoint: a stranger in it, which would cost the pod its memory.
    fn is_of_the_pods_own(&self) -> Result<(), RestoreError> {
        let lives = |fence: Fence| fence.lived && fence.incarnation == self.me.incarnation;
        let key = parse("pod key", &self.begin.pod_key)?;
        let is_early = !ask::fence(&self.begin.fence)?.is_some_and(lives);
        if is_early && self.node.cluster.is_ephemeral(&key, self.name()) {
            return Err(RestoreError::Ephemeral { container: self.name().to_owned() });
        }
        Ok(())
    }

    /// What the pod calls the container.
    fn name(&self) -> &'a str {
        name_of(self.spec).unwrap_or(&self.begin.container)
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
    /// There was nothing to restore, and it may start from its image; or there was, and why not.
    Cold(Option<Why>),
    /// It was done before the checkpoint was made, and does not run.
    Finished,
}

/// What becomes of a start, before its pin does.
enum Through {
    Resumed(Box<Manifest>),
    Cold(Option<Why>),
    Finished,
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
        Ok(Through::Resumed(manifest)) => {
            let pin = pin.ok_or(RestoreError::Interrupted)?;
            let connection = peer.into_socket();
            Ok(Started::Resumed(Box::new(Resumed { connection, manifest: *manifest, pin })))
        }
        Ok(through) => {
            // Nothing is read.
            if let Some(pin) = pin {
                release(pin).await;
            }
            Ok(match through {
                Through::Cold(why) => Started::Cold(why),
                _ => Started::Finished,
            })
        }
        Err(error) => {
            if let Some(pin) = pin {
                release(pin).await;
            }
            peer.why.get_or_insert_with(|| error.refusal());
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
) -> Result<Through, RestoreError> {
    let asking = Asking::new(node, begin, spec, peer.pid())?;
    asking.is_of_the_pods_own()?;
    let wanted = Wanted::find(&asking, pinned).await?;
    if begin.joins.is_some() {
        return join(&asking, &wanted, peer, pinned).await;
    }
    let target = ask::target(node, begin, &wanted)?;
    let log = StoreLog::new(wanted.tenant.clone(), &target.at.lineage);
    let reclaim = std::time::Duration::MAX;
    let at = target.at.clone();
    if let Point::Latest(latest) = &wanted.point {
        let waits = latest.wait_for_others(&log, &asking.me);
        unless_heard(waits, &CancellationToken::new(), peer)
            .await
            .map_err(|_| RestoreError::Interrupted)?;
    }
    let mut driver = Driver::new(Target::new(target), &log, peer, reclaim);
    let mut event = Event::Begin;
    let (mut opened, mut unfit) = (None, None);
    loop {
        match driver.feed(event).await {
            Stop::Prepare(checkpoint) => {
                if let Some(why) = wanted.given_up(&asking, checkpoint) {
                    driver.peer().why = Some(godwit_wire::Refusal::new(why.code, &why.told));
                    unfit = Some(why);
                    event = Event::CannotRestore { never: true };
                    continue;
                }
                node.news.tell(&begin.pod_uid, What::RestoreStarted(checkpoint));
                event = match stage(&asking, &wanted, checkpoint, driver.peer(), pinned).await {
                    Ok(Ready::Staged(manifest)) => {
                        opened = Some(manifest);
                        driver.peer().at(&at);
                        Event::Prepared
                    }
                    Ok(Ready::Finished) => {
                        driver.peer().finish().await?;
                        return Ok(Through::Finished);
                    }
                    Err(NotReady::Heard(heard)) => heard,
                    Err(NotReady::Failed(error)) => {
                        let never = error.never() && wanted.gives_way(&error);
                        driver.peer().why = Some(error.refusal());
                        tracing::warn!(error = %error.sentence(), "a point cannot be restored here");
                        unfit = Some(error.why());
                        Event::CannotRestore { never }
                    }
                };
            }
            Stop::Done(Ending::Resumed(_)) => {
                let restored = opened.filter(|_| driver.peer().held.is_some());
                return Ok(restored.map_or(Through::Cold(unfit), Through::Resumed));
            }
            Stop::Done(Ending::Refused(refusal)) => {
                let told = refusal.told(&begin.container);
                let error = match driver.peer().why.take() {
                    Some(why) => RestoreError::Told { code: why.means(), told: why.reason },
                    None => RestoreError::Told { code: refusal.code(), told },
                };
                // Whoever was killed in the middle, or could not read something, says nothing about the point.
                let by_criu = !matches!(error.code(), Code::Cancelled | Code::Unavailable);
                if let Refusal::RestoreFailed { checkpoint } = refusal
                    && by_criu
                    && opened.is_some()
                {
                    node.unfit.failed(&begin.pod_uid, checkpoint, error.why());
                }
                return Err(error);
            }
            Stop::Done(_) | Stop::Examine | Stop::Ready => return Err(RestoreError::Interrupted),
        }
    }
}

/// Another container of a pod that is restored: it is staged, and whoever decides for the pod decides for it.
async fn join(
    asking: &Asking<'_>,
    wanted: &Wanted,
    peer: &mut TargetPeer<'_>,
    pinned: &mut Option<Pin>,
) -> Result<Through, RestoreError> {
    let Point::Named(point) = &wanted.point else { return Err(RestoreError::Interrupted) };
    match stage(asking, wanted, point.manifest().id, peer, pinned).await {
        Ok(Ready::Staged(manifest)) => {
            peer.at(&LineageRef {
                store: wanted.store_name.clone(),
                tenant: manifest.tenant.clone(),
                lineage: manifest.lineage.clone(),
            });
            match peer.joined().await? {
                true => Ok(Through::Resumed(manifest)),
                false => Err(RestoreError::Interrupted),
            }
        }
        Ok(Ready::Finished) => {
            peer.finish().await?;
            Ok(Through::Finished)
        }
        Err(NotReady::Heard(_)) => Err(RestoreError::Interrupted),
        Err(NotReady::Failed(error)) => {
            // What is not found may only not be there any more: a container that was removed meanwhile.
            if error.never() && error.code() != Code::NotFound {
                let pod = &asking.begin.pod_uid;
                asking.node.unfit.never(pod, point.manifest().id, error.why());
            }
            Err(error)
        }
    }
}

/// What a point is for a container.
enum Ready {
    /// Its plan is with the peer.
    Staged(Box<Manifest>),
    /// The container was done.
    Finished,
}

/// Why there is no plan.
enum NotReady {
    /// The shim said something meanwhile.
    Heard(Event),
    /// It cannot be restored here.
    Failed(RestoreError),
}

/// Makes the plan of a container, unless the shim says something meanwhile.
async fn stage(
    asking: &Asking<'_>,
    wanted: &Wanted,
    checkpoint: CheckpointId,
    peer: &mut TargetPeer<'_>,
    pinned: &mut Option<Pin>,
) -> Result<Ready, NotReady> {
    peer.enter(Phase::Stage);
    let _turn = turn(&asking.node.restores, peer).await.map_err(NotReady::Heard)?;
    let stop = CancellationToken::new();
    let work = prepare(asking, wanted, checkpoint, pinned, &stop);
    let staged = unless_heard(work, &stop, peer).await.map_err(NotReady::Heard)?;
    let Some((mut staged, manifest)) = staged.map_err(NotReady::Failed)? else {
        return Ok(Ready::Finished);
    };
    staged.plan.checkpoint = checkpoint.to_string();
    staged.plan.whole = ask::is_whole(&asking.begin.annotations);
    if let [_, _, ..] = manifest.containers.as_slice() {
        staged.plan.pod = manifest.containers.iter().map(|c| c.name.clone()).collect();
    }
    peer.plan = Some((staged.plan, staged.fds));
    peer.enter(Phase::Restore);
    Ok(Ready::Staged(Box::new(manifest)))
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

/// Everything that the plan needs; `None` for a container that was done. Once `stop` is cancelled it ends soon; when it has ended,
/// nothing of it goes on.
async fn prepare(
    asking: &Asking<'_>,
    wanted: &Wanted,
    checkpoint: CheckpointId,
    pinned: &mut Option<Pin>,
    stop: &CancellationToken,
) -> Result<Option<(Staged, Manifest)>, RestoreError> {
    let opened = open(asking, wanted, checkpoint, pinned);
    let opened = stop.run_until_cancelled(opened).await.ok_or(RestoreError::Interrupted)??;
    let Some((reader, head, index)) = opened else { return Ok(None) };
    let Asking { node, begin, shim, .. } = *asking;
    let manifest = reader.manifest().clone();
    let packs = Arc::new(head.packs.clone());
    let frames = reader.frame_source(Arc::clone(&packs)).stopped_by(stop.clone());
    let frames: Arc<dyn FrameSource> = Arc::new(frames);
    if let Some(pin) = pinned.clone() {
        node.handed.put(asking.op, Handed { reader, packs, pin });
    }
    let words = SourceWords {
        store: wanted.store_name.clone(),
        tenant: wanted.tenant.tenant().clone(),
        checkpoint,
        op: asking.op,
        owner: asking.me.clone(),
    };
    let source = serde_json::to_vec(&words).map_err(RestoreError::Words)?;
    let work_dir = PathBuf::from(&begin.work_dir);
    let (spec, launcher, version) = (asking.spec.clone(), node.launcher.clone(), node.criu);
    let (run_dir, deadline) = (node.run_dir.clone(), node.hydration_deadline);
    let (rootfs, name) = (PathBuf::from(&begin.rootfs), begin.container.clone());
    let addresses = manifest.network.ips.clone();
    let outside = connections::outside(asking, &wanted.tenant, &manifest).await?;
    let before = begin.joins.as_ref().map(|join| join.members.clone()).unwrap_or_default();
    let score = score_of(shim);
    let halt = Halt::when({
        let stop = stop.clone();
        move || stop.is_cancelled()
    });
    let staged = tokio::task::spawn_blocking(move || {
        let container = head.containers.get(index).ok_or(RestoreError::OtherHead)?;
        fits::memory(container, &head, &spec, &name)?;
        let volumes = to_put_back(container, &head, &before)?;
        let images = make_dir(&work_dir.join("images"))?;
        let workspace = make_dir(&run_dir.join("relay"))?;
        let stage = Stage {
            container,
            volumes: &volumes,
            addresses: &addresses,
            outside,
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
    Ok(Some((staged, manifest)))
}

/// Volumes that this container puts back: the pod's own that it has, unless one that was restored before it in this attempt has it, too.
/// What that one was given is in use.
fn to_put_back(
    container: &ContainerHead,
    head: &Head,
    before: &[String],
) -> Result<Vec<(String, Vec<u8>)>, RestoreError> {
    let mut placed = BTreeSet::new();
    for one in head.containers.iter().filter(|one| before.contains(&one.name)) {
        placed.extend(volumes_of(one)?);
    }
    let mut all = volumes_of(container)?;
    all.retain(|name| !placed.contains(name));
    let index = |name: String| {
        let section = head.sections.get(&section_of_volume(&name));
        section.map(|section| (name, section.clone())).ok_or(RestoreError::OtherHead)
    };
    all.into_iter().map(index).collect()
}

/// Names of the directories of the pod that a container of a checkpoint had.
fn volumes_of(container: &ContainerHead) -> Result<Vec<String>, RestoreError> {
    let spec = container.sections.get(SECTION_SPEC).ok_or(RestoreError::OtherHead)?;
    let spec: Spec = serde_json::from_slice(spec).map_err(|_| RestoreError::OtherHead)?;
    Ok(binds::pods_own(&spec).into_iter().map(|own| own.name).collect())
}

/// What is read before anything is written, for a point that fits here, and which of its containers it is for. `None` for one that
/// was done.
async fn open(
    asking: &Asking<'_>,
    wanted: &Wanted,
    checkpoint: CheckpointId,
    pinned: &mut Option<Pin>,
) -> Result<Option<(CheckpointReader, Arc<Head>, usize)>, RestoreError> {
    let Asking { node, begin, .. } = *asking;
    let reader = wanted.reader_of((asking.op, &asking.me), checkpoint, pinned).await?;
    let manifest = reader.manifest();
    if let Point::Latest(latest) = &wanted.point {
        latest.check(manifest)?;
    }
    let Some(index) = which(asking, manifest)? else { return Ok(None) };
    let container = manifest.containers.get(index).ok_or(RestoreError::OtherHead)?;
    compat::check(&manifest.compat, &node.compat)?;
    compat::check_lazy(node.lazy_pages)?;
    let here = containerd::image_of(&node.containerd, &begin.namespace, &begin.container).await?;
    fits::image(container, &here, &begin.container)?;
    let fit = check_volumes(asking, &wanted.tenant, manifest, &container.name);
    let (fit, head) = tokio::join!(fit, node.ahead.head(&reader));
    fit?;
    let head = head?;
    let names_it = head.containers.get(index).is_some_and(|one| one.name == container.name);
    if names_it { Ok(Some((reader, head, index))) } else { Err(RestoreError::OtherHead) }
}

/// Which container of a checkpoint starts. Without a name of its own it is the only one, whatever it is called here.
fn which(asking: &Asking<'_>, manifest: &Manifest) -> Result<Option<usize>, RestoreError> {
    let name = asking.name();
    if manifest.init_done.iter().any(|done| done == name) {
        return Ok(None);
    }
    let all = &manifest.containers;
    let only = (all.len() == 1 && name_of(asking.spec).is_none()).then_some(0);
    let found = all.iter().position(|container| container.name == name);
    found.or(only).map(Some).ok_or_else(|| RestoreError::NotOfPoint {
        container: name.to_owned(),
        there: all.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", "),
    })
}

/// The out-of-memory score of the shim, which a new container's processes inherit.
fn score_of(shim: u32) -> i32 {
    let score = std::fs::read_to_string(format!("/proc/{shim}/oom_score_adj"));
    score.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

async fn check_volumes(
    asking: &Asking<'_>,
    tenant: &TenantStore,
    manifest: &Manifest,
    container: &str,
) -> Result<(), RestoreError> {
    if manifest.volumes.is_empty() {
        return Ok(());
    }
    let newest = tenant.lineage(&manifest.lineage).newest().await?;
    let asked = |name| ask::annotation(&asking.begin.annotations, name);
    let start = volumes::Start {
        checkpoint: manifest.id,
        source: &manifest.source,
        node: &asking.node.identity,
        container,
        spec: asking.spec,
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
