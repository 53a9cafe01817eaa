//! A restore as the shim does it: `runc restore` through the relay, packets forwarded, held at post-restore.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use godwit_criu::images::{ImageDir, limits};
use godwit_criu::mounts::{self, MountPlan};
use godwit_criu::namespaces::NamespacePlan;
use godwit_criu::vet;
use godwit_criu_rpc::relay_plan::{
    CONTENTS_FILE, RelayPlan, RestoreOptions, SOURCES_FILE, encode_sources,
};
use godwit_criu_rpc::{Incoming, Notification, Notify, SeqPacket, nak};
use godwit_wire::Listener;
use godwit_wire::relay::{RELAY_PLAN_ENV, RELAY_SOCKET_ENV, RelayRequest};
use rustix::event::{PollFd, PollFlags, poll};

use crate::bundle::{Bundle, Running};
use crate::pages::Daemon;
use crate::streams::{SOON, Streams};

/// What the shim says at post-restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    Release,
    Refuse,
}

/// How a container is restored.
pub(crate) struct Restore<'a> {
    pub(crate) bundle: &'a Bundle,
    pub(crate) images: &'a Path,
    pub(crate) relay: &'a Path,
    /// A whole dump from which CRIU's own fault handler fills memory lazily.
    pub(crate) pager: Option<&'a Path>,
}

impl Restore<'_> {
    /// Vets, plans, restores; `decide` is asked while every task is held.
    pub(crate) fn run(
        &self,
        decide: impl FnOnce(&Notification) -> Decision + Send,
    ) -> Result<Running> {
        let images = ImageDir::new(self.images);
        let spec = self.bundle.spec()?;
        vet::require(&images, &spec)?;
        limits::apply(&images, &spec, &limits::of_this_process()?)?;
        let work = self.bundle.dir.join("work-restore");
        std::fs::create_dir_all(work.join("mounts"))?;
        let plan = work.join("plan.json");
        std::fs::write(&plan, self.plan(&work)?.encode())?;
        let socket = work.join("relay.sock");
        let listener = Listener::bind(&socket)?;
        let daemon = self.pager.map(|whole| Daemon::start(whole, &work)).transpose()?;
        let (streams, ends) = Streams::new()?;
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.relay.display());
        let env = [
            ("PATH", path.as_str()),
            (RELAY_PLAN_ENV, &plan.display().to_string()),
            (RELAY_SOCKET_ENV, &socket.display().to_string()),
        ]
        .map(|(k, v)| (k, v.to_owned()));
        let env: Vec<(&str, &str)> = env.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let (images, work) = (self.images.display().to_string(), work.display().to_string());
        let mut options = vec!["--detach", "--no-subreaper", "--image-path", &images];
        options.extend(["--work-path", &work]);
        options.extend(self.pager.map(|_| "--lazy-pages"));
        let (ran, forwarded) = std::thread::scope(|scope| {
            let forward = scope.spawn(|| forward(&listener, decide));
            let ran = self.bundle.runc("restore", &options, ends, &env);
            (ran, forward.join())
        });
        let forwarded = forwarded.unwrap_or_else(|_| bail!("the forwarder panicked"));
        let log = godwit_criu::log::first_error_of(&Path::new(&work).join("restore.log"));
        ran.with_context(|| {
            format!(
                "{forwarded:?}; CRIU: {}",
                log.map_or_else(|| "nothing".into(), |l| l.to_string())
            )
        })?;
        forwarded?;
        daemon.map_or(Ok(()), Daemon::wait)?;
        Ok(Running { pid: self.bundle.pid()?, streams })
    }

    fn plan(&self, work: &Path) -> Result<RelayPlan> {
        let spec = self.bundle.spec()?;
        let mounts = MountPlan::read(self.images)?;
        let sources = mounts::restore::sources(&mounts, &spec).map_err(|refusals| {
            anyhow::anyhow!(
                "mounts: {}",
                refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
            )
        })?;
        let file = self.images.join(SOURCES_FILE);
        std::fs::write(&file, encode_sources(&sources))?;
        Ok(RelayPlan {
            criu: "/usr/sbin/criu".into(),
            path: "/usr/sbin:/usr/bin:/sbin:/bin".into(),
            criu_version: None,
            namespaces: NamespacePlan::read(self.images)?.restore(&spec),
            hostname: spec.hostname().clone(),
            cgroup_namespace: mounts::restore::has_cgroup_namespace(&spec),
            workspace: work.join("mounts"),
            contents: self.images.join(CONTENTS_FILE),
            sources: file,
            options: RestoreOptions {
                lazy_pages: self.pager.is_some(),
                ..RestoreOptions::default()
            },
        })
    }
}

/// Forwards between runc and CRIU until CRIU closes.
fn forward(
    listener: &Listener,
    decide: impl FnOnce(&Notification) -> Decision,
) -> Result<Vec<Notify>> {
    let relay = listener.accept_timeout::<RelayRequest, RelayRequest>(SOON)?;
    let message = relay.recv_timeout(Duration::from_secs(10))?.context("the relay said nothing")?;
    if !message.body.failure.is_empty() {
        bail!("relay: {}", message.body.failure);
    }
    let (_, [runc, criu]) = message.with_fds::<2>("RelayRequest")?;
    let (runc, criu) = (SeqPacket::from(runc), SeqPacket::from(criu));
    let mut decide = Some(decide);
    let mut seen = Vec::new();
    let mut runc_speaks = true;
    loop {
        let mut fds = vec![PollFd::new(&criu, PollFlags::IN)];
        if runc_speaks {
            fds.push(PollFd::from_borrowed_fd(runc.as_fd(), PollFlags::IN));
        }
        poll(&mut fds, None)?;
        let ready: Vec<bool> = fds.iter().map(|f| !f.revents().is_empty()).collect();
        if ready[0] {
            let Some(packet) = criu.recv()? else { return Ok(seen) };
            if let Incoming::Notification(n) = Incoming::parse(&packet.bytes)? {
                seen.push(n.kind);
                let held = (n.kind == Notify::PostRestore).then(|| decide.take()).flatten();
                if held.is_some_and(|decide| decide(&n) == Decision::Refuse) {
                    criu.send(&nak())?;
                    continue;
                }
            }
            runc.send(&packet)?;
        }
        if ready.get(1) == Some(&true) {
            match runc.recv()? {
                Some(packet) => criu.send(&packet)?,
                None => runc_speaks = false,
            }
        }
    }
}

/// The directory that holds the relay under the name `criu`.
pub(crate) fn relay_dir(relay: &Path) -> Result<PathBuf> {
    ensure!(relay.join("criu").exists(), "no relay in {}", relay.display());
    Ok(relay.to_owned())
}
