//! CRIU's part in the checkpoint of one container: started warm before the freeze, answered in it, read afterwards.
//! Blocking; run on threads that may.
//!
//! Owns the image directory on tmpfs, the mount and namespace plans, and the order of the steps of one session. What CRIU
//! sends as memory goes to the receiver of `memory`; nothing of it is written here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use godwit_capture::{AbortHandle, CaptureError, Laziness, Received};
use godwit_criu::Error;
use godwit_criu::dump::{DumpRequest, DumpSession, Verdict};
use godwit_criu::images::{ImageDir, descriptors, ghosts, inet, stats, tasks};
use godwit_criu::launch::{Canceller, Launcher};
use godwit_criu::mounts::MountPlan;
use godwit_criu::mounts::capture::{Capture as Mounted, Limits};
use godwit_criu::namespaces::{NamespacePlan, path_of};
use godwit_criu::vet;
use godwit_files::Frozen;
use godwit_image::{Sections, Space};
use godwit_wire::shim_op::Container;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::files::{self, Files};
use super::memory::Receiving;
use super::{CheckpointError, Step, poked};

/// How long CRIU may take to get ready while the pod runs.
const PREPARE: Duration = Duration::from_secs(20);
/// How long CRIU may take to exit after its verdict.
const EXIT: Duration = Duration::from_secs(10);
/// Largest image that goes into the head, but for deleted files that are open, which may be as large as they are allowed to be.
const MAX_IMAGE: u64 = 64 << 20;

/// A directory on tmpfs that is removed with the operation.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes it, root only.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn make(path: PathBuf) -> std::io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), error = %error, "a scratch directory stays behind");
        }
    }
}

/// A session that is warm: the tasks run, CRIU waits for the freeze.
#[derive(Debug)]
pub(super) struct Dump {
    id: String,
    pid: u32,
    spec: Spec,
    ghost_limit: u32,
    stdio: [String; 3],
    freezer: PathBuf,
    session: DumpSession,
    images: Scratch,
    mounts: MountPlan,
    mounted: Mounted,
    namespaces: NamespacePlan,
    addresses: Vec<IpAddr>,
    receiving: Option<godwit_capture::PageServer>,
}

/// Ends a session from outside while [`Dump::dump`] is busy with it: CRIU undoes what it did and exits, and the call fails.
#[derive(Debug)]
pub(super) struct Ender {
    pages: Option<AbortHandle>,
    criu: Canceller,
}

impl Ender {
    /// The stream of pages first, which CRIU notices at once.
    pub(super) fn end(&self) {
        if let Some(pages) = &self.pages {
            pages.abort();
        }
        self.criu.cancel();
    }
}

/// What a finished session left behind.
#[derive(Debug)]
pub(super) struct Dumped {
    /// CRIU's images and our plans by file name, without page maps and pages.
    pub(super) images: Sections,
    /// The pages that arrived.
    pub(super) received: Received,
    /// Which of them must be eager.
    pub(super) laziness: BTreeMap<Space, Laziness>,
    /// Files without a name that CRIU copied: device and inode.
    pub(super) ghosts: BTreeSet<(u32, u64)>,
    /// Number of processes.
    pub(super) processes: u64,
    /// What CRIU reports as frozen: milliseconds.
    pub(super) criu_frozen_ms: f64,
    /// The pod's own addresses: sockets may be bound to them.
    pub(super) addresses: Vec<IpAddr>,
}

impl Dump {
    /// Starts CRIU and brings it to where only the freeze is missing.
    ///
    /// # Errors
    /// [`CheckpointError`]; the pod runs on untouched.
    pub(super) fn warm_up(
        launcher: &Launcher,
        container: &Container,
        spec: &Spec,
        freezer: &Path,
        images: Scratch,
        receiving: Receiving,
    ) -> Result<Self, CheckpointError> {
        let pid = container.pid;
        let mut mounts = MountPlan::of(pid, spec)?;
        let namespaces = NamespacePlan::of(pid, spec)?;
        let addresses = inet::addresses(Path::new(&format!("/proc/{pid}/ns/net")))?;
        let mut mounted = Mounted::begin(images.path(), Limits::default())?;
        mounted.static_parts(pid, &mut mounts)?;
        let mut request = DumpRequest::new(pid, images.path(), container.rootfs.as_str());
        request.log_level = launcher.log_level;
        request.ghost_limit = launcher.ghost_limit;
        request.freeze_cgroup = Some(freezer.to_owned());
        request.external = mounts.externals();
        request.external.extend(namespaces.externals(pid, spec)?);
        request.page_server = Some(receiving.criu_end);
        let session = DumpSession::start(launcher, namespaces.open(pid)?, request)?;
        let receiving = Some(receiving.server);
        let freezer = freezer.to_owned();
        let mut stdio = container.stdio.iter().cloned();
        let stdio = [(); 3].map(|()| stdio.next().unwrap_or_default());
        Ok(Self {
            id: container.id.clone(),
            pid,
            spec: spec.clone(),
            ghost_limit: launcher.ghost_limit,
            stdio,
            freezer,
            session,
            images,
            mounts,
            mounted,
            namespaces,
            addresses,
            receiving,
        })
    }

    /// Waits until CRIU is warm.
    ///
    /// # Errors
    /// [`CheckpointError`]; the session is ended.
    pub(super) fn wait_warm(&mut self) -> Result<(), CheckpointError> {
        let prepared = self.session.prepare(Instant::now() + PREPARE);
        self.or_abort(prepared.map_err(CheckpointError::from))
    }

    /// Whether its images hold an IPC namespace that is not the container's alone.
    pub(super) fn holds_shared_ipc(&self) -> bool {
        self.namespaces.dumps_ipc() && path_of(&self.spec, LinuxNamespaceType::Ipc).is_some()
    }

    /// By which its container is frozen, and its processes are known.
    pub(super) fn freezer(&self) -> &Path {
        &self.freezer
    }

    /// CRIU's pidfd, for the shim.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.session.pidfd()
    }

    /// What ends the session from outside.
    pub(super) fn ender(&self) -> Ender {
        let pages = self.receiving.as_ref().map(godwit_capture::PageServer::abort_handle);
        Ender { pages, criu: self.session.canceller() }
    }

    /// Frozen: lets CRIU dump, and waits until every page has arrived, the images are complete and changed files are read.
    /// The tasks are held.
    ///
    /// # Errors
    /// [`CheckpointError`]; the session is ended.
    pub(super) fn dump(
        &mut self,
        deadline: Instant,
        files: Option<Files>,
    ) -> Result<(Received, Option<Frozen>), CheckpointError> {
        let result = self.dump_held(deadline, files);
        self.or_abort(result)
    }

    fn dump_held(
        &mut self,
        deadline: Instant,
        files: Option<Files>,
    ) -> Result<(Received, Option<Frozen>), CheckpointError> {
        if let Err(error) = self.session.proceed(deadline) {
            return Err(self.receivers_reason().map_or(error.into(), CheckpointError::from));
        }
        let server = self.receiving.take().ok_or(CheckpointError::Order(Step::Dump))?;
        let mut received = server.finish()?;
        poked::read_again(&mut received, &self.freezer)?;
        self.namespaces.recheck(self.pid)?;
        self.mounted.frozen_parts(self.pid, &mut self.mounts)?;
        let files =
            files.map(|files| files.freeze(&files::mapped([self.freezer()])?)).transpose()?;
        Ok((received, files))
    }

    /// Why the receiver of pages ended by itself: CRIU knows only that it did.
    fn receivers_reason(&mut self) -> Option<CaptureError> {
        let server = self.receiving.take()?;
        server.abort_handle().abort();
        server.finish().err().filter(|error| {
            use CaptureError::{Cancelled, Socket, StreamEnded};
            !matches!(error, Cancelled | Socket { .. } | StreamEnded { .. })
        })
    }

    /// Frozen: gives the verdict and waits for CRIU's exit. The pod is frozen by its cgroup again.
    ///
    /// # Errors
    /// [`CheckpointError`]; the session is over.
    pub(super) fn keep(&mut self) -> Result<(), CheckpointError> {
        let kept = self.session.finish(Verdict::Keep, Instant::now() + EXIT);
        self.or_abort(kept.map_err(CheckpointError::from))
    }

    /// Ends the session wherever it is: first the stream of pages, which CRIU notices at once.
    pub(super) fn abort(&mut self) {
        self.receiving = None;
        if let Err(error) = self.session.abort(Instant::now() + EXIT) {
            tracing::warn!(error = %error, "CRIU did not end cleanly");
        }
    }

    /// Reads what CRIU and we wrote, and looks at it as a restore will. Only a pod that is given away is still frozen.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub(super) fn collect(self, received: Received) -> Result<Dumped, CheckpointError> {
        let dir = self.images.path();
        self.mounts.write(dir)?;
        self.namespaces.write(dir)?;
        descriptors::write(dir, &self.stdio)?;
        let images = ImageDir::new(dir);
        lasting(&self.id, vet::check(&images, &self.spec)?)?;
        let all = tasks::read(&images)?;
        let processes = all.len() as u64;
        let laziness = all.into_iter().map(|task| {
            (Space::Task(task.vpid), Laziness { lazy: Some(task.lazy), hot: task.hot })
        });
        let laziness = laziness.collect();
        let criu_frozen_ms = stats::of_dump(dir)?.frozen.as_secs_f64() * 1e3;
        let ghosts = ghosts::files(&images)?;
        let images = read_images(dir, self.ghost_limit)?;
        let addresses = self.addresses;
        Ok(Dumped { images, received, laziness, ghosts, processes, criu_frozen_ms, addresses })
    }

    fn or_abort<T>(&mut self, result: Result<T, CheckpointError>) -> Result<T, CheckpointError> {
        if result.is_err() {
            self.abort();
        }
        result
    }
}

/// A point that its own spec would refuse is none.
pub(super) fn lasting(container: &str, refusals: Vec<vet::Refusal>) -> Result<(), CheckpointError> {
    let refused = |reason| CheckpointError::Lost { container: container.to_owned(), reason };
    refusals.into_iter().next().map_or(Ok(()), |first| Err(refused(first)))
}

/// The files of an image directory that belong into a checkpoint.
fn read_images(dir: &Path, ghost_limit: u32) -> Result<Sections, CheckpointError> {
    let io = |source| CheckpointError::Images { path: dir.to_owned(), source };
    let mut sections = Sections::new();
    for item in std::fs::read_dir(dir).map_err(io)? {
        let item = item.map_err(io)?;
        let name = item.file_name().to_string_lossy().into_owned();
        let meta = item.metadata().map_err(io)?;
        if !meta.is_file() || !belongs(&name) {
            continue;
        }
        let most = MAX_IMAGE.max(u64::from(ghost_limit) + (1 << 20));
        if meta.len() > most && name != godwit_criu_rpc::relay_plan::CONTENTS_FILE {
            return Err(Error::Refused(format!("CRIU's image {name} is absurdly large")).into());
        }
        sections.insert(name, std::fs::read(item.path()).map_err(io)?);
    }
    Ok(sections)
}

/// Page maps follow from the head, memory lies in packs, logs and statistics are no part of a container.
fn belongs(name: &str) -> bool {
    let left_out = ["pagemap-", "pages-", "stats-", "dump.log", "irmap-cache"];
    !left_out.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_logs_are_left_out_of_a_head() {
        for name in ["core-1.img", "files.img", "descriptors.json", "godwit-tmpfs.bin"] {
            assert!(belongs(name), "{name}");
        }
        for name in
            ["pagemap-1.img", "pagemap-shmem-3.img", "pages-1.img", "dump.log", "stats-dump"]
        {
            assert!(!belongs(name), "{name}");
        }
    }
}
