//! The agent looks at its pods: all of them before it serves people, then each minute.
//!
//! Owns: finding the shims of this node, and one look at each. What is sealed or committing is settled, a zombie is killed,
//! a `cold` that is owed is written: all decided by [`godwit_ownership::Look`].

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use futures::future::join_all;
use godwit_ownership::message::{Before, Holds, Status};
use godwit_ownership::state::ColdReason;
use godwit_ownership::{Ending, Entry, Event, Fence, Refusal, ToAgent, ToShim};
use godwit_ownership::{Look, LookSpec};
use godwit_store::Clock;
use godwit_types::{Nonce, PodKey, names};
use godwit_wire::shim_op::{
    self, AbortHeld, FromShimBody, Moved, PodState, ResumeHeld, Stopped, ToShimBody, Unseal,
    WriteFence,
};
use godwit_wire::{WireError, parse};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::checkpoint::peer::{bytes, lineage_at, unix_ms};
use crate::driver::{Driver, Peer, Stop};
use crate::gone;
use crate::log::StoreLog;
use crate::node::Node;
use crate::shim::{Shim, ShimError};

/// Between two looks at the same pod.
const EVERY: Duration = Duration::from_secs(60);
/// Longest look of an agent that starts. A slot that cannot be settled yet (its store is away) is asked for until it can; all other
/// pods are served before.
const AT_START: Duration = Duration::from_secs(20);

/// Why a pod could not be looked at; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// Its shim.
    #[error(transparent)]
    Shim(#[from] ShimError),
    /// A message of its shim.
    #[error("the shim's status cannot be read")]
    Wire(#[from] WireError),
    /// Its fence or an entry.
    #[error("what says who may run the pod cannot be read")]
    Fence(#[from] godwit_ownership::OwnershipError),
    /// Its store is away, or not configured any more.
    #[error(transparent)]
    Store(#[from] crate::stores::NoStore),
}

/// The pods whose shims listen on this node.
#[must_use]
pub fn shims(directory: &Path) -> Vec<PodKey> {
    let Ok(items) = std::fs::read_dir(directory) else { return Vec::new() };
    let names = items.flatten().filter_map(|item| item.file_name().into_string().ok());
    names.filter_map(|name| PodKey::new(name.strip_suffix(".sock")?).ok()).collect()
}

/// Looks at every pod once, before people are served.
pub async fn first(node: &Node) {
    all(node, AT_START).await;
}

/// Looks at all pods beside each other, and at what pods that are gone have left.
async fn all(node: &Node, patience: Duration) {
    let pods = shims(Path::new(names::SHIM_SOCKETS));
    join_all(pods.iter().map(|key| one_and_tell(node, key, patience))).await;
    gone::all(node).await;
}

/// Looks at one pod, if nobody is at work for it: whoever is settles it himself, or is looked after later. Given up for an operation,
/// it begins again after that.
async fn one_and_tell(node: &Node, key: &PodKey, patience: Duration) {
    let looked = async {
        while let Some(looking) = node.pods.look(key) {
            if let Some(looked) = looking.unless_wanted(one(node, key)).await {
                return looked;
            }
            node.pods.idle(key).await;
        }
        Ok(Ending::Kept)
    };
    match timeout(patience, looked).await {
        Ok(Ok(ending)) => tracing::debug!(pod = %key, ?ending, "looked"),
        Ok(Err(LookError::Shim(ShimError::NoShim { .. }))) => {}
        Ok(Err(error)) => {
            tracing::warn!(pod = %key, error = %error, "a pod could not be looked at")
        }
        // To its machine this is the agent's death: the next look goes on.
        Err(_) => tracing::warn!(pod = %key, "a pod is not settled yet; it is looked at again"),
    }
}

/// Looks at every pod each minute, until cancelled.
pub async fn forever(node: &Node, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.tick().await;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        all(node, EVERY).await;
    }
}

/// Looks at one pod, for which nobody else is at work.
///
/// # Errors
/// [`LookError`]; nothing was changed, or what was changed is settled by the next look.
async fn one(node: &Node, key: &PodKey) -> Result<Ending, LookError> {
    let shim = Shim::connect(key).await?;
    let status = shim.attach().await?;
    if status.fence.is_empty() {
        return Ok(Ending::Fine);
    }
    let fence = Fence::decode(&status.fence)?;
    let store = node.store(Some(&fence.at.store))?.1;
    let (limit, age) = (store.identity().horizon() / 2, age(&status, &**store.clock())?);
    let log = StoreLog::new(store.tenant(&fence.at.tenant), &fence.at.lineage);
    let spec = LookSpec {
        cluster: node.identity.cluster.clone(),
        node: node.identity.node.clone(),
        epoch: node.identity.epoch,
        nonce: Nonce::mint(),
        at_ms: unix_ms(),
        old: age > limit,
    };
    let mut peer = LookPeer { shim, fence, held_op: held_op(&status) };
    let driver = Driver::new(Look::new(spec), &log, &mut peer, Duration::MAX);
    let mut driver = driver.too_old_after(limit.saturating_sub(age), store.clock());
    match driver.feed(Event::Begin).await {
        Stop::Done(ending) => Ok(ending),
        Stop::Examine | Stop::Ready | Stop::Prepare(_) => Ok(Ending::Kept),
    }
}

/// How long ago the operation began that the pod is sealed or committing for; at most since boot, for no pod outlives one. So much
/// it is, too, if the time of day, which is all that an earlier agent has left, was set back meanwhile.
fn age(status: &shim_op::Status, clock: &dyn Clock) -> Result<Duration, LookError> {
    let sealed = status.seal.as_ref().map(|seal| &seal.entry);
    let Some(bytes) = sealed.or(status.committing.as_ref().map(|c| &c.entry)) else {
        return Ok(Duration::ZERO);
    };
    let began = UNIX_EPOCH.checked_add(Duration::from_millis(Entry::decode(bytes)?.at_ms));
    let age = began.and_then(|began| clock.now().duration_since(began).ok());
    let most = clock.since_boot();
    Ok(age.unwrap_or(most).min(most))
}

fn held_op(status: &shim_op::Status) -> String {
    status.committing.as_ref().map(|c| c.op.clone()).unwrap_or_default()
}

struct LookPeer {
    shim: Shim,
    fence: Fence,
    held_op: String,
}

impl LookPeer {
    async fn converse(&self, message: ToShim) -> Result<ToAgent, LookError> {
        if message == ToShim::Attach {
            return Ok(ToAgent::Status(Box::new(understand(self.shim.attach().await?)?)));
        }
        let Some(body) = self.translate(message) else {
            return Ok(ToAgent::Refused(Refusal::Busy));
        };
        match self.shim.tell(body).await? {
            FromShimBody::Done(_) => Ok(ToAgent::Done),
            other => Err(other.unexpected("Done").into()),
        }
    }

    fn translate(&self, message: ToShim) -> Option<ToShimBody> {
        let op = self.held_op.clone();
        Some(match message {
            ToShim::Hold { entry } => ToShimBody::WriteFence(WriteFence {
                at: Some(lineage_at(&self.fence.at)),
                entry: bytes(&entry),
                stands: false,
            }),
            ToShim::Unseal { entry, unwritten } => {
                ToShimBody::Unseal(Unseal { entry: bytes(&entry), unwritten })
            }
            ToShim::Stopped { entry } => ToShimBody::Stopped(Stopped { entry: bytes(&entry) }),
            ToShim::Moved { entry } => {
                let to = entry.state.owner().map(|o| o.node.clone()).unwrap_or_default();
                ToShimBody::Moved(Moved { entry: bytes(&entry), to })
            }
            ToShim::Resume { entry } => {
                ToShimBody::ResumeHeld(ResumeHeld { op, entry: bytes(&entry) })
            }
            ToShim::Abort { why } => {
                let told = why.told(&self.fence.at.lineage.to_string());
                let why = Some(godwit_wire::Refusal::new(why.code(), told));
                ToShimBody::AbortHeld(AbortHeld { op, why })
            }
            _ => return None,
        })
    }
}

#[async_trait]
impl Peer for LookPeer {
    async fn tell(&mut self, message: ToShim) -> Option<ToAgent> {
        // `ResumeHeld` is answered by Done, which to the machine is that the tasks run.
        let resumes = matches!(message, ToShim::Resume { .. });
        match self.converse(message).await {
            Ok(ToAgent::Done) if resumes => Some(ToAgent::Resumed),
            Ok(answer) => Some(answer),
            Err(LookError::Shim(ShimError::Refused(refusal))) => {
                tracing::info!(why = refusal.reason, "a shim refused");
                Some(ToAgent::Refused(Refusal::Busy))
            }
            Err(error) => {
                tracing::warn!(error = %error, "a look was interrupted");
                None
            }
        }
    }

    async fn hear(&mut self) -> Option<ToAgent> {
        let error = self.shim.ended().await;
        tracing::debug!(error = %error, "a looked-at shim spoke");
        None
    }

    async fn prove_dead(&mut self) -> bool {
        false
    }

    async fn remove_fence(&mut self) {}
}

fn understand(status: shim_op::Status) -> Result<Status, LookError> {
    let fence = match status.fence.as_slice() {
        [] => None,
        bytes => Some(Fence::decode(bytes)?),
    };
    Ok(Status {
        pod_uid: status.pod_uid.clone(),
        incarnation: parse("incarnation", &status.incarnation)?,
        fence,
        holds: holds(&status)?,
    })
}

fn holds(status: &shim_op::Status) -> Result<Holds, LookError> {
    if let Some(seal) = &status.seal {
        let entry = Box::new(Entry::decode(&seal.entry)?);
        return Ok(Holds::Sealed { entry, reclaim_after_s: seal.reclaim_after_s });
    }
    if let Some(committing) = &status.committing {
        let entry = Box::new(Entry::decode(&committing.entry)?);
        return Ok(Holds::Committing { entry });
    }
    Ok(match status.state() {
        PodState::Running
        | PodState::Paused
        | PodState::Checkpointing
        | PodState::Frozen
        | PodState::Hydrating => Holds::Running { owes_cold: owes(status) },
        PodState::Restoring | PodState::Held => Holds::Starting,
        PodState::Created
        | PodState::Moved
        | PodState::Exited
        | PodState::Sealed
        | PodState::Unspecified => Holds::Nothing,
    })
}

fn owes(status: &shim_op::Status) -> Option<Before> {
    let owed = status.owes_cold.as_ref()?;
    let reason = serde_json::from_value(serde_json::Value::String(owed.reason.clone()));
    Some(Before {
        container: owed.container.clone(),
        reason: reason.unwrap_or(ColdReason::Exited),
        lived_s: owed.lived_s,
    })
}

#[cfg(test)]
mod tests {
    use godwit_ownership::{Basis, Kind, Pen};
    use godwit_store::ManualClock;
    use godwit_types::{Incarnation, Owner};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// A pod that is sealed for an operation that began then.
    fn sealed(began: Duration) -> shim_op::Status {
        let me = Owner {
            cluster: "_none".to_owned(),
            node: "n1".to_owned(),
            epoch: 0,
            pod_uid: "default+web".to_owned(),
            incarnation: Incarnation::from(1),
        };
        let at_ms = u64::try_from(began.as_millis()).unwrap();
        let pen = Pen { me, op: None, nonce: Nonce::from(1), at_ms };
        let entry = Basis::default().next(&pen, Kind::Start { forked_from: None }).unwrap();
        let seal = shim_op::SealRecord { entry: entry.encode().unwrap(), ..Default::default() };
        shim_op::Status { seal: Some(seal), ..shim_op::Status::default() }
    }

    /// A machine that has run for two hours; the time of day is another matter.
    #[derive(Debug)]
    struct Young(ManualClock);

    impl Clock for Young {
        fn now(&self) -> std::time::SystemTime {
            self.0.now()
        }

        fn since_boot(&self) -> Duration {
            2 * HOUR
        }
    }

    #[test]
    fn what_is_sealed_is_as_old_as_its_operation_and_no_older_than_its_boot() {
        let clock = ManualClock::new();
        let now = clock.since_boot();
        let of = |status: &shim_op::Status| age(status, &Young(ManualClock::new())).unwrap();
        assert_eq!(of(&sealed(now - HOUR)), HOUR);
        assert_eq!(of(&sealed(now - 100 * HOUR)), 2 * HOUR);
        assert_eq!(of(&sealed(now + HOUR)), 2 * HOUR, "the time of day was set back");
        assert_eq!(of(&sealed(Duration::ZERO)), 2 * HOUR);
        assert_eq!(of(&shim_op::Status::default()), Duration::ZERO);
    }
}
