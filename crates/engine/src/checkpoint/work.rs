//! What lies between "we own it" and "only the entry is missing": bytes.
//!
//! Any error here leaves the pod to the caller, who has the shim thaw it; CRIU has ended by then, because [`Dump`] ends its
//! session when it fails or is dropped.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use godwit_capture::{Assembled, Baselines, MemoryStats};
use godwit_image::PackRegistry;
use godwit_ownership::SourceSpec;
use godwit_ownership::{ToAgent, ToShim};
use godwit_store::TenantStore;
use godwit_store::{CommitStage, PackStage};
use godwit_types::{CheckpointId, Outcome, Phase};
use godwit_wire::api::CheckpointRequest;
use godwit_wire::failpoint;
use godwit_wire::shim_op::{Cgroup, Container};
use oci_spec::runtime::Spec;

use super::compact::{Beside, compact};
use super::dump::{Dump, Dumped, Scratch};
use super::files::Files;
use super::memory::{Capture, Receiving};
use super::outside::{Freeze, Outside};
use super::parent::{Earlier, candidates, new_checkpoint};
use super::peer::SourcePeer;
use super::precopy::{Ahead, Read, Ready};
use super::{CheckpointError, Step, record};
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
    pub(super) tenant: &'a TenantStore,
    pub(super) outside: Outside<'a>,
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

/// The container that is checkpointed.
pub(super) struct Source {
    pub(super) container: Container,
    pub(super) spec: Spec,
    pub(super) spec_bytes: Vec<u8>,
}

/// Everything is ready for the freeze.
struct Warm {
    source: Source,
    image: RootImage,
    stage: PackStage,
    earlier: Option<Arc<Earlier>>,
    packs: Arc<PackRegistry>,
    ready: Ready,
    dump: Dump,
}

/// What came out of the freeze.
struct Frozen {
    dumped: Dumped,
    files: Option<godwit_files::Frozen>,
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
        source: Source,
        peer: &mut SourcePeer,
        journal: &mut Journal,
    ) -> Result<Made, CheckpointError> {
        let warm = self.outside.given_up(None, self.prepare(source, peer, journal)).await?;
        let Warm { source, image, stage, earlier, packs, mut ready, dump } = warm;

        journal.enter(Phase::Freeze);
        let files = ready.read.files.take();
        let frozen = self.freeze(dump, files, &stage, peer).await?;
        ready.give_back(&frozen.dumped.received);
        // `images` is held until the head, and all else, is stored.
        let Ready { capture, read, reserved, images: _images, spare } = ready;
        let Read { baselines, stored: pre_read, .. } = read;

        journal.enter(Phase::Upload);
        let Frozen { dumped, files, since, frozen_ms } = frozen;
        let criu_frozen_ms = dumped.criu_frozen_ms;
        let upload = async {
            let name = source.container.id.clone();
            let is_thawed = self.spec.outcome == Outcome::Run;
            let (assembled, dumped, files) = blocking(move || {
                let files = files.map(godwit_files::Frozen::finish).transpose()?;
                let earlier = earlier.as_deref();
                let (mut assembled, mut dumped) =
                    assemble(&capture, dumped, baselines.as_deref(), earlier, &name)?;
                // All of it is in packs: others may have the memory.
                drop(std::mem::take(&mut dumped.received));
                drop((reserved, spare));
                if let Some(earlier) = earlier.filter(|_| is_thawed) {
                    let beside = Beside { pre_read: &pre_read, files: files.as_ref() };
                    compact(&capture, &mut assembled, &beside, earlier)?;
                }
                Ok::<_, CheckpointError>((assembled, dumped, files))
            })
            .await?;
            let memory = Captured { image, assembled, pre_read, files };
            record::write(self, stage, &packs, source, dumped, memory, journal).await
        };
        // One that is given away is still frozen.
        let freeze = self.spec.outcome.gives_away().then(|| self.frozen(since, peer));
        let (commit, manifest) = self.outside.given_up(freeze, upload).await?;
        Ok(Made { commit, manifest, frozen_ms, criu_frozen_ms })
    }

    /// All that is done while the pod runs untouched.
    async fn prepare(
        &self,
        source: Source,
        peer: &SourcePeer,
        journal: &mut Journal,
    ) -> Result<Warm, CheckpointError> {
        let image = self.image().await?;

        journal.enter(Phase::Prepare);
        let mut stage = self.begin().await?;
        let earlier = stage.take_parent().map(|parent| Arc::new(Earlier::new(parent)));
        let table = earlier.as_ref().map(|e| e.packs().clone()).unwrap_or_default();
        let packs = PackRegistry::new(self.spec.checkpoint, table);

        journal.enter(Phase::PreCopy);
        let ahead =
            Ahead { source: &source, earlier: earlier.as_ref(), packs: &packs, stage: &stage };
        let (ready, receiving) = self.pre_copy(&ahead, journal).await?;
        let dump = self.warm_up(&source, receiving, peer).await?;
        Ok(Warm { source, image, stage, earlier, packs, ready, dump })
    }

    async fn image(&self) -> Result<RootImage, CheckpointError> {
        let (namespace, container) = (&self.request.namespace, &self.request.container);
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

    /// Starts CRIU and tells the shim of it before anything is frozen.
    async fn warm_up(
        &self,
        source: &Source,
        receiving: Receiving,
        peer: &SourcePeer,
    ) -> Result<Dump, CheckpointError> {
        let path = self.node.run_dir.join("images").join(self.spec.op.to_string());
        let images = Scratch::make(path.clone())
            .map_err(|source| CheckpointError::Images { path, source })?;
        let (launcher, container) = (self.node.launcher.clone(), source.container.clone());
        let (spec, freezer) = (source.spec.clone(), freezer(&source.container)?);
        let dump = blocking(move || {
            Dump::warm_up(&launcher, &container, &spec, &freezer, images, receiving)
        })
        .await?;
        peer.shim().criu_started(&source.container.id, dump.pidfd()).await?;
        blocking(move || {
            let mut dump = dump;
            dump.wait_warm().map(|()| dump)
        })
        .await
    }

    /// From the freeze to CRIU's end; a pod that goes on is thawed here.
    async fn freeze(
        &self,
        dump: Dump,
        files: Option<Files>,
        stage: &PackStage,
        peer: &mut SourcePeer,
    ) -> Result<Frozen, CheckpointError> {
        let (since, patience) = (Instant::now(), self.node.freeze_deadline);
        peer.shim().freeze(patience).await?;
        failpoint::site("frozen");
        let ender = dump.ender();
        let held = blocking(move || {
            let mut dump = dump;
            let (received, files) = dump.dump(since + patience + LEEWAY, files)?;
            failpoint::site("dumped");
            dump.keep()?;
            failpoint::site("kept");
            Ok::<_, CheckpointError>((dump, received, files))
        });
        let end = || {
            ender.end();
            stage.give_up();
        };
        let ended = self.outside.ended(self.frozen(since, peer), end, held);
        let (dump, received, files) = ended.await?;
        let mut frozen_ms = millis(since);
        if self.spec.outcome == Outcome::Run {
            frozen_ms = thaw(peer).await?.unwrap_or(frozen_ms);
        }
        let dumped = blocking(move || dump.collect(received)).await?;
        Ok(Frozen { dumped, files, since, frozen_ms })
    }

    fn frozen<'p>(&self, since: Instant, peer: &'p SourcePeer) -> Freeze<'p> {
        Freeze { shim: peer.shim(), patience: self.node.freeze_deadline, since }
    }
}

/// Image, memory and files of the container, counted.
pub(super) struct Captured {
    pub(super) image: RootImage,
    pub(super) assembled: Assembled,
    pub(super) pre_read: MemoryStats,
    pub(super) files: Option<godwit_files::Captured>,
}

fn assemble(
    capture: &Capture,
    dumped: Dumped,
    baselines: Option<&Baselines>,
    earlier: Option<&Earlier>,
    name: &str,
) -> Result<(Assembled, Dumped), CheckpointError> {
    let parent = earlier.and_then(|e| e.of(name));
    let assembled = capture.assemble(&dumped.received, baselines, parent, &dumped.laziness)?;
    Ok((assembled, dumped))
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

/// The one container of the pod.
pub(super) fn only_source(peer: &mut SourcePeer) -> Result<Source, CheckpointError> {
    let subjects = peer.subjects.take().ok_or(CheckpointError::Order(Step::Log))?;
    let mut containers = subjects.containers.into_iter();
    let (Some(subject), None) = (containers.next(), containers.next()) else {
        let several = "a pod of several containers cannot be checkpointed yet";
        return Err(CheckpointError::Refused(several.to_owned()));
    };
    let spec = serde_json::from_slice(&subject.spec).map_err(CheckpointError::Spec)?;
    Ok(Source { container: subject.container, spec, spec_bytes: subject.spec })
}

/// The directory by which the container is frozen: its cgroup (v2), or its freezer's (v1).
pub(super) fn freezer(container: &Container) -> Result<PathBuf, CheckpointError> {
    let freezes =
        |c: &&Cgroup| c.controllers.is_empty() || c.controllers.split(',').any(|c| c == "freezer");
    let found = container.cgroups.iter().find(freezes);
    found.map(|c| PathBuf::from(&c.path)).ok_or_else(|| {
        CheckpointError::Refused(format!("container {} has no freezer cgroup", container.id))
    })
}
