//! Pods that are gone: their death goes into the log, then their fence from the disk. Decided by [`Keeper`].
//!
//! Mostly a shim tells of it and removes the fence itself. What is found here on disk belongs to pods that went while the agent, or
//! their store, was away: until such a death is settled nothing starts under their name.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::future::join_all;
use godwit_ownership::fence::MAX_FENCE;
use godwit_ownership::{Event, Fence, Gone, Keeper, KeeperSpec, Pen};
use godwit_types::{Nonce, Owner, PodKey, names};
use tokio::time::timeout;

use crate::checkpoint::peer::unix_ms;
use crate::containerd;
use crate::driver::{Driver, Log, Peer};
use crate::log::StoreLog;
use crate::node::Node;
use crate::shim::{Shim, ShimError};
use crate::stores::NoStore;

/// Whoever cleans up after a shim that was killed has ended by then: containerd gives it five seconds.
const QUIET: Duration = Duration::from_secs(10);
/// Longest work at one death. A store that takes no entry (its disk is full) would be asked for ever; it is asked again by a later look.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest work at what is found on disk: other pods wait for their look meanwhile, and all of them for an agent that starts.
const ONE_LOOK: Duration = Duration::from_secs(20);
/// So many are settled at once when pods are gone.
const AT_ONCE: usize = 8;

/// A pod that is gone. No task of it lives: that is proved before its fence says `gone`, nothing starts under such a fence, and a shim
/// proves it before it tells of a death.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct GonePod {
    /// [`godwit_types::Owner::pod_uid`].
    pub(crate) uid: String,
    /// Its fence, as it is on disk.
    pub(crate) fence: Fence,
    /// Its end was wanted.
    pub(crate) wanted: bool,
    /// For how long its fence has been as it is. By the time of day, which alone counts through reboots: if it was set forward, a fence
    /// may go although its slot is open, and in the worst case the lineage is owned by nobody until somebody takes it by force.
    pub(crate) fence_age: Duration,
}

/// Writes what follows from a death. Returns whether the fence may go: not if it is not settled within [`PATIENCE`].
///
/// # Errors
/// Its store is away, or not configured any more.
pub(crate) async fn settle(node: &Node, pod: GonePod) -> Result<bool, NoStore> {
    let store = node.store(Some(&pod.fence.at.store))?.1;
    let log = StoreLog::new(store.tenant(&pod.fence.at.tenant), &pod.fence.at.lineage);
    let me = node.owner(&pod.uid, pod.fence.incarnation);
    Ok(keep(&log, pod.spec(me, store.identity().horizon())).await)
}

impl GonePod {
    /// A PUT lands within T/2 after it was sent, or never.
    fn spec(self, me: Owner, horizon: Duration) -> KeeperSpec {
        let pen = Pen { me, op: None, nonce: Nonce::mint(), at_ms: unix_ms() };
        let slot_expired = self.fence_age > horizon / 2;
        KeeperSpec { pen, fence: self.fence, wanted: self.wanted, slot_expired }
    }
}

/// Whether the fence may go.
async fn keep(log: &dyn Log, spec: KeeperSpec) -> bool {
    let pod = spec.pen.me.pod_uid.clone();
    let mut dead = Dead { remove_fence: false };
    let mut driver = Driver::new(Keeper::new(spec), log, &mut dead, Duration::MAX);
    // Given up, it is to the log as if this agent had died.
    match timeout(PATIENCE, driver.feed(Event::Begin)).await {
        Ok(ending) => tracing::debug!(pod, ?ending, "the death of tasks"),
        Err(_) => {
            tracing::warn!(pod, "the store takes no entry about a death; it is asked again later");
        }
    }
    dead.remove_fence
}

/// Which pods of the kubelet exist.
#[async_trait]
pub trait Pods: Sync {
    /// Whether one of this uid was told of: then there is no question.
    fn is_known(&self, uid: &str) -> bool;
    /// Whether none of this uid exists now; not if that cannot be known.
    async fn is_gone(&self, uid: &str) -> bool;
}

/// Settles what pods of the kubelet have left that do not exist any more, and whose tasks have all ended. Returns how many are still
/// to be settled.
///
/// A pod that was deleted is over. One that others come after under its name is not: its lineage goes on from its last good point.
pub async fn bury(node: &Node, pods: &dyn Pods) -> usize {
    let Ok(items) = std::fs::read_dir(Path::new(names::FENCES)) else { return 0 };
    let buried = items.flatten().filter_map(|item| {
        let path = item.path();
        let name = path.file_name().and_then(|name| name.to_str())?;
        // Those of containers without Kubernetes are their shims' business.
        let is_gone = !name.contains('+') && !pods.is_known(name);
        let pod = is_gone.then(|| of_deleted(&path))??;
        Some(async move {
            pod.is_over(node).await
                && pods.is_gone(pod.key.as_str()).await
                && pod.settle_and_tell(node).await
        })
    });
    // Some at once: those of a store that is away do not hold up others' for long.
    let buried = futures::stream::iter(buried.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
    buried.filter(|buried| std::future::ready(!buried)).count().await
}

/// `None` if it is no fence.
fn of_deleted(path: &Path) -> Option<LeftOver> {
    let (key, fence, age) = fence_of(path)?;
    let is_one_of_many = fence.at.lineage.as_str().starts_with("uid/");
    let gone = fence.gone.unwrap_or(if is_one_of_many { Gone::Wanted } else { Gone::Lost });
    Some(LeftOver { key, path: path.to_owned(), fence, gone, age })
}

/// Settles every death that nobody is left to settle. Ends within [`ONE_LOOK`]; what is not settled by then is left to the next look.
pub(crate) async fn all(node: &Node) {
    each(left_over(Path::new(names::FENCES)), node).await;
}

/// Whom a fence on disk is settled with.
#[async_trait]
trait World: Sync {
    /// Whether no shim serves this pod.
    async fn has_no_shim(&self, key: &PodKey) -> bool;
    /// See [`settle`].
    async fn settle(&self, pod: GonePod) -> Result<bool, NoStore>;
}

#[async_trait]
impl World for Node {
    async fn has_no_shim(&self, key: &PodKey) -> bool {
        matches!(Shim::connect(key).await, Err(ShimError::NoShim { .. }))
    }

    async fn settle(&self, pod: GonePod) -> Result<bool, NoStore> {
        settle(self, pod).await
    }
}

/// Settles them beside each other, so that none waits for another's store.
async fn each(left: Vec<LeftOver>, world: &dyn World) {
    let works = left.iter().map(|one| one.settle_and_tell(world));
    if timeout(ONE_LOOK, join_all(works)).await.is_err() {
        tracing::warn!("not everything that pods have left is settled; it is tried again later");
    }
}

/// The fence of a pod that is gone.
struct LeftOver {
    key: PodKey,
    path: PathBuf,
    fence: Fence,
    gone: Gone,
    age: Duration,
}

/// Fences of pods that are gone, except those that somebody may be at work with.
fn left_over(directory: &Path) -> Vec<LeftOver> {
    let Ok(items) = std::fs::read_dir(directory) else { return Vec::new() };
    let paths = items.flatten().map(|item| item.path());
    paths.filter_map(of_file).filter(|left| left.age > QUIET).collect()
}

/// `None` if it is no fence, or its pod is not gone.
fn of_file(path: PathBuf) -> Option<LeftOver> {
    let (key, fence, age) = fence_of(&path)?;
    let gone = fence.gone?;
    Some(LeftOver { key, path, fence, gone, age })
}

/// A fence, whose it is, and for how long it has been as it is.
fn fence_of(path: &Path) -> Option<(PodKey, Fence, Duration)> {
    let name = path.file_name()?.to_str()?;
    let key = PodKey::new(name).ok()?;
    let (fence, written) = match read(path) {
        Ok(read) => read,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return None,
        Err(why) => {
            tracing::warn!(fence = %path.display(), %why, "a fence cannot be read: nothing starts under its name");
            return None;
        }
    };
    let age = SystemTime::now().duration_since(written).unwrap_or_default();
    Some((key, fence, age))
}

/// A fence and when it was written.
fn read(path: &Path) -> io::Result<(Fence, SystemTime)> {
    let file = File::open(path)?;
    let written = file.metadata()?.modified()?;
    let mut bytes = Vec::new();
    // One more than allowed is refused by who decodes it.
    file.take(MAX_FENCE as u64 + 1).read_to_end(&mut bytes)?;
    let fence = Fence::decode(&bytes).map_err(io::Error::other)?;
    Ok((fence, written))
}

impl LeftOver {
    /// Whether all that it had of processes has ended, and nobody is at work with it.
    async fn is_over(&self, node: &Node) -> bool {
        if self.age <= QUIET || !node.has_no_shim(&self.key).await {
            return false;
        }
        let tasks =
            containerd::has_tasks(&node.containerd, names::CRI_NAMESPACE, self.key.as_str()).await;
        if let Err(error) = &tasks {
            tracing::warn!(pod = %self.key, %error, "whether a deleted pod has ended is not known");
        }
        matches!(tasks, Ok(false))
    }

    /// Whether it is settled.
    async fn settle_and_tell(&self, world: &dyn World) -> bool {
        if !world.has_no_shim(&self.key).await {
            return false;
        }
        let settled = self.settle(world).await;
        match &settled {
            Ok(true) => tracing::info!(pod = %self.key, "settled what a pod has left"),
            Ok(false) => tracing::debug!(pod = %self.key, "a fence is not settled yet"),
            Err(error) => tracing::warn!(pod = %self.key, error, "a fence stays behind"),
        }
        settled == Ok(true)
    }

    /// Returns whether the fence is removed.
    async fn settle(&self, world: &dyn World) -> Result<bool, String> {
        let pod = GonePod {
            uid: self.key.to_string(),
            fence: self.fence.clone(),
            wanted: self.gone == Gone::Wanted,
            fence_age: self.age,
        };
        let may_go = world.settle(pod).await.map_err(|error| error.to_string())?;
        if !may_go {
            return Ok(false);
        }
        self.remove().map_err(|error| error.to_string())
    }

    /// Removes what was settled, and not what somebody has written meanwhile. Durable when it returns; whether it is removed.
    fn remove(&self) -> io::Result<bool> {
        if read(&self.path)?.0 != self.fence {
            return Ok(false);
        }
        std::fs::remove_file(&self.path)?;
        self.path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())?;
        Ok(true)
    }
}

/// A pod that cannot be asked: what is known of its death was said before.
struct Dead {
    remove_fence: bool,
}

#[async_trait]
impl Peer for Dead {
    async fn tell(&mut self, _: godwit_ownership::ToShim) -> Option<godwit_ownership::ToAgent> {
        None
    }

    async fn hear(&mut self) -> Option<godwit_ownership::ToAgent> {
        std::future::pending().await
    }

    async fn prove_dead(&mut self) -> bool {
        true
    }

    async fn remove_fence(&mut self) {
        self.remove_fence = true;
    }
}

#[cfg(test)]
mod tests;
