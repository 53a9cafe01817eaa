//! The containers of the pod, as far as the shim has told.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use godwit_faults::{FamilyId, GroupId, Hydrator, MemoryLimit, Totals};
use godwit_wire::Received;
use godwit_wire::pager::{Begin, Load, Loaded, Serve, Tasks, ToPagerBody};

use crate::agent::Agent;
use crate::error::PagerError;
use crate::plan;
use crate::tell::Teller;

/// One container.
pub(crate) struct Container {
    pub(crate) group: GroupId,
    processes: HashMap<i32, FamilyId>,
    /// All tasks are in them.
    pub(crate) cgroups: Vec<PathBuf>,
    pub(crate) pidfds: Vec<OwnedFd>,
    told: Totals,
}

/// See the module.
pub(crate) struct Pod {
    hydrator: Hydrator,
    agent: Arc<Agent>,
    teller: Arc<Teller>,
    containers: HashMap<String, Container>,
    /// Descriptors that cannot be served. Never closed while their tasks live.
    unserved: Vec<OwnedFd>,
}

impl Pod {
    pub(crate) fn new(hydrator: Hydrator, agent: Arc<Agent>, teller: Arc<Teller>) -> Self {
        Self { hydrator, agent, teller, containers: HashMap::new(), unserved: Vec::new() }
    }

    /// Does what a message says; a failure is the container's end and is told.
    pub(crate) fn take(&mut self, message: Received<ToPagerBody>) {
        let container = match &message.body {
            ToPagerBody::Load(Load { container, .. })
            | ToPagerBody::Serve(Serve { container, .. })
            | ToPagerBody::Tasks(Tasks { container, .. })
            | ToPagerBody::Begin(Begin { container, .. }) => container.clone(),
            ToPagerBody::Dropped(dropped) => return self.hydrator.release(dropped.descriptor),
        };
        if let Err(error) = self.follow(message) {
            self.teller.say_fatal(container, error.code(), error.sentence());
        }
    }

    fn follow(&mut self, message: Received<ToPagerBody>) -> Result<(), PagerError> {
        match message.body {
            ToPagerBody::Load(load) => self.load(load, message.fds),
            ToPagerBody::Serve(serve) => self.serve(&serve, message.fds),
            ToPagerBody::Tasks(Tasks { container }) => {
                self.known(&container)?.pidfds.extend(message.fds);
                Ok(())
            }
            ToPagerBody::Begin(Begin { container }) => {
                let group = self.known(&container)?.group;
                Ok(self.hydrator.begin(group)?)
            }
            ToPagerBody::Dropped(_) => Ok(()),
        }
    }

    fn known(&mut self, name: &str) -> Result<&mut Container, PagerError> {
        let why = "it was not loaded";
        let unknown = PagerError::Plan { container: name.to_owned(), why };
        self.containers.get_mut(name).ok_or(unknown)
    }

    fn load(&mut self, load: Load, fds: Vec<OwnedFd>) -> Result<(), PagerError> {
        let invalid = |why| PagerError::Plan { container: load.container.clone(), why };
        let [maps] = <[OwnedFd; 1]>::try_from(fds)
            .map_err(|_| invalid("it comes with one memfd, neither more nor less"))?;
        if self.containers.contains_key(&load.container) {
            return Err(invalid("it was loaded already"));
        }
        let plan = plan::read(&load, maps)?;
        let source = self.agent.add_source(plan.source, plan.deadline);
        let cgroups: Vec<PathBuf> = load.cgroups.iter().map(PathBuf::from).collect();
        let group = self.hydrator.add_group(MemoryLimit::of(&cgroups));
        self.teller.name(group, load.container.clone());
        let mut processes = HashMap::new();
        for (vpid, mut process) in plan.processes {
            process.source = source;
            let family = self.hydrator.add_process(group, process)?;
            if processes.insert(vpid, family).is_some() {
                return Err(invalid("two page maps for one process"));
            }
        }
        let (pidfds, told) = (Vec::new(), Totals::default());
        let container = Container { group, processes, cgroups, pidfds, told };
        self.containers.insert(load.container.clone(), container);
        let pages = self.hydrator.totals(group).pages;
        self.teller.say(Loaded { container: load.container, pages });
        Ok(())
    }

    fn serve(&mut self, serve: &Serve, mut fds: Vec<OwnedFd>) -> Result<(), PagerError> {
        let invalid = |why| PagerError::Plan { container: serve.container.clone(), why };
        let (Some(uffd), true) = (fds.pop(), fds.is_empty()) else {
            self.unserved.append(&mut fds);
            return Err(invalid("a task comes with one descriptor"));
        };
        // Whatever fails, the descriptor stays open until the tasks are dead.
        self.unserved.push(uffd.try_clone().map_err(PagerError::os("keeping a descriptor"))?);
        let process = self.known(&serve.container)?.processes.get(&serve.vpid).copied();
        let process = process.ok_or_else(|| invalid("a task has no page map"))?;
        self.hydrator.serve(serve.descriptor, process, uffd)?;
        self.unserved.pop();
        Ok(())
    }

    /// Tells how far containers are that have moved.
    pub(crate) fn progress(&mut self) {
        for container in self.containers.values_mut() {
            let mut now = self.hydrator.totals(container.group);
            now.elapsed = container.told.elapsed;
            if now != container.told && !self.teller.is_hydrated(container.group) {
                container.told = now;
                self.teller.say_progress(container.group, self.hydrator.totals(container.group));
            }
        }
    }

    /// Containers whose memory is not complete.
    pub(crate) fn incomplete(&self) -> impl Iterator<Item = (&String, &Container)> {
        self.containers.iter().filter(|(_, c)| !self.teller.is_hydrated(c.group))
    }

    /// Processes that live and depend on a descriptor of ours.
    pub(crate) fn living(&self) -> usize {
        self.hydrator.living()
            + self.unserved.iter().filter(|fd| godwit_faults::is_alive(fd)).count()
    }
}
