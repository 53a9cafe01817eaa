//! Start: of an init process, by whatever its origin asks for.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::oneshot;
use tracing::warn;

use super::Pod;
use crate::container::{Container, Origin};
use crate::error::{Error, Result};
use crate::events::Event;
use crate::hooks::Restored;
use crate::process::Phase;
use crate::reaper::{Child, Exit, Scope};
use crate::runc;
use crate::state::Step;

/// Exit status of a process that SIGKILL ended.
const KILLED: u32 = 137;

impl Pod {
    /// Starts the init process of a container; returns its pid.
    ///
    /// # Errors
    /// The container is as it was before, or has stopped.
    pub async fn start(self: &Arc<Self>, id: &str) -> Result<u32> {
        let container = self.container(id)?;
        let _turn = container.turn().await;
        match container.origin().clone() {
            Origin::Spec => self.start_created(&container).await,
            Origin::Images(images) => self.start_from_images(&container, &images).await,
            Origin::Restore { .. } => self.start_restore(&container).await,
        }
    }

    async fn start_created(self: &Arc<Self>, container: &Arc<Container>) -> Result<u32> {
        // Asked first, so that a wrong state is told before a fence is.
        container.state().after(Step::Start).map_err(|refusal| container.refuse(refusal))?;
        self.hooks().before_start(self, container).await?;
        container.shift(Step::Start)?;
        let init = container.init();
        init.set_phase(Phase::Starting);
        let started = container.runc().start().await;
        let pid = init.pid().unwrap_or_default();
        let step = match &started {
            Ok(()) => {
                self.watch_oom(container);
                self.events().publish(Event::started(container.id(), pid));
                Step::Started
            }
            Err(_) => Step::Failed,
        };
        container.shift(step)?;
        let phase = if started.is_ok() { Phase::Running } else { Phase::Added };
        if let Some(exit) = init.started(phase) {
            self.init_exited(container, exit).await;
        }
        started.map(|()| pid)
    }

    async fn start_from_images(
        self: &Arc<Self>,
        container: &Arc<Container>,
        images: &Path,
    ) -> Result<u32> {
        container.state().after(Step::Start).map_err(|refusal| container.refuse(refusal))?;
        self.hooks().before_start(self, container).await?;
        container.shift(Step::Start)?;
        let scope = self.reaper().scope();
        let what = runc::Restore {
            images: images.to_owned(),
            work: work_dir(container),
            ..Default::default()
        };
        match container.runc_restore(&what, self.reaper()).await {
            Ok(pid) => self.restored(container, &scope, pid, &[Step::Started]),
            Err(why) => {
                // A failed restore may have left tasks.
                let _ = container.runc().delete(true).await;
                self.not_restored(container);
                Err(why)
            }
        }
    }

    async fn start_restore(self: &Arc<Self>, container: &Arc<Container>) -> Result<u32> {
        container.shift(Step::Restore)?;
        let scope = self.reaper().scope();
        match self.hooks().restore(self, container).await {
            Ok(Restored::Running { pid, hydrating }) => {
                self.restored(container, &scope, pid, steps(hydrating))
            }
            Ok(Restored::Held { pid, runs }) => {
                container.init().set_pid(pid);
                container.init().set_phase(Phase::Running);
                self.tell_started(container, pid);
                let (pod, container) = (Arc::clone(self), Arc::clone(container));
                self.tasks().spawn(async move { pod.after_hold(&container, &scope, runs).await });
                Ok(pid)
            }
            Ok(Restored::Finished) => Ok(self.finished_before(container).await),
            Err(why) => {
                // From now on nobody is told any more that it runs.
                self.not_restored(container);
                if container.was_told_as_running() {
                    self.init_exited(container, Exit::now(KILLED)).await;
                }
                Err(why)
            }
        }
    }

    /// What becomes of a container that was told as started while it was held: it runs, or it is over.
    async fn after_hold(
        self: &Arc<Self>,
        container: &Arc<Container>,
        scope: &Scope,
        runs: oneshot::Receiver<Result<Restored>>,
    ) {
        let restored = match runs.await {
            Ok(Ok(Restored::Running { pid, hydrating })) => {
                let child = self.adopt(container, scope, pid, steps(hydrating));
                child.map(|child| self.watch_init(container, child))
            }
            Ok(Err(why)) => Err(why),
            Ok(Ok(_)) | Err(_) => Err(Error::Cancelled("its restore was given up".into())),
        };
        if let Err(why) = restored {
            warn!(container = container.id(), why = why.chain(), "killed while it was held");
            self.init_exited(container, Exit::now(KILLED)).await;
        }
    }

    /// Back to `Created`, from where Start may be tried again.
    fn not_restored(&self, container: &Container) {
        container.init().clear_pid();
        // It is stopped if it was killed; nothing else refuses.
        let _ = container.shift(Step::Failed);
    }

    /// A restored container runs: it is told as started.
    fn restored(
        self: &Arc<Self>,
        container: &Arc<Container>,
        scope: &Scope,
        pid: u32,
        steps: &[Step],
    ) -> Result<u32> {
        let child = self.adopt(container, scope, pid, steps)?;
        self.tell_started(container, pid);
        self.watch_init(container, child);
        Ok(pid)
    }

    /// Takes a restored init process over.
    fn adopt(
        &self,
        container: &Container,
        scope: &Scope,
        pid: u32,
        steps: &[Step],
    ) -> Result<Child> {
        let init = container.init();
        init.set_pid(pid);
        container.adopt_cgroup_of(pid);
        let child = match scope.claim(pid) {
            Ok(child) => child,
            Err(why) => {
                // Nobody would ever see its end: it must not run.
                container.cgroup().map(|cgroup| cgroup.kill());
                self.not_restored(container);
                return Err(Error::io("take over the restored init process")(why));
            }
        };
        init.set_phase(Phase::Running);
        for step in steps {
            container.shift(*step)?;
        }
        self.watch_oom(container);
        Ok(child)
    }

    fn tell_started(&self, container: &Container, pid: u32) {
        self.events().publish(Event::started(container.id(), pid));
    }

    /// An init container that had done its work before the checkpoint: told as started and over, without running.
    async fn finished_before(self: &Arc<Self>, container: &Arc<Container>) -> u32 {
        drop(container.take_prepared());
        let pid = std::process::id();
        container.init().set_pid(pid);
        self.events().publish(Event::started(container.id(), pid));
        self.init_exited(container, Exit::now(0)).await;
        pid
    }
}

fn steps(hydrating: bool) -> &'static [Step] {
    if hydrating { &[Step::Restored] } else { &[Step::Restored, Step::Hydrated] }
}

fn work_dir(container: &Container) -> std::path::PathBuf {
    let asked = &container.options().criu_work_path;
    if asked.is_empty() { container.bundle().join("work") } else { asked.into() }
}
