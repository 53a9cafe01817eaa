//! One container: what it is, where it is in its life, its processes. What happens to it, and in which order, is decided
//! in `pod/`; operations (`op`, `restore`) move it by [`Container::shift`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use godwit_types::names::{self, CHECKPOINT_ON_STOP, FORK_FROM, LATEST, RESTORE_FROM};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::io::{ChildEnds, Owner, Prepared, Stdio};
use crate::options::Options;
use crate::process::Process;
use crate::reaper::Reaper;
use crate::runc::{self, Runc, Streams};
use crate::spec::Spec;
use crate::state::{State, Step};

/// Name of the file in a bundle that holds the pid of the init process.
pub const PID_FILE: &str = "init.pid";

/// Where in a bundle containerd wants the root file system to be mounted.
pub const ROOTFS: &str = "rootfs";
/// No process has this pid: it is beyond PID_MAX_LIMIT (`include/linux/threads.h`). Whoever looks for it finds nothing.
const NOBODY: u32 = (4 << 20) + 1;

/// Where a container's processes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// From its spec, by `runc create` and `runc start`.
    Spec,
    /// From CRIU images in a directory that containerd names (the task API's checkpoints).
    Images(PathBuf),
    /// From a checkpoint in a store: `from` is the value of the annotation.
    Restore {
        /// Continue its lineage, or start a copy as a new one.
        kind: RestoreKind,
        /// A checkpoint id.
        from: String,
    },
}

/// What a restore does to the lineage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreKind {
    /// Takes it over.
    Continue,
    /// Leaves it alone.
    Fork,
}

/// What identifies a container and what containerd asked for.
#[derive(Debug, Clone)]
pub struct Identity {
    /// containerd's id.
    pub id: String,
    /// containerd's namespace.
    pub namespace: String,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// Streams of the init process.
    pub stdio: Stdio,
    /// Runtime options.
    pub options: Options,
    /// Directory of CRIU images, if the task API restores; empty: no.
    pub images: String,
}

/// A container of the pod.
#[derive(Debug)]
pub struct Container {
    identity: Identity,
    spec: Spec,
    origin: Origin,
    runc: Runc,
    init: Arc<Process>,
    state: watch::Sender<State>,
    turn: tokio::sync::Mutex<()>,
    execs: Mutex<BTreeMap<String, Arc<Process>>>,
    exec_count: watch::Sender<usize>,
    exec_holds: watch::Sender<usize>,
    signals: Arc<RwLock<()>>,
    cgroup: Mutex<Option<Arc<Cgroup>>>,
    prepared: Mutex<Option<(Prepared, ChildEnds)>>,
    unfilled: AtomicBool,
    killed: AtomicBool,
    claims: AtomicBool,
    told_as_running: AtomicBool,
    made: Instant,
}

/// While it lives, no process is executed in the container: new ones wait.
#[derive(Debug)]
pub struct ExecHold(Arc<Container>);

impl Container {
    /// A container of which nothing exists yet but its bundle.
    #[must_use]
    pub fn new(identity: Identity, spec: Spec, reaper: &Reaper) -> Arc<Self> {
        let runc = Runc::new(
            &identity.options,
            &identity.namespace,
            &identity.id,
            &identity.bundle,
            reaper,
        );
        Arc::new(Self {
            origin: origin(&spec, &identity.images),
            init: Process::new(identity.id.clone(), identity.stdio.clone()),
            runc,
            spec,
            identity,
            state: watch::channel(State::Creating).0,
            turn: tokio::sync::Mutex::new(()),
            execs: Mutex::default(),
            exec_count: watch::channel(0).0,
            exec_holds: watch::channel(0).0,
            signals: Arc::default(),
            cgroup: Mutex::default(),
            prepared: Mutex::default(),
            unfilled: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            claims: AtomicBool::new(false),
            told_as_running: AtomicBool::new(false),
            made: Instant::now(),
        })
    }

    /// containerd's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.identity.id
    }

    /// What the pod calls it. Kubernetes gives each life of a container another id, and the same name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.spec.annotation(names::CONTAINER_NAME).unwrap_or(self.id())
    }

    /// When it was created.
    #[must_use]
    pub fn made(&self) -> Instant {
        self.made
    }

    /// containerd's namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.identity.namespace
    }

    /// Absolute path of the bundle; holds `config.json`.
    #[must_use]
    pub fn bundle(&self) -> &Path {
        &self.identity.bundle
    }

    /// Absolute path of the root file system on the host.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.spec.rootfs(self.bundle())
    }

    /// The part of the spec that the shim knows.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Runtime options.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.identity.options
    }

    /// Where its processes come from.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Its runc.
    #[must_use]
    pub fn runc(&self) -> &Runc {
        &self.runc
    }

    /// Its init process.
    #[must_use]
    pub fn init(&self) -> &Arc<Process> {
        &self.init
    }

    /// Pid of its init process in the shim's pid namespace, while it is not over.
    #[must_use]
    pub fn init_pid(&self) -> Option<u32> {
        self.init.pid().filter(|_| self.init.exit().is_none())
    }

    /// What is told as the pid of its init process while it waits for its restore and has none. containerd gives up the start of a task by
    /// a kill, and kills none of pid 0: one that was started anew would wait for the task's end instead, as long as the container lives.
    #[must_use]
    pub fn stand_in(&self) -> Option<u32> {
        let waits = matches!(self.origin, Origin::Restore { .. }) && self.init.exit().is_none();
        waits.then_some(NOBODY)
    }

    /// Where it is in its life.
    #[must_use]
    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Tells every change of the state.
    #[must_use]
    pub fn watch_state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Moves it; returns the new state.
    ///
    /// # Errors
    /// The refusal, with nothing changed.
    pub fn shift(&self, step: Step) -> Result<State> {
        let mut outcome = Ok(State::Stopped);
        self.state.send_if_modified(|state| {
            outcome = state.after(step);
            match outcome {
                Ok(next) => std::mem::replace(state, next) != next,
                Err(_) => false,
            }
        });
        outcome.map_err(|refusal| self.refuse(refusal))
    }

    /// Its cgroup, once a process of it exists.
    #[must_use]
    pub fn cgroup(&self) -> Option<Arc<Cgroup>> {
        lock(&self.cgroup).clone()
    }

    /// Takes the cgroup of a process (its init, or runc's `criu` while restoring) as the container's.
    pub fn adopt_cgroup_of(&self, pid: u32) {
        if let Ok(found) = Cgroup::of_pid(pid) {
            *lock(&self.cgroup) = Some(Arc::new(found));
        }
    }

    /// Takes its turn: runc calls that change the container come one after another. Queries and Kill do not take it.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// It is killed because its memory cannot be completed: nobody wanted this end.
    pub fn note_unfilled(&self) {
        self.unfilled.store(true, Ordering::Release);
    }

    /// Whether it was killed because its memory could not be completed.
    #[must_use]
    pub fn is_unfilled(&self) -> bool {
        self.unfilled.load(Ordering::Acquire)
    }

    /// It was killed because containerd asked for it: somebody wants this end.
    pub fn note_killed(&self) {
        self.killed.store(true, Ordering::Release);
    }

    /// Whether it was killed because containerd asked for it, and not by the kernel for want of memory or by a passer-by.
    #[must_use]
    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    /// It is restored and waits for its slot in the log, or does not any more.
    pub fn note_claim(&self, claims: bool) {
        self.claims.store(claims, Ordering::Release);
    }

    /// Whether it is to be told as running although it does not yet: a containerd that was started anew kills what it finds created,
    /// and only the log may take back what waits for its slot.
    #[must_use]
    pub fn tell_as_running(&self) -> bool {
        let claims = self.state() == State::Restoring && self.claims.load(Ordering::Acquire);
        self.told_as_running.fetch_or(claims, Ordering::AcqRel);
        claims
    }

    /// Whether somebody was told that it runs before it did: if it never will, its end must be told.
    #[must_use]
    pub fn was_told_as_running(&self) -> bool {
        self.told_as_running.load(Ordering::Acquire)
    }

    /// Hands everything that its processes have written to containerd. For a frozen container; the caller sets the
    /// deadline.
    pub async fn drain_stdio(&self) {
        for process in std::iter::once(self.init.clone()).chain(self.execs()) {
            if let Some(io) = process.io() {
                io.drain().await;
            }
        }
    }

    /// Runs `runc restore` for it: with its pipes or terminal, then copies them. Returns the pid of its init, a child of
    /// the shim. For hooks that hold its turn in state `Restoring`.
    ///
    /// # Errors
    /// runc's own sentence. That does *not* prove that nothing of it runs.
    pub async fn runc_restore(&self, what: &runc::Restore, reaper: &Reaper) -> Result<u32> {
        let (prepared, ends) = match self.take_prepared() {
            Some(prepared) => prepared,
            None => Prepared::new(self.init.stdio(), &self.owner(), reaper).await?,
        };
        let pid_file = self.bundle().join(PID_FILE);
        let console = prepared.console.as_ref().map(|socket| socket.path().to_owned());
        let streams = Streams { ends, console: console.as_deref() };
        self.runc.restore(what, &pid_file, streams).await?;
        self.init.set_io(prepared.start().await?);
        read_pid(&pid_file)
    }

    /// For whom the streams of its processes are made.
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner {
            id: self.id().to_owned(),
            namespace: self.namespace().to_owned(),
            uid: self.options().io_uid,
            gid: self.options().io_gid,
        }
    }

    /// Keeps new processes from being executed in it until the hold is dropped. Those that run are not touched: see
    /// [`Container::running_execs`].
    #[must_use]
    pub fn hold_execs(self: &Arc<Self>) -> ExecHold {
        self.exec_holds.send_modify(|holds| *holds += 1);
        ExecHold(Arc::clone(self))
    }

    /// Lets a signal be sent to it: whoever freezes it waits until this is dropped.
    pub(crate) async fn send_signal(&self) -> OwnedRwLockReadGuard<()> {
        Arc::clone(&self.signals).read_owned().await
    }

    /// Waits until no signal is on its way to it; new ones wait until this is dropped.
    pub(crate) async fn hold_signals(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.signals).write_owned().await
    }

    /// How many executed processes run, as it changes.
    #[must_use]
    pub fn running_execs(&self) -> watch::Receiver<usize> {
        self.exec_count.subscribe()
    }

    /// Its executed processes, started or not, ended or not.
    #[must_use]
    pub fn execs(&self) -> Vec<Arc<Process>> {
        lock(&self.execs).values().cloned().collect()
    }

    /// The init process (empty id) or an executed one.
    ///
    /// # Errors
    /// There is none of this id.
    pub fn process(&self, exec_id: &str) -> Result<Arc<Process>> {
        if exec_id.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        let found = lock(&self.execs).get(exec_id).cloned();
        found.ok_or_else(|| {
            Error::NotFound(format!("process {exec_id} of {} does not exist", self.id()))
        })
    }

    pub(crate) fn add_exec(&self, process: Arc<Process>) -> Result<()> {
        let mut execs = lock(&self.execs);
        if execs.contains_key(process.id()) {
            return Err(Error::AlreadyExists(format!("process {} of {}", process.id(), self.id())));
        }
        execs.insert(process.id().to_owned(), process);
        Ok(())
    }

    pub(crate) fn remove_exec(&self, exec_id: &str) {
        lock(&self.execs).remove(exec_id);
    }

    pub(crate) fn count_exec(&self, change: isize) {
        self.exec_count.send_modify(|count| *count = count.saturating_add_signed(change));
    }

    /// Waits until nothing holds back new processes and the state lets them in.
    pub(crate) async fn wait_to_exec(&self) -> Result<()> {
        let mut state = self.watch_state();
        let mut holds = self.exec_holds.subscribe();
        loop {
            let now = *state.borrow_and_update();
            let open = now.may_exec().map_err(|refusal| self.refuse(refusal))?;
            if open && *holds.borrow_and_update() == 0 {
                return Ok(());
            }
            tokio::select! {
                _ = state.changed() => {}
                _ = holds.changed() => {}
            }
        }
    }

    pub(crate) fn keep_prepared(&self, prepared: Prepared, ends: ChildEnds) {
        *lock(&self.prepared) = Some((prepared, ends));
    }

    pub(crate) fn take_prepared(&self) -> Option<(Prepared, ChildEnds)> {
        lock(&self.prepared).take()
    }

    pub(crate) fn refuse(&self, refusal: crate::state::Refusal) -> Error {
        Error::State { container: self.id().to_owned(), refusal }
    }
}

impl Drop for ExecHold {
    fn drop(&mut self) {
        self.0.exec_holds.send_modify(|holds| *holds = holds.saturating_sub(1));
    }
}

/// Reads a pid that runc has written.
pub(crate) fn read_pid(file: &Path) -> Result<u32> {
    let attempt = format!("read the pid in {}", file.display());
    let text = std::fs::read_to_string(file).map_err(Error::io(attempt.clone()))?;
    text.trim().parse().map_err(|_| Error::Invalid(format!("{attempt}: {text:?} is no pid")))
}

fn origin(spec: &Spec, images: &str) -> Origin {
    let restore = |kind, key| {
        spec.annotation(key).map(|from| Origin::Restore { kind, from: from.to_owned() })
    };
    if !images.is_empty() {
        return Origin::Images(PathBuf::from(images));
    }
    if spec.is_sandbox() {
        return Origin::Spec;
    }
    // Who is to go on after its end goes on from what was before it.
    let goes_on = spec.annotation(CHECKPOINT_ON_STOP) == Some("true");
    let own = || Origin::Restore { kind: RestoreKind::Continue, from: LATEST.to_owned() };
    restore(RestoreKind::Continue, RESTORE_FROM)
        .or_else(|| restore(RestoreKind::Fork, FORK_FROM))
        .or_else(|| goes_on.then(own))
        .unwrap_or(Origin::Spec)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::reaper::Exit;

    /// In a state of life only: it has no processes, and its runc is none.
    pub(crate) fn running(id: &str) -> Arc<Container> {
        let container = of(id, "{}");
        container.init().set_pid(std::process::id());
        for step in [Step::Created, Step::Start, Step::Started] {
            container.shift(step).unwrap();
        }
        container
    }

    /// The same in a restore: it has no process yet.
    pub(crate) fn restoring(id: &str) -> Arc<Container> {
        let container = of(id, "{}");
        for step in [Step::Created, Step::Restore] {
            container.shift(step).unwrap();
        }
        container
    }

    fn container(spec: &str) -> Arc<Container> {
        of("c", spec)
    }

    /// One that is being created.
    pub(crate) fn of(id: &str, spec: &str) -> Arc<Container> {
        let binary_name = "/nonexistent/runc".to_owned();
        let identity = Identity {
            id: id.into(),
            namespace: "n".into(),
            bundle: "/b".into(),
            stdio: Stdio::default(),
            options: Options { binary_name, ..Options::default() },
            images: String::new(),
        };
        Container::new(identity, Spec::parse(spec.as_bytes()).unwrap(), &Reaper::new())
    }

    #[test]
    fn annotations_decide_where_processes_come_from() {
        let spec = r#"{"annotations":{"godwit.dev/fork-from":"X"}}"#;
        let fork = Origin::Restore { kind: RestoreKind::Fork, from: "X".into() };
        assert_eq!(*container(spec).origin(), fork);
        assert_eq!(*container("{}").origin(), Origin::Spec);
    }

    #[test]
    fn what_waits_for_its_restore_has_a_pid_that_no_process_has() {
        let waiting = container(r#"{"annotations":{"godwit.dev/restore-from":"X"}}"#);
        let told = waiting.stand_in().unwrap();
        let most: u32 = 1 << 22;
        assert!(told > most);
        waiting.init().set_exit(Exit::now(137));
        assert_eq!(waiting.stand_in(), None);
        assert_eq!(container("{}").stand_in(), None);
    }

    #[test]
    fn what_waits_for_its_slot_is_told_as_running() {
        let waiting = container(r#"{"annotations":{"godwit.dev/restore-from":"X"}}"#);
        waiting.note_claim(true);
        assert!(!waiting.tell_as_running(), "nothing is held yet");
        for step in [Step::Created, Step::Restore] {
            waiting.shift(step).unwrap();
        }
        waiting.note_claim(false);
        assert!(!waiting.tell_as_running() && !waiting.was_told_as_running());
        waiting.note_claim(true);
        assert!(waiting.tell_as_running() && waiting.was_told_as_running());
    }

    #[test]
    fn a_refused_step_changes_nothing() {
        let container = container("{}");
        assert!(container.shift(Step::Freeze).is_err());
        assert_eq!(container.state(), State::Creating);
        assert_eq!(container.shift(Step::Created).unwrap(), State::Created);
    }

    #[tokio::test]
    async fn new_processes_wait_while_they_are_held_or_frozen_and_are_refused_when_stopped() {
        let container = container("{}");
        for step in [Step::Created, Step::Start, Step::Started, Step::Begin, Step::Freeze] {
            container.shift(step).unwrap();
        }
        let hold = container.hold_execs();
        let waiting = tokio::spawn({
            let container = Arc::clone(&container);
            async move { container.wait_to_exec().await }
        });
        container.shift(Step::Thaw).unwrap();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(hold);
        waiting.await.unwrap().unwrap();
        container.shift(Step::Exit).unwrap();
        assert!(container.wait_to_exec().await.is_err());
    }
}
