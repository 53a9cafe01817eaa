//! One attempt to restore a container: from the agent's plan to tasks that run, or to the proof that nothing does.
//!
//! ```text
//! pager loads maps ─► sockets ─► runc restore ─► relay reports ─► CRIU ─► post-restore: checked, pager begins, HELD
//!                                                                               │
//!      failed at any point, or Abort ─► refuse, kill, prove dead ◄──────────────┤ decision
//!                                                                               └─ Run ─► released ─► RUNS ─► hydrating
//! ```
//! **The release is the point of no return**: before it every failure ends with the proof that nothing runs; after it a failure of
//! runc or CRIU means that the container is killed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use godwit_types::{Code, names};
use godwit_wire::Refusal;
use godwit_wire::agent_op::Plan;
use godwit_wire::failpoint::site;
use godwit_wire::relay::{RELAY_PLAN_ENV, RELAY_SOCKET_ENV};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::check::{self, Task};
use super::dead;
use super::forward::{Forward, Stop};
use super::lazy::{LazySocket, LazyStream, Said};
use super::pager::{Pager, PagerPlan};
use super::place;
use super::quiet::Quiet;
use super::relay::{Criu, RelaySocket};
use super::work_dir::WorkDir;
use crate::container::Container;
use crate::error::{Error, Result};
use crate::reaper::Reaper;
use crate::runc;

/// How long runc may take to end once CRIU has.
const RUNC_ENDS: Duration = Duration::from_secs(20);
/// How long CRIU may take to end once it was refused.
const CRIU_ENDS: Duration = Duration::from_secs(5);
/// How long CRIU may take from the relay to `post-restore`, and from the release to its end.
const CRIU_WORKS: Duration = Duration::from_secs(90);

/// What is restored, and how.
#[derive(Debug)]
pub struct Attempt {
    /// The container.
    pub container: Arc<Container>,
    /// Starts children.
    pub reaper: Reaper,
    /// The agent's plan.
    pub plan: Plan,
    /// What came with it for the pager.
    pub pager_fds: Vec<std::os::fd::OwnedFd>,
    /// The attempt's directory.
    pub work: WorkDir,
    /// The network that it joins, which is silent until its tasks run.
    pub network: Option<Quiet>,
}

/// All tasks are at `post-restore`.
#[derive(Debug)]
pub struct Held {
    /// The tasks.
    pub tasks: Vec<Task>,
}

/// What becomes of held tasks.
#[derive(Debug)]
pub enum Decision {
    /// They run. The sender is told when they do.
    Run(oneshot::Sender<()>),
    /// They die.
    Abort,
}

/// A restored container that runs.
#[derive(Debug)]
pub struct Restored {
    /// Pid of its init.
    pub pid: u32,
    /// Its pager, if memory is still to come.
    pub pager: Option<Pager>,
    /// Its directory: the pager's until it is hydrated.
    pub work: WorkDir,
}

/// An attempt that ended without a running container.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub why: Error,
    /// Nothing of it is left.
    pub proved_dead: bool,
}

impl Failure {
    /// Why, for whoever waits for the start. While something of it lives nobody may start it, here or elsewhere.
    #[must_use]
    pub fn told(&self, container: &str) -> Refusal {
        told(&self.why, self.proved_dead, container)
    }
}

fn told(why: &Error, proved_dead: bool, container: &str) -> Refusal {
    let why = Refusal::new(why.code(), why.chain());
    if proved_dead {
        return why;
    }
    let live = format!(
        "what was restored of {container} does not die; start it again when it has: {}",
        why.reason
    );
    Refusal::new(Code::Unavailable, live)
}

impl Attempt {
    /// Restores. `held` is told when all tasks are there, in the right namespaces; then `decision` decides; a dropped sender is
    /// [`Decision::Abort`], at any time before.
    ///
    /// Not cancel safe: a dropped future may leave tasks. Send [`Decision::Abort`].
    ///
    /// # Errors
    /// [`Failure`]: nothing of it runs. Its tasks never ran, unless [`Decision::Run`]'s sender was told that they do.
    pub async fn run(
        self,
        held: oneshot::Sender<Held>,
        decision: oneshot::Receiver<Decision>,
    ) -> Result<Restored, Box<Failure>> {
        let Self { container, reaper, plan, pager_fds, work, network } = self;
        let mut scene = Scene { container, criu: None, pager: None, network };
        let mut decision = decision;
        let restored = scene.restore(&plan, pager_fds, &reaper, &work, held, &mut decision).await;
        match restored {
            Ok(pid) => Ok(Restored { pid, pager: scene.pager.take(), work }),
            Err(why) => {
                let proved_dead = dead::prove(&scene.container, scene.criu.as_ref()).await;
                if let Some(network) = &scene.network {
                    network.leave().await;
                }
                let why = explain(why, &work);
                let container = scene.container.id();
                warn!(container, why = why.chain(), proved_dead, "restore failed");
                Err(Box::new(Failure { why, proved_dead }))
            }
        }
    }
}

/// What exists of an attempt so far.
struct Scene {
    container: Arc<Container>,
    criu: Option<Criu>,
    /// Dropped only after the tasks are dead, or when they run and somebody else has it.
    pager: Option<Pager>,
    network: Option<Quiet>,
}

/// CRIU's page faults, before and after it has connected.
struct Lazy {
    socket: LazySocket,
    stream: Option<LazyStream>,
    finished: bool,
}

impl Scene {
    async fn restore(
        &mut self,
        plan: &Plan,
        pager_fds: Vec<std::os::fd::OwnedFd>,
        reaper: &Reaper,
        work: &WorkDir,
        held: oneshot::Sender<Held>,
        decision: &mut oneshot::Receiver<Decision>,
    ) -> Result<u32> {
        let container = Arc::clone(&self.container);
        if let Some(network) = self.network.as_mut().filter(|network| network.keeps()) {
            network.enter().await?;
        }
        let lazy = if plan.lazy {
            self.pager = Some(start_pager(&container, plan, pager_fds, reaper).await?);
            let socket = LazySocket::bind(work.path())?;
            Some(Lazy { socket, stream: None, finished: false })
        } else {
            None
        };
        let relay = RelaySocket::bind(work.path())?;
        let what = command(plan, work, &relay)?;
        info!(container = container.id(), lazy = plan.lazy, "restore begins");
        let runc = container.runc_restore(&what, reaper);
        tokio::pin!(runc);
        let conduct = self.conduct(plan, &relay, lazy, held, decision);
        tokio::pin!(conduct);
        let conducted = tokio::select! {
            conducted = &mut conduct => conducted,
            ended = &mut runc => {
                // Its own sentence counts only if CRIU, the relay or we have none.
                let patience = if ended.is_ok() { CRIU_WORKS } else { Duration::from_millis(200) };
                return match (tokio::time::timeout(patience, &mut conduct).await, ended) {
                    (Ok(Ok(_)), Ok(pid)) => Ok(pid),
                    (Ok(Err(why)), _) | (_, Err(why)) => Err(why),
                    (Err(_), Ok(_)) => Err(Error::Unavailable("CRIU did not end after runc did".into())),
                };
            }
        };
        let ended = tokio::time::timeout(RUNC_ENDS, runc).await;
        conducted?;
        ended.unwrap_or_else(|_| Err(Error::Unavailable("runc did not end after CRIU did".into())))
    }

    /// From the relay's word to CRIU's end.
    async fn conduct(
        &mut self,
        plan: &Plan,
        relay: &RelaySocket,
        mut lazy: Option<Lazy>,
        held: oneshot::Sender<Held>,
        decision: &mut oneshot::Receiver<Decision>,
    ) -> Result<()> {
        let handover = either(decision, relay.accept()).await?;
        let criu = handover.criu.pid;
        self.container.adopt_cgroup_of(criu);
        self.criu = Some(handover.criu);
        let mut forward = Forward::new(handover.runc, handover.socket)?;
        let (pager, network) = (self.pager.as_ref(), &mut self.network);
        let reached = async {
            loop {
                match run(&mut forward, pager, lazy.as_mut()).await? {
                    // It has tried what the kernel can with connections of its own, if it did not know.
                    Stop::Begins => {
                        if let Some(network) = network.as_mut().filter(|one| !one.keeps()) {
                            network.enter().await?;
                        }
                        forward.release().await?;
                    }
                    reached => return Ok(reached),
                }
            }
        };
        let limit = tokio::time::timeout(CRIU_WORKS, reached);
        let stop =
            either(decision, async { limit.await.unwrap_or_else(|_| Err(slow("to restore"))) });
        let root = match stop.await? {
            Stop::Held { pid } => pid,
            Stop::Begins | Stop::AboutToRun => {
                return Err(Error::Refused("CRIU did not stop at post-restore".into()));
            }
            Stop::Ended(said) => return Err(ended_early(said)),
        };
        let taken = self.take_stock(plan, root, criu, lazy.as_mut()).await;
        let taken = match taken {
            Ok(tasks) if plan.whole => self.filled(&mut forward, decision).await.map(|()| tasks),
            other => other,
        };
        let decided = match taken {
            Ok(tasks) => {
                // A receiver that is gone has dropped its decision too.
                let _ = held.send(Held { tasks });
                self.decided(&mut forward, decision).await
            }
            Err(why) => Err(why),
        };
        match decided {
            Ok(ran) => self.release(&mut forward, lazy.as_mut(), ran).await,
            Err(why) => {
                forward.refuse().await;
                // Whatever it says: it is proved dead afterwards.
                let _ = tokio::time::timeout(CRIU_ENDS, forward.run()).await;
                Err(why)
            }
        }
    }

    /// At `post-restore`: is everything there, and where it belongs? Then the pager may begin.
    async fn take_stock(
        &self,
        plan: &Plan,
        root: Option<u32>,
        criu: u32,
        lazy: Option<&mut Lazy>,
    ) -> Result<Vec<Task>> {
        let cgroup = self.container.cgroup();
        let pids = cgroup.map(|cgroup| cgroup.pids()).unwrap_or_default();
        let tasks = check::tasks_among(&pids, criu);
        let root = root.or_else(|| tasks.iter().find(|task| task.vpid == 1).map(|task| task.pid));
        let root = root.ok_or_else(|| Error::Refused("CRIU restored no init process".into()))?;
        check::all_there(&tasks, &plan.tasks)?;
        check::namespaces(self.container.spec(), root, &tasks)?;
        if let (Some(pager), Some(lazy)) = (&self.pager, lazy) {
            // Every task has sent its userfaultfd before CRIU asked.
            while lazy.has_more() {
                let said = lazy.next().await?;
                lazy.hand_over(said, pager).await?;
            }
            pager.begin(&tasks).await?;
        }
        site("restore.held");
        Ok(tasks)
    }

    /// Held: waits until all memory is there. Whoever asked may give it up.
    async fn filled(
        &self,
        forward: &mut Forward,
        decision: &mut oneshot::Receiver<Decision>,
    ) -> Result<()> {
        let Some(pager) = &self.pager else { return Ok(()) };
        info!(container = self.container.id(), "all memory is waited for before it runs");
        tokio::select! {
            filled = pager.outcome() => filled.map(|_totals| ()).map_err(|why| Error::Unavailable(why.reason)),
            // Nobody lets it run before it was told that it is held.
            _ = decision => Err(aborted()),
            stop = forward.run() => match stop? {
                Stop::Ended(said) => Err(ended_early(said)),
                _ => Err(Error::Refused("CRIU went on without an answer".into())),
            },
        }
    }

    async fn decided(
        &self,
        forward: &mut Forward,
        decision: &mut oneshot::Receiver<Decision>,
    ) -> Result<oneshot::Sender<()>> {
        let pager = async {
            match &self.pager {
                // Its success may come before the decision; only its failure matters here.
                Some(pager) => match pager.outcome().await {
                    Ok(_) => std::future::pending().await,
                    Err(why) => why,
                },
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            decided = decision => match decided {
                Ok(Decision::Run(ran)) => Ok(ran),
                Ok(Decision::Abort) | Err(_) => Err(aborted()),
            },
            why = pager => Err(Error::Unavailable(why.reason)),
            stop = forward.run() => match stop? {
                Stop::Ended(said) => Err(ended_early(said)),
                _ => Err(Error::Refused("CRIU went on without an answer".into())),
            },
        }
    }

    async fn release(
        &self,
        forward: &mut Forward,
        mut lazy: Option<&mut Lazy>,
        ran: oneshot::Sender<()>,
    ) -> Result<()> {
        site("restore.release.before");
        if let Some(network) = &self.network {
            // All sockets are there. CRIU opens its own lock here, too: before it lets them send.
            network.be_heard().await?;
        }
        forward.release().await?;
        let mut ran = Some(ran);
        let to_the_end = async {
            loop {
                match run(forward, self.pager.as_ref(), lazy.as_deref_mut()).await? {
                    Stop::AboutToRun => {
                        forward.release().await?;
                        tell(&mut ran);
                    }
                    Stop::Begins | Stop::Held { .. } => forward.release().await?,
                    Stop::Ended(Some(said)) if said.success => {
                        tell(&mut ran);
                        return Ok(());
                    }
                    Stop::Ended(said) => return Err(ended_early(said)),
                }
            }
        };
        tokio::time::timeout(CRIU_WORKS, to_the_end)
            .await
            .unwrap_or_else(|_| Err(slow("to resume")))
    }
}

async fn start_pager(
    container: &Container,
    plan: &Plan,
    fds: Vec<std::os::fd::OwnedFd>,
    reaper: &Reaper,
) -> Result<Pager> {
    let plan = PagerPlan {
        container: container.id().to_owned(),
        plan: plan.pager.clone(),
        fds,
        cgroups: place::of(container).map(|cgroup| place::directories(&cgroup)).unwrap_or_default(),
    };
    Pager::start(plan, reaper).await
}

fn command(plan: &Plan, work: &WorkDir, relay: &RelaySocket) -> Result<runc::Restore> {
    let file = work.path().join("relay-plan");
    std::fs::write(&file, &plan.relay_plan)
        .map_err(Error::io(format!("write {}", file.display())))?;
    Ok(runc::Restore {
        images: PathBuf::from(&plan.images_dir),
        work: work.path().to_owned(),
        lazy_pages: plan.lazy,
        path_first: Some(PathBuf::from(names::RELAY_DIR)),
        env: vec![
            (RELAY_SOCKET_ENV.into(), relay.path().into()),
            (RELAY_PLAN_ENV.into(), file.into_os_string()),
        ],
        outlives_shim: true,
    })
}

impl Lazy {
    /// The next task; waits for ever once CRIU has sent all. Cancel safe.
    async fn next(&mut self) -> Result<Said> {
        if self.finished {
            return std::future::pending().await;
        }
        if self.stream.is_none() {
            self.stream = Some(self.socket.accept().await?);
        }
        match &mut self.stream {
            Some(stream) => stream.next().await,
            None => std::future::pending().await,
        }
    }

    /// Hands a task to the pager. Not cancel safe.
    async fn hand_over(&mut self, said: Said, pager: &Pager) -> Result<()> {
        match said {
            Said::Task { vpid, uffd } => pager.serve(vpid, uffd).await,
            Said::Finished => {
                self.finished = true;
                Ok(())
            }
        }
    }

    fn has_more(&self) -> bool {
        !self.finished && self.stream.as_ref().is_some_and(LazyStream::has_more)
    }
}

/// Forwards until the next stop, and meanwhile hands userfaultfds to the pager.
async fn run(
    forward: &mut Forward,
    pager: Option<&Pager>,
    lazy: Option<&mut Lazy>,
) -> Result<Stop> {
    let (Some(pager), Some(lazy)) = (pager, lazy) else { return forward.run().await };
    let stop = forward.run();
    tokio::pin!(stop);
    loop {
        let said = tokio::select! {
            said = lazy.next() => said?,
            stop = &mut stop => return stop,
        };
        lazy.hand_over(said, pager).await?;
    }
}

/// The work, unless it is decided before that it shall not be.
async fn either<T>(
    decision: &mut oneshot::Receiver<Decision>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::select! {
        done = work => done,
        // Nobody lets run what is not there yet.
        _ = decision => Err(aborted()),
    }
}

fn tell(ran: &mut Option<oneshot::Sender<()>>) {
    if let Some(ran) = ran.take() {
        // Whoever wanted to know may have lost patience.
        let _ = ran.send(());
    }
}

fn ended_early(said: Option<super::forward::Response>) -> Error {
    let words = said.map(|said| said.message).filter(|words| !words.is_empty());
    Error::Runtime {
        verb: "restore",
        said: words.unwrap_or_else(|| "CRIU ended before the tasks ran".to_owned()),
    }
}

/// CRIU's first error says more than runc's or CRIU's last word.
fn explain(why: Error, work: &WorkDir) -> Error {
    match (why, work.first_error()) {
        (Error::Runtime { verb, .. }, Some(first)) => {
            Error::Runtime { verb, said: format!("CRIU: {first}") }
        }
        (why, _) => why,
    }
}

fn aborted() -> Error {
    Error::Cancelled("the restore was given up".into())
}

fn slow(what: &str) -> Error {
    Error::Unavailable(format!("CRIU took more than {} s {what}", CRIU_WORKS.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_die_is_no_clean_failure() {
        let why = Error::Refused("CRIU failed".into());
        assert_eq!(told(&why, true, "web").means(), Code::Refused);
        let live = told(&why, false, "web");
        assert_eq!(live.means(), Code::Unavailable);
        assert!(live.reason.contains("web does not die") && live.reason.contains("CRIU failed"));
    }
}
