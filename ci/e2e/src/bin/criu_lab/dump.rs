//! A dump as the engine does it, step by step, with times.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use godwit_criu::dump::{DumpRequest, DumpSession, Verdict};
use godwit_criu::images::descriptors;
use godwit_criu::launch::Launcher;
use godwit_criu::mounts::MountPlan;
use godwit_criu::mounts::capture::{Capture, Limits};
use godwit_criu::namespaces::NamespacePlan;
use godwit_criu::preflight::{self, Subject};

use crate::bundle::{Bundle, Running};
use crate::freezer::Freezer;
use crate::streams::SOON;

pub(crate) fn soon() -> Instant {
    Instant::now() + SOON
}

/// A dump that stands at post-dump.
pub(crate) struct Held {
    pub(crate) session: DumpSession,
    pub(crate) freezer: Freezer,
    pub(crate) images: PathBuf,
    frozen_at: Instant,
}

/// Takes a container as far as post-dump. With `page_server`, memory goes there instead of into the directory.
pub(crate) fn to_post_dump(
    bundle: &Bundle,
    running: &Running,
    images: &Path,
    page_server: Option<OwnedFd>,
) -> Result<Held> {
    let held = try_to_post_dump(bundle, running, images, page_server);
    held.with_context(|| {
        let lines = running.streams.all();
        let last = lines.get(lines.len().saturating_sub(3)..).unwrap_or_default();
        format!("the workload said {last:?} last")
    })
}

fn try_to_post_dump(
    bundle: &Bundle,
    running: &Running,
    images: &Path,
    page_server: Option<OwnedFd>,
) -> Result<Held> {
    let _ = std::fs::remove_dir_all(images);
    std::fs::create_dir_all(images)?;
    let (pid, spec) = (running.pid, bundle.spec()?);
    let freezer = Freezer::of(&bundle.cgroup);
    let refusals = preflight::check(Subject { init: pid, pids: &freezer.pids()?, spec: &spec });
    ensure!(refusals.is_empty(), "preflight: {refusals:?}");
    let mut mounts = MountPlan::of(pid, &spec)?;
    let namespaces = NamespacePlan::of(pid, &spec)?;
    descriptors::write(images, &descriptors::of_process(pid)?)?;
    let mut capture = Capture::begin(images, Limits::default())?;
    capture.static_parts(pid, &mut mounts)?;
    let mut request = DumpRequest::new(pid, images, bundle.rootfs());
    request.freeze_cgroup = Some(freezer.path().to_owned());
    request.external = [mounts.externals(), namespaces.externals(pid, &spec)?].concat();
    request.page_server = page_server;
    let mut session = DumpSession::start(&Launcher::default(), namespaces.open(pid)?, request)?;
    session.prepare(soon()).context("prepare")?;
    let frozen_at = Instant::now();
    freezer.freeze()?;
    namespaces.recheck(pid)?;
    session.proceed(soon()).context("proceed")?;
    capture.frozen_parts(pid, &mut mounts)?;
    mounts.write(images)?;
    namespaces.write(images)?;
    Ok(Held { session, freezer, images: images.to_owned(), frozen_at })
}

impl Held {
    /// Keeps the images; the cgroup stays frozen.
    pub(crate) fn keep(mut self) -> Result<Freezer> {
        self.session.finish(Verdict::Keep, soon()).context("finish")?;
        ensure!(self.freezer.is_frozen()?, "CRIU did not leave the cgroup frozen");
        let frozen = self.frozen_at.elapsed();
        let stats = godwit_criu::images::stats::of_dump(&self.images)?;
        println!("dump: frozen {frozen:?}; CRIU says {stats:?}");
        Ok(self.freezer)
    }
}

/// A whole dump; the container goes on.
pub(crate) fn leave_running(bundle: &Bundle, running: &Running, images: &Path) -> Result<()> {
    to_post_dump(bundle, running, images, None)?.keep()?.thaw()
}

/// A whole dump; the container is killed, and it was frozen from the dump to its death.
pub(crate) fn stop(bundle: &Bundle, running: &Running, images: &Path) -> Result<u64> {
    let held = to_post_dump(bundle, running, images, None)?;
    let freezer = held.keep()?;
    let last = running.streams.tick()?;
    freezer.kill()?;
    bundle.delete()?;
    Ok(last)
}
