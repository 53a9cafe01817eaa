//! The network namespace of a pod: silent while CRIU reads or makes its sockets, one after the other. The kernel goes on with connections
//! of frozen tasks by itself: what it would acknowledge, send again or probe for in between, one end's image would have and the other's not.
//!
//! Every pod is silent inwards, for those of its connections of which both ends are in it. One whose connections to others are kept
//! (`godwit.dev/tcp: keep`) is silent as a whole, while nobody may answer for its address.
//!
//! ```text
//! source   every task is frozen ─► silent ─► CRIU reads the sockets ─► seal ─► killed: no farewell leaves, and no byte is acknowledged
//!                                    └─► thaw: heard again, first                                         that the images do not have
//! target   sandbox or restore ─► silent ─► CRIU makes the sockets ─► heard again ─► the tasks run
//!          what the peers send meanwhile is not answered by a reset: they send it again
//! ```
//! Owns: what is dropped, and that it is not any more before a task of ours runs there. Silence goes with the namespace; nothing else of
//! the node's network is touched, and never the network of the node itself.

mod orphans;
mod silence;
mod silenced;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use godwit_netlink::nf_tables::is_missing;
use godwit_netlink::{NETFILTER, Netlink, SOCK_DIAG};
use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;
use tracing::warn;

use crate::container::Container;
use crate::error::{Error, Result};
use crate::spec::Spec;
use silenced::Turn;
pub(crate) use silenced::{OPENS, Silenced};

/// The shim's own: the node's.
const NODES: &str = "/proc/self/ns/net";

/// Device and inode of a namespace: two are one if they are the same.
type Id = (u64, u64);

/// An open network namespace.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    namespace: Arc<OwnedFd>,
    id: Id,
    path: PathBuf,
}

/// What falls silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    /// All that comes and goes.
    Whole,
    /// What its own processes say to each other.
    Inward,
}

/// What a network is like to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Was {
    /// Packets come and go.
    Heard,
    /// None does.
    Silent,
}

impl PartialEq for Network {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

/// It could not be silenced.
#[derive(Debug)]
struct Unsilenced {
    why: Error,
    /// The kernel was asked: it may be silent all the same.
    asked: bool,
}

impl Network {
    /// The one that a container joins by a path, unless that is the node's.
    ///
    /// # Errors
    /// The namespace cannot be opened.
    pub(crate) fn joined(spec: &Spec) -> Result<Option<Self>> {
        let Some(path) = spec.namespace("network").and_then(|network| network.path.as_ref()) else {
            return Ok(None);
        };
        let network = Self::open(path)?;
        Ok(if network.is_nodes()? { None } else { Some(network) })
    }

    /// The one that a container lives in, unless that is the node's; `None`, too: it does not live any more.
    ///
    /// # Errors
    /// Its namespace cannot be opened.
    pub(crate) fn of(container: &Container) -> Result<Option<Self>> {
        let Some(pid) = container.init_pid() else { return Ok(None) };
        let network = match Self::open(Path::new(&format!("/proc/{pid}/ns/net"))) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            opened => opened?,
        };
        Ok(if network.is_nodes()? { None } else { Some(network) })
    }

    fn open(path: &Path) -> Result<Self> {
        let attempt = format!("open {}", path.display());
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let namespace = fd.map_err(Error::io(attempt.clone()))?;
        let found = rustix::fs::fstat(&namespace).map_err(Error::io(attempt))?;
        let id = (found.st_dev, found.st_ino);
        Ok(Self { namespace: Arc::new(namespace), id, path: path.to_owned() })
    }

    fn is_nodes(&self) -> Result<bool> {
        Ok(*self == Self::open(Path::new(NODES))?)
    }

    /// What it is like now.
    ///
    /// # Errors
    /// It cannot be told.
    pub(crate) async fn was(&self) -> Result<Was> {
        self.there("look at", || match look() {
            // A kernel that cannot has never done it.
            Err(why) if is_missing(&why) => Ok(Was::Heard),
            seen => seen,
        })
        .await
    }

    /// From now on nothing of this is heard. Idempotent.
    ///
    /// # Errors
    /// [`Unsilenced`].
    async fn silence(&self, silence: Silence, turn: Turn) -> std::result::Result<(), Unsilenced> {
        let asked = Arc::new(AtomicBool::new(false));
        let asks = Arc::clone(&asked);
        let begin = move || {
            let _turn = turn;
            let mut filter = Netlink::connect(NETFILTER)?;
            asks.store(true, Ordering::SeqCst);
            silence::begin(&mut filter, silence)
        };
        let silenced = match self.there("silence", begin).await {
            // Connections that rest, as most do, come to no harm. Of many messages EINVAL says that one is wrong.
            Err(Error::Io { source, .. })
                if silence == Silence::Inward
                    && is_missing(&source)
                    && source.kind() != io::ErrorKind::InvalidInput =>
            {
                warn!(%source, "no nf_tables: a pod's connections to itself may break");
                Ok(())
            }
            silenced => silenced,
        };
        silenced.map_err(|why| {
            let why = if silence == Silence::Whole { needs_tables(why) } else { why };
            Unsilenced { why, asked: asked.load(Ordering::SeqCst) }
        })
    }

    /// What is left of the connections of an earlier life, whose processes died in silence, is forgotten by the kernel before a new one
    /// begins. Nobody is told. Only for a network that is silent: else it would take from those who have ended what is still to be sent.
    ///
    /// # Errors
    /// The kernel cannot.
    pub(crate) async fn forget_former(&self) -> Result<()> {
        self.there("clear", || orphans::forget(&mut Netlink::connect(SOCK_DIAG)?)).await
    }

    /// It is heard and answers again; then `opened`. Idempotent.
    ///
    /// # Errors
    /// It is not known whether it is heard.
    async fn break_silence(
        &self,
        turn: Turn,
        opened: impl FnOnce() + Send + 'static,
    ) -> Result<()> {
        let end = move || {
            let _turn = turn;
            match silence::end(&mut Netlink::connect(NETFILTER)?) {
                Err(why) if !is_missing(&why) => return Err(why),
                _ => opened(),
            }
            Ok(())
        };
        self.there("open", end).await
    }

    /// Does something in this namespace.
    async fn there<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let namespace = Arc::clone(&self.namespace);
        let (done, outcome) = oneshot::channel();
        let enter = move || {
            let there = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), there)
                .map_err(|why| io::Error::other(format!("it cannot be entered: {why}")))?;
            work()
        };
        // A thread of its own: `setns` changes the calling thread only, and it ends with it. What it has begun it ends, whoever waits.
        let begun = std::thread::Builder::new().spawn(move || drop(done.send(enter())));
        let outcome = match begun {
            Ok(_) => outcome.await.unwrap_or_else(|_| Err(io::Error::other("its thread is gone"))),
            Err(why) => Err(why),
        };
        outcome.map_err(Error::io(format!("{what} the network {}", self.path.display())))
    }
}

/// In the namespace of the calling thread.
fn look() -> io::Result<Was> {
    let there = silence::is_there(&mut Netlink::connect(NETFILTER)?)?;
    Ok(if there { Was::Silent } else { Was::Heard })
}

/// Whether a container may ask for its connections: not in the network of the node, which is never silenced, nor where the kernel cannot.
///
/// # Errors
/// A sentence that says what to do.
pub(crate) async fn check(spec: &Spec) -> Result<()> {
    if !spec.keeps_connections() {
        return Ok(());
    }
    let Some(listed) = spec.namespace("network") else { return Err(of_node()) };
    let network = match &listed.path {
        Some(path) => Network::open(path)?,
        // runc makes it later, on the same kernel.
        None => Network::open(Path::new(NODES))?,
    };
    if listed.path.is_some() && network.is_nodes()? {
        return Err(of_node());
    }
    network.there("look at", look).await.map(drop).map_err(needs_tables)
}

fn of_node() -> Error {
    Error::Refused(
        "godwit.dev/tcp=keep is for a pod with an address of its own, and this one has the node's: leave the annotation away".into(),
    )
}

fn needs_tables(why: Error) -> Error {
    match &why {
        Error::Io { source, .. } if is_missing(source) => Error::Refused(format!(
            "godwit.dev/tcp=keep needs nf_tables, which this node's kernel does not have ({source}): load the module nf_tables, or \
             leave the annotation away"
        )),
        _ => why,
    }
}

#[cfg(test)]
pub(crate) mod tests;
