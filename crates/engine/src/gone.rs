//! Pods that are gone: their death goes into the log, then their fence from the disk. Decided by [`Keeper`].
//!
//! Mostly a shim tells of it and removes the fence itself. What is found here on disk belongs to pods that went while the agent, or
//! their store, was away: until such a death is settled nothing starts under their name.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use godwit_ownership::{Event, Fence, Gone, Keeper, KeeperSpec, Pen};
use godwit_types::{Nonce, PodKey, names};

use crate::checkpoint::peer::unix_ms;
use crate::driver::{Driver, Peer};
use crate::log::StoreLog;
use crate::look::OLD_MS;
use crate::node::Node;
use crate::shim::{Shim, ShimError};
use crate::stores::NoStore;

/// Whoever cleans up after a shim that was killed has ended by then: containerd gives it five seconds.
const QUIET: Duration = Duration::from_secs(10);

/// A pod that is gone.
pub(crate) struct GonePod {
    /// [`godwit_types::Owner::pod_uid`].
    pub(crate) uid: String,
    /// Its fence, as it is on disk.
    pub(crate) fence: Fence,
    /// Its end was wanted.
    pub(crate) wanted: bool,
    /// No task of it lives.
    pub(crate) proved_dead: bool,
    /// See [`KeeperSpec::slot_expired`].
    pub(crate) slot_expired: bool,
}

/// Writes what follows from a death. Returns whether the fence may go.
///
/// # Errors
/// Its store is not configured any more.
pub(crate) async fn settle(node: &Node, pod: GonePod) -> Result<bool, NoStore> {
    let GonePod { uid, fence, wanted, proved_dead, slot_expired } = pod;
    let tenant = node.store(Some(&fence.at.store))?.1.tenant(&fence.at.tenant);
    let log = StoreLog::new(tenant, &fence.at.lineage);
    let pen = Pen {
        me: node.owner(&uid, fence.incarnation),
        op: None,
        nonce: Nonce::mint(),
        at_ms: unix_ms(),
    };
    let spec = KeeperSpec { pen, fence, wanted, slot_expired };
    let mut dead = Dead { proved: proved_dead, remove_fence: false };
    let mut driver = Driver::new(Keeper::new(spec), &log, &mut dead, Duration::MAX);
    let ending = driver.feed(Event::Begin).await;
    tracing::debug!(pod = uid, ?ending, "the death of tasks");
    Ok(dead.remove_fence)
}

/// Settles every death that nobody is left to settle.
pub(crate) async fn all(node: &Node) {
    for left in left_over(Path::new(names::FENCES)) {
        let key = left.key.clone();
        if !matches!(Shim::connect(&key).await, Err(ShimError::NoShim { .. })) {
            continue;
        }
        match left.settle(node).await {
            Ok(removed) => tracing::info!(pod = %key, removed, "settled what a pod has left"),
            Err(error) => tracing::warn!(pod = %key, error, "a fence stays behind"),
        }
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
    paths.filter_map(|path| read(path).ok().flatten()).filter(|left| left.age > QUIET).collect()
}

/// `None` if it is no fence, or its pod is not gone.
fn read(path: PathBuf) -> io::Result<Option<LeftOver>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Ok(key) = PodKey::new(&name) else { return Ok(None) };
    let written = std::fs::metadata(&path)?.modified()?;
    let Ok(fence) = Fence::decode(&std::fs::read(&path)?) else { return Ok(None) };
    let Some(gone) = fence.gone else { return Ok(None) };
    let age = SystemTime::now().duration_since(written).unwrap_or_default();
    Ok(Some(LeftOver { key, path, fence, gone, age }))
}

impl LeftOver {
    /// Returns whether the fence is removed.
    async fn settle(self, node: &Node) -> Result<bool, String> {
        let pod = GonePod {
            uid: self.key.to_string(),
            fence: self.fence.clone(),
            wanted: self.gone == Gone::Wanted,
            // It was when the fence was marked, and nothing starts under such a fence.
            proved_dead: true,
            slot_expired: self.age > Duration::from_millis(OLD_MS),
        };
        let may_go = settle(node, pod).await.map_err(|error| error.to_string())?;
        if may_go {
            remove(&self.path).map_err(|error| error.to_string())?;
        }
        Ok(may_go)
    }
}

/// Durable when it returns.
fn remove(path: &Path) -> io::Result<()> {
    std::fs::remove_file(path)?;
    path.parent().map_or(Ok(()), |directory| std::fs::File::open(directory)?.sync_all())
}

/// A pod that cannot be asked: what is known of its death was said before.
struct Dead {
    proved: bool,
    remove_fence: bool,
}

#[async_trait::async_trait]
impl Peer for Dead {
    async fn tell(&mut self, _: godwit_ownership::ToShim) -> Option<godwit_ownership::ToAgent> {
        None
    }

    async fn hear(&mut self) -> Option<godwit_ownership::ToAgent> {
        std::future::pending().await
    }

    async fn prove_dead(&mut self) -> bool {
        self.proved
    }

    async fn remove_fence(&mut self) {
        self.remove_fence = true;
    }
}
