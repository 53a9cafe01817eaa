//! Create: a container comes into being, up to where Start lets it run.

use std::path::PathBuf;
use std::sync::Arc;

use tracing::warn;

use super::Pod;
use crate::container::{Container, Identity, Origin, PID_FILE, ROOTFS, read_pid};
use crate::error::{Error, Result};
use crate::events::Event;
use crate::events::event::Created;
use crate::io::{Prepared, Stdio};
use crate::mounts::{self, Mount};
use crate::network;
use crate::options::Options;
use crate::rootless;
use crate::runc::Streams;
use crate::spec::Spec;
use crate::state::Step;

/// What containerd wants to be created.
#[derive(Debug, Clone, Default)]
pub struct CreateRequest {
    /// The container.
    pub id: String,
    /// Its bundle, with `config.json`.
    pub bundle: PathBuf,
    /// Mounts of its root file system; empty: it is there already.
    pub rootfs: Vec<Mount>,
    /// Streams of its init process.
    pub stdio: Stdio,
    /// Directory of CRIU images to restore from; empty: none.
    pub images: String,
    /// Runtime options.
    pub options: Options,
}

impl Pod {
    /// Creates a container. A restore makes no process yet: that happens in Start. Returns the pid of its init, or what stands for it.
    ///
    /// # Errors
    /// Nothing of the container is left then.
    pub async fn create(self: &Arc<Self>, request: CreateRequest) -> Result<u32> {
        rootless::refuse()?;
        let spec = Spec::read(&request.bundle)?;
        spec.check_annotations()?;
        network::check(&spec).await?;
        let container = Container::new(self.container_identity(&request), spec, self.reaper());
        require_restorer(&container)?;
        self.enlist(&container)?;
        let _turn = container.turn().await;
        let created = self.make(&container, &request).await;
        if created.is_err() {
            self.unmake(&container, &request).await;
        }
        created
    }

    fn container_identity(&self, request: &CreateRequest) -> Identity {
        Identity {
            id: request.id.clone(),
            namespace: self.namespace().to_owned(),
            bundle: request.bundle.clone(),
            stdio: request.stdio.clone(),
            options: request.options.clone(),
            images: request.images.clone(),
        }
    }

    fn enlist(&self, container: &Arc<Container>) -> Result<()> {
        let mut list = self.list();
        if list.contains_key(container.id()) {
            return Err(Error::AlreadyExists(format!("container {}", container.id())));
        }
        list.insert(container.id().to_owned(), Arc::clone(container));
        Ok(())
    }

    async fn make(
        self: &Arc<Self>,
        container: &Arc<Container>,
        request: &CreateRequest,
    ) -> Result<u32> {
        self.hooks().before_create(self, container).await?;
        container.options().save(container.bundle())?;
        mount_rootfs(self, container, &request.rootfs).await?;
        let stdio = container.init().stdio();
        let (prepared, ends) = Prepared::new(stdio, &container.owner(), self.reaper()).await?;
        if *container.origin() != Origin::Spec {
            container.keep_prepared(prepared, ends);
            container.shift(Step::Created)?;
            let pid = container.stand_in().unwrap_or_default();
            self.tell_created(container, request, pid);
            return Ok(pid);
        }
        let scope = self.reaper().scope();
        let pid_file = container.bundle().join(PID_FILE);
        let console = prepared.console.as_ref().map(|socket| socket.path().to_owned());
        let streams = Streams { ends, console: console.as_deref() };
        container.runc().create(&pid_file, streams).await?;
        container.init().set_io(prepared.start().await?);
        let pid = read_pid(&pid_file)?;
        container.init().set_pid(pid);
        container.adopt_cgroup_of(pid);
        let child = scope.claim(pid).map_err(Error::io("take over runc's init"))?;
        container.shift(Step::Created)?;
        self.tell_created(container, request, pid);
        self.watch_init(container, child);
        Ok(pid)
    }

    fn tell_created(&self, container: &Container, request: &CreateRequest, pid: u32) {
        self.events().publish(Event::created(Created {
            container: container.id(),
            bundle: container.bundle().display().to_string(),
            rootfs: request.rootfs.clone(),
            stdio: request.stdio.clone(),
            images: request.images.clone(),
            pid,
        }));
    }

    /// Takes away what a failed Create has left.
    async fn unmake(&self, container: &Container, request: &CreateRequest) {
        drop(container.take_prepared());
        if container.init().pid().is_some() || container.runc().state_dir().exists() {
            // It was made and something after that failed.
            if let Err(why) = container.runc().delete(true).await {
                warn!(
                    container = container.id(),
                    why = why.chain(),
                    "deleting a failed container failed"
                );
            }
        }
        if !request.rootfs.is_empty()
            && let Err(why) = mounts::unmount_all(&container.bundle().join(ROOTFS)).await
        {
            warn!(
                container = container.id(),
                why = why.chain(),
                "unmounting a failed container failed"
            );
        }
        self.forget(container);
    }
}

/// A restore is asked of runc alone.
fn require_restorer(container: &Container) -> Result<()> {
    let options = container.options();
    if *container.origin() == Origin::Spec || options.is_runc() {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "{} is to be restored by {}, which cannot do that: a checkpoint is restored by runc alone",
        container.id(),
        options.binary()
    )))
}

async fn mount_rootfs(pod: &Pod, container: &Container, rootfs: &[Mount]) -> Result<()> {
    if rootfs.is_empty() {
        return Ok(());
    }
    let root = container.bundle().join(ROOTFS);
    std::fs::create_dir_all(&root).map_err(Error::io(format!("make {}", root.display())))?;
    mounts::mount_all(rootfs, &root, pod.reaper()).await
}
