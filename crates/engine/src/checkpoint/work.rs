//! What lies between "we own it" and "only the entry is missing": bytes.
//!
//! Any error here leaves the pod to the caller, who has the shim thaw it; CRIU has ended by then, because [`Dump`] ends its
//! session when it fails or is dropped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use godwit_capture::{Assembled, MemoryStats};
use godwit_image::PackRegistry;
use godwit_ownership::SourceSpec;
use godwit_ownership::{ToAgent, ToShim};
use godwit_store::TenantStore;
use godwit_store::{CommitStage, PackStage};
use godwit_types::{CheckpointId, Outcome, Phase};
use godwit_wire::api::CheckpointRequest;
use godwit_wire::failpoint;

use super::compact::compact;
use super::cut::{Cut, Taken};
use super::dump::{Dump, Dumped, Scratch};
use super::files::Files;
use super::memory::{Capture, Receiving};
use super::outside::{Freeze, Outside};
use super::parent::{Earlier, candidates, new_checkpoint};
use super::peer::SourcePeer;
use super::precopy::{Ahead, Held, Read, Ready};
use super::shared::{Shared, SharedCaptured, SharedFrozen};
use super::source::Source;
use super::{Begun, CheckpointError, Step, nameless, record};
use crate::blocking::blocking;
use crate::containerd::{self, RootImage};
use crate::driver::Peer as _;
use crate::journal::{Journal, millis};
use crate::node::Node;

/// How much longer than the freeze may last CRIU is waited for: until then it has been ended, and says so.
const LEEWAY: Duration = Duration::from_secs(10);

/// The work of one checkpoint.
pub(super) struct Work<'a> {
    pub(super) node: &'a Node,
    pub(super) request: &'a CheckpointRequest,
    pub(super) spec: &'a SourceSpec,
    /// What the pod was made from.
    pub(super) template: Option<String>,
    pub(super) tenant: &'a TenantStore,
    pub(super) outside: Outside<'a>,
    /// Names of the pod's containers that are done and do not run.
    pub(super) done: Vec<String>,
    /// How long the pod may be frozen.
    pub(super) patience: Duration,
    /// Told of the thaw.
    pub(super) begun: &'a Begun<'a>,
}

/// All of it is durable but the entry.
#[derive(Debug)]
pub(super) struct Made {
    /// For the end of the intent.
    pub(super) commit: CommitStage,
    /// What was written.
    pub(super) manifest: godwit_image::Manifest,
    /// The freeze as far as only memory and CRIU were waited for: milliseconds.
    pub(super) frozen_ms: f64,
    /// What CRIU reports: milliseconds.
    pub(super) criu_frozen_ms: f64,
}

/// Everything is ready for the freeze.
struct Warm {
    members: Vec<Member>,
    shared: Vec<Shared>,
    dumps: Vec<Dump>,
    stage: PackStage,
    earlier: Option<Arc<Earlier>>,
    packs: Arc<PackRegistry>,
    held: Held,
}

/// A container on its way.
pub(super) struct Member {
    pub(super) source: Source,
    pub(super) image: RootImage,
    pub(super) capture: Arc<Capture>,
    pub(super) read: Read,
}

/// What came out of the freeze.
struct Frozen {
    /// One for each container.
    dumped: Vec<Dumped>,
    files: Vec<Option<godwit_files::Frozen>>,
    /// Directories that they share.
    shared: Vec<SharedFrozen>,
    since: Instant,
    frozen_ms: f64,
}

impl Work<'_> {
    /// Does it.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub(super) async fn make(
        &self,
        sources: Vec<Source>,
        peer: &mut SourcePeer,
        journal: &mut Journal,
    ) -> Result<Made, CheckpointError> {
        let warm = self.outside.given_up(None, self.prepare(sources, peer, journal)).await?;
        let Warm { mut members, shared, dumps, stage, earlier, packs, mut held } = warm;

        journal.enter(Phase::Freeze);
        let files = members.iter_mut().map(|member| member.read.files.take()).collect();
        let frozen = self.freeze(dumps, (files, shared), &stage, peer).await?;
        nameless::of_cut(members.iter().map(|member| &*member.source.name), &frozen.dumped)?;
        held.give_back(members.iter().map(|m| &*m.capture).zip(&frozen.dumped));
        // `images` is held until the head, and all else, is stored.
        let Held { reserved, images: _images, spare } = held;

        journal.enter(Phase::Upload);
        let Frozen { dumped, files, shared, since, frozen_ms } = frozen;
        let criu_frozen_ms = dumped.iter().map(|d| d.criu_frozen_ms).fold(0.0, f64::max);
        let upload = async {
            let is_thawed = self.spec.outcome == Outcome::Run;
            let captured = blocking(move || {
                let earlier = earlier.as_deref();
                let mut captured = Vec::with_capacity(members.len());
                for ((member, dumped), files) in members.into_iter().zip(dumped).zip(files) {
                    captured.push(assemble(member, dumped, files, earlier)?);
                }
                let shared: Vec<SharedCaptured> =
                    shared.into_iter().map(SharedFrozen::finish).collect::<Result<_, _>>()?;
                // All of it is in packs: others may have the memory.
                drop((reserved, spare));
                if let Some(earlier) = earlier.filter(|_| is_thawed) {
                    compact(&mut captured, &shared, earlier)?;
                }
                Ok::<_, CheckpointError>((captured, shared))
            })
            .await?;
            record::write(self, stage, &packs, captured, journal).await
        };
        // One that is given away is still frozen.
        let freeze = self.spec.outcome.gives_away().then(|| self.frozen(since, peer));
        let (commit, manifest) = self.outside.given_up(freeze, upload).await?;
        Ok(Made { commit, manifest, frozen_ms, criu_frozen_ms })
    }

    /// All that is done while the pod runs untouched.
    async fn prepare(
        &self,
        sources: Vec<Source>,
        peer: &SourcePeer,
        journal: &mut Journal,
    ) -> Result<Warm, CheckpointError> {
        let mut images = Vec::with_capacity(sources.len());
        for source in &sources {
            images.push(self.image(source).await?);
        }

        journal.enter(Phase::Prepare);
        let mut stage = self.begin().await?;
        let earlier = stage.take_parent().map(|parent| Arc::new(Earlier::new(parent)));
        let table = earlier.as_ref().map(|e| e.packs().clone()).unwrap_or_default();
        let packs = PackRegistry::new(self.spec.checkpoint, table);

        journal.enter(Phase::PreCopy);
        let ahead =
            Ahead { sources: &sources, earlier: earlier.as_ref(), packs: &packs, stage: &stage };
        let (ready, shared, held) = self.pre_copy(&ahead, journal).await?;
        let (mut members, mut receiving) = (Vec::new(), Vec::new());
        for ((source, image), ready) in sources.into_iter().zip(images).zip(ready) {
            let Ready { capture, read, receiving: pages } = ready;
            members.push(Member { source, image, capture, read });
            receiving.push(pages);
        }
        let dumps = self.warm_up(&members, receiving, peer).await?;
        Ok(Warm { members, shared, dumps, stage, earlier, packs, held })
    }

    async fn image(&self, source: &Source) -> Result<RootImage, CheckpointError> {
        let (namespace, container) = (&self.request.namespace, &source.container.id);
        Ok(containerd::image_of(&self.node.containerd, namespace, container).await?)
    }

    async fn begin(&self) -> Result<PackStage, CheckpointError> {
        let at = &self.spec.at;
        let parents: Vec<CheckpointId> = match self.request.full {
            true => Vec::new(),
            false => candidates(self.tenant, &at.lineage).await?,
        };
        let (id, op, owner) = (self.spec.checkpoint, self.spec.op, self.spec.pen.me.clone());
        Ok(self.tenant.begin(new_checkpoint(id, op, owner, at.lineage.clone(), parents)).await?)
    }

    /// Starts a CRIU for each container and tells the shim of it before anything is frozen.
    async fn warm_up(
        &self,
        members: &[Member],
        receiving: Vec<Receiving>,
        peer: &SourcePeer,
    ) -> Result<Vec<Dump>, CheckpointError> {
        let all = self.node.run_dir.join("images");
        let mut dumps = Vec::with_capacity(members.len());
        for (number, (member, receiving)) in members.iter().zip(receiving).enumerate() {
            let path = all.join(format!("{}-{number}", self.spec.op));
            let images = Scratch::make(path.clone())
                .map_err(|source| CheckpointError::Images { path, source })?;
            let (launcher, source) = (self.node.launcher.clone(), &member.source);
            let (container, spec) = (source.container.clone(), source.spec.clone());
            let freezer = source.freezer()?;
            let dump = blocking(move || {
                Dump::warm_up(&launcher, &container, &spec, &freezer, images, receiving)
            })
            .await?;
            peer.shim().criu_started(&source.container.id, dump.pidfd()).await?;
            dumps.push(dump);
        }
        blocking(move || {
            only_one_has_ipc(&dumps)?;
            let mut dumps = dumps;
            dumps.iter_mut().try_for_each(Dump::wait_warm)?;
            Ok(dumps)
        })
        .await
    }

    /// From the freeze to the end of every CRIU; a pod that goes on is thawed here.
    async fn freeze(
        &self,
        dumps: Vec<Dump>,
        (files, shared): (Vec<Option<Files>>, Vec<Shared>),
        stage: &PackStage,
        peer: &mut SourcePeer,
    ) -> Result<Frozen, CheckpointError> {
        let (since, patience) = (Instant::now(), self.patience);
        peer.shim().freeze(patience).await?;
        failpoint::site("frozen");
        let mut cut = Cut::new(dumps);
        let ender = cut.ender();
        let held = blocking(move || {
            let taken = cut.take(since + patience + LEEWAY, files, shared)?;
            failpoint::site("dumped");
            cut.keep()?;
            failpoint::site("kept");
            Ok::<_, CheckpointError>((cut, taken))
        });
        let end = || {
            ender.end();
            stage.give_up();
        };
        let ended = self.outside.ended(self.frozen(since, peer), end, held);
        let (cut, Taken { received, files, shared }) = ended.await?;
        let mut frozen_ms = millis(since);
        if self.spec.outcome == Outcome::Run {
            frozen_ms = thaw(peer).await?.unwrap_or(frozen_ms);
            self.begun.thawed();
        }
        let dumped = blocking(move || cut.collect(received)).await?;
        Ok(Frozen { dumped, files, shared, since, frozen_ms })
    }

    fn frozen<'p>(&self, since: Instant, peer: &'p SourcePeer) -> Freeze<'p> {
        Freeze { shim: peer.shim(), patience: self.patience, since }
    }
}

/// A container with its memory and files, counted.
pub(super) struct Captured {
    pub(super) source: Source,
    pub(super) image: RootImage,
    pub(super) capture: Arc<Capture>,
    pub(super) dumped: Dumped,
    pub(super) assembled: Assembled,
    /// What was stored of its memory before the freeze.
    pub(super) pre_read: MemoryStats,
    pub(super) files: Option<godwit_files::Captured>,
}

fn assemble(
    member: Member,
    mut dumped: Dumped,
    files: Option<godwit_files::Frozen>,
    earlier: Option<&Earlier>,
) -> Result<Captured, CheckpointError> {
    let Member { source, image, capture, read } = member;
    let Read { baselines, stored: pre_read, .. } = read;
    let files = files.map(godwit_files::Frozen::finish).transpose()?;
    let parent = earlier.and_then(|e| e.of(&source.name));
    // What arrived is given back when it is in packs.
    let received = std::mem::take(&mut dumped.received);
    let assembled = capture.assemble(&received, baselines.as_deref(), parent, &dumped.laziness)?;
    Ok(Captured { source, image, capture, dumped, assembled, pre_read, files })
}

/// One image set alone may hold an IPC namespace that containers share: two would make it twice.
fn only_one_has_ipc(dumps: &[Dump]) -> Result<(), CheckpointError> {
    if dumps.iter().filter(|dump| dump.holds_shared_ipc()).count() < 2 {
        return Ok(());
    }
    Err(CheckpointError::Refused(
        "SysvIpcShared: containers of this pod share System V IPC objects or message queues, which cannot move: use files in /dev/shm"
            .to_owned(),
    ))
}

/// Thaws; gives the freeze as the shim measured it: milliseconds.
async fn thaw(peer: &mut SourcePeer) -> Result<Option<f64>, CheckpointError> {
    failpoint::site("thaw.before");
    let answer = peer.tell(ToShim::Thaw).await;
    failpoint::site("thaw.answered");
    match answer {
        Some(ToAgent::Thawed) => Ok(peer.frozen_us.map(|us| us as f64 / 1e3)),
        _ => Err(peer.trouble.take().map_or(CheckpointError::Order(Step::Log), Into::into)),
    }
}
