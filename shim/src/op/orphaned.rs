//! What a killed shim leaves of its operations: the socket, and without Kubernetes the fence of a pod that is gone.
//!
//! Owns nothing that a living shim owns: whoever calls it has seen that nobody serves the pod. The fence is marked on disk first, so
//! that an agent that is away now settles the death later; only an agent that has settled it lets the fence be removed.

use std::time::Duration;

use godwit_ownership::{Fence, Gone};
use godwit_wire::agent_op::TaskGone;

use super::gone::settle;
use super::{Places, server};
use crate::error::{Error, Result};
use crate::fence::FenceFile;
use crate::pod::PodIdentity;

/// How long the agent may take: containerd gives the whole clean-up five seconds.
const SETTLING: Duration = Duration::from_secs(2);

/// Takes away what a dead shim has left for its pod. `proved_dead`: no task of any container of the pod lives; else the fence stays as
/// it is, and the next start under its name proves the death or is refused.
///
/// # Errors
/// The fence cannot be read or written; then it stands as it was.
pub async fn settle_orphaned(places: &Places, pod: &PodIdentity, proved_dead: bool) -> Result<()> {
    let key = pod.key()?;
    server::remove_stale(&places.socket(&key));
    // The pod object of Kubernetes outlives the shim: the kubelet makes its next life, and the fence is for that one.
    if pod.uid.is_some() || !proved_dead {
        return Ok(());
    }
    let file = FenceFile::within(&places.fences, &key);
    let Some(mut fence) = file.read()? else { return Ok(()) };
    // Nobody asked for this end, unless the shim has noted so before it ended.
    let wanted = *fence.gone.get_or_insert(Gone::Lost) == Gone::Wanted;
    file.write(&fence)?;
    let told = TaskGone { pod_uid: key.to_string(), fence: encoded(&fence)?, wanted };
    let settled = tokio::time::timeout(SETTLING, settle(&places.agent, told)).await;
    if matches!(settled, Ok(Some(true))) {
        return file.remove();
    }
    Ok(())
}

fn encoded(fence: &Fence) -> Result<Vec<u8>> {
    fence.encode().map_err(|why| Error::Invalid(why.to_string()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use godwit_ownership::FenceState;
    use godwit_ownership::fence::LineageRef;
    use godwit_types::{Incarnation, LineageName, Tenant};

    use super::*;

    fn places(dir: &Path) -> Places {
        let [fences, shims, agent] = ["fences", "shims", "agent.sock"].map(|name| dir.join(name));
        Places { fences, shims, agent }
    }

    fn pod(uid: Option<&str>) -> PodIdentity {
        let uid = uid.map(str::to_owned);
        PodIdentity { namespace: "default".into(), group: "web".into(), uid }
    }

    fn owned() -> Fence {
        let lineage = LineageName::new("uid/x").unwrap();
        Fence {
            at: LineageRef { store: "default".into(), tenant: Tenant::node(), lineage },
            incarnation: Incarnation::mint(),
            state: FenceState::Owned,
            op: None,
            lived: true,
            consumed: None,
            slot: None,
            seen: None,
            gone: None,
        }
    }

    #[tokio::test]
    async fn the_fence_of_a_dead_shims_container_waits_for_the_agent_and_says_lost() {
        let dir = tempfile::tempdir().unwrap();
        let (places, pod, fence) = (places(dir.path()), pod(None), owned());
        let file = FenceFile::within(&places.fences, &pod.key().unwrap());
        file.write(&fence).unwrap();
        settle_orphaned(&places, &pod, true).await.unwrap();
        let marked = Fence { gone: Some(Gone::Lost), ..fence };
        assert_eq!(file.read().unwrap(), Some(marked));
    }

    #[tokio::test]
    async fn an_end_that_was_wanted_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let (places, pod) = (places(dir.path()), pod(None));
        let file = FenceFile::within(&places.fences, &pod.key().unwrap());
        let wanted = Fence { gone: Some(Gone::Wanted), ..owned() };
        file.write(&wanted).unwrap();
        settle_orphaned(&places, &pod, true).await.unwrap();
        assert_eq!(file.read().unwrap(), Some(wanted));
    }

    #[tokio::test]
    async fn a_pod_that_may_live_is_not_marked_as_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (places, pod, fence) = (places(dir.path()), pod(None), owned());
        let file = FenceFile::within(&places.fences, &pod.key().unwrap());
        file.write(&fence).unwrap();
        settle_orphaned(&places, &pod, false).await.unwrap();
        assert_eq!(file.read().unwrap(), Some(fence));
    }

    #[tokio::test]
    async fn the_fence_of_a_kubernetes_pod_outlives_its_shim_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (places, pod, fence) = (places(dir.path()), pod(Some("uid-1")), owned());
        let file = FenceFile::within(&places.fences, &pod.key().unwrap());
        file.write(&fence).unwrap();
        settle_orphaned(&places, &pod, true).await.unwrap();
        assert_eq!(file.read().unwrap(), Some(fence));
    }

    #[tokio::test]
    async fn a_pod_without_a_fence_gets_none() {
        let dir = tempfile::tempdir().unwrap();
        settle_orphaned(&places(dir.path()), &pod(None), true).await.unwrap();
        assert!(!dir.path().join("fences").exists());
    }
}
