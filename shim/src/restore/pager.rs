//! The pager of one restored container, seen from the shim: started, fed with userfaultfds, watched.
//!
//! Invariant: of every userfaultfd that was handed to the pager, children's too, a duplicate is kept here until the pager says that
//! it is finished, or until [`Pager`] is dropped. Whoever drops it before [`Pager::outcome`] said `Ok` has proved the tasks dead
//! first: a kernel that loses the last descriptor serves zeros.

pub mod cgroups;
mod messages;
mod process;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use godwit_types::Code;
use godwit_wire::pager::{Begin, FIRST_CHILD, FromPager, Load, Serve, Tasks, ToPager, Totals};
use godwit_wire::{AsyncSocket, MAX_FDS, Refusal, WireError};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::sync::watch;

use super::check::Task;
use crate::error::{Error, Result};
use crate::reaper::Reaper;

/// How long a pager may take to read its page maps.
const LOADING: Duration = Duration::from_secs(60);

type PagerSocket = AsyncSocket<ToPager, FromPager>;

/// How far the pager is.
#[derive(Debug, Clone, PartialEq)]
enum State {
    Loading,
    Serving,
    Hydrated(Totals),
    Failed(Refusal),
}

/// What the pager's messages change.
#[derive(Debug)]
struct Shared {
    socket: PagerSocket,
    kept: Mutex<BTreeMap<u64, OwnedFd>>,
    state: watch::Sender<State>,
}

/// A running pager and the duplicates of its descriptors.
#[derive(Debug)]
pub struct Pager {
    container: String,
    shared: Arc<Shared>,
    next: Mutex<u64>,
    listening: tokio::task::JoinHandle<()>,
}

/// What a pager is started with.
#[derive(Debug)]
pub struct PagerPlan {
    /// The container.
    pub container: String,
    /// `Plan.pager`, unread.
    pub plan: Vec<u8>,
    /// Its descriptors.
    pub fds: Vec<OwnedFd>,
    /// The container's cgroup directories.
    pub cgroups: Vec<PathBuf>,
}

impl Pager {
    /// Starts a pager and waits until it has read its page maps.
    ///
    /// # Errors
    /// It cannot be started, or refuses the maps.
    pub async fn start(plan: PagerPlan, reaper: &Reaper) -> Result<Self> {
        let socket = process::spawn(&plan.container, reaper)?;
        let socket = PagerSocket::from_fd(socket).map_err(failed("poll the pager's socket"))?;
        socket.greet(Duration::from_secs(10)).await.map_err(failed("greet the pager"))?;
        let shared = Arc::new(Shared {
            socket,
            kept: Mutex::default(),
            state: watch::channel(State::Loading).0,
        });
        let listening = tokio::spawn(messages::listen(Arc::clone(&shared)));
        let container = plan.container.clone();
        let pager = Self { container, shared, next: Mutex::new(0), listening };
        pager.load(plan).await?;
        Ok(pager)
    }

    /// Hands a task's userfaultfd over; its duplicate is kept from before that.
    ///
    /// # Errors
    /// The pager is gone.
    pub async fn serve(&self, vpid: i32, uffd: OwnedFd) -> Result<()> {
        let descriptor = self.number()?;
        let copy = uffd.try_clone().map_err(Error::io("duplicate a userfaultfd"))?;
        self.shared.kept().insert(descriptor, copy);
        let message = Serve { descriptor, container: self.container.clone(), vpid };
        self.send(message, &[uffd.as_fd()]).await
    }

    /// Every task was served: names the tasks, lets it fill their memory.
    ///
    /// # Errors
    /// The pager is gone, or a task is.
    pub async fn begin(&self, tasks: &[Task]) -> Result<()> {
        let pidfds = tasks.iter().map(pidfd).collect::<Result<Vec<_>>>()?;
        for some in pidfds.chunks(MAX_FDS) {
            let fds: Vec<BorrowedFd<'_>> = some.iter().map(AsFd::as_fd).collect();
            self.send(Tasks { container: self.container.clone() }, &fds).await?;
        }
        self.send(Begin { container: self.container.clone() }, &[]).await
    }

    /// Waits until all memory is there, or for the reason why it will never be. Cancel safe.
    ///
    /// # Errors
    /// The pager's own sentence, or that it is gone.
    pub async fn outcome(&self) -> Result<Totals, Refusal> {
        let over = |state: &State| matches!(state, State::Hydrated(_) | State::Failed(_));
        match self.wait(over).await {
            State::Hydrated(totals) => Ok(totals),
            State::Failed(why) => Err(why),
            State::Loading | State::Serving => Err(gone()),
        }
    }

    /// How many duplicates are kept.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.shared.kept().len()
    }

    async fn load(&self, plan: PagerPlan) -> Result<()> {
        let cgroups = plan.cgroups.iter().map(|dir| dir.display().to_string()).collect();
        let message = Load { container: plan.container, plan: plan.plan, cgroups };
        let fds: Vec<BorrowedFd<'_>> = plan.fds.iter().map(AsFd::as_fd).collect();
        self.send(message, &fds).await?;
        let loaded = |state: &State| !matches!(state, State::Loading);
        match tokio::time::timeout(LOADING, self.wait(loaded)).await {
            Ok(State::Failed(why)) => Err(Error::Refused(why.reason)),
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Unavailable("the pager does not read its page maps".into())),
        }
    }

    async fn wait(&self, enough: impl Fn(&State) -> bool) -> State {
        let mut state = self.shared.state.subscribe();
        let reached = state.wait_for(enough).await.map(|state| state.clone());
        reached.unwrap_or_else(|_| State::Failed(gone()))
    }

    async fn send(
        &self,
        message: impl Into<godwit_wire::pager::ToPagerBody>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<()> {
        self.shared.socket.send(message, fds).await.map_err(failed("tell the pager"))
    }

    fn number(&self) -> Result<u64> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let number = *next;
        if number >= FIRST_CHILD {
            return Err(Error::Refused("too many processes for one pager".into()));
        }
        *next += 1;
        Ok(number)
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        // Closes the last copy of our end with it: the pager sees that it is over.
        self.listening.abort();
    }
}

impl Shared {
    fn kept(&self) -> MutexGuard<'_, BTreeMap<u64, OwnedFd>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pidfd(task: &Task) -> Result<OwnedFd> {
    let pid = i32::try_from(task.pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Error::Refused(format!("{} is no pid", task.pid)))?;
    let attempt = format!("open the pidfd of task {}", task.pid);
    pidfd_open(pid, PidfdFlags::empty()).map_err(Error::io(attempt))
}

fn failed(attempt: &'static str) -> impl FnOnce(WireError) -> Error {
    move |why| Error::Unavailable(format!("{attempt}: {why}"))
}

fn gone() -> Refusal {
    Refusal::new(Code::Internal, "the pager ended before the memory was complete")
}

#[cfg(test)]
mod tests;
