//! What only a pod's cluster knows of it, and a checkpoint has to.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use godwit_types::{Outcome, PodKey};

/// Who knows it, of the pod of a uid.
pub trait Knows: Send + Sync {
    /// Whether the container of a name is an ephemeral one (`kubectl debug`): whoever continues a pod has not the same, so it is not
    /// checkpointed while one runs.
    fn is_ephemeral(&self, pod: &str, container: &str) -> bool;

    /// How long the pod may be frozen, and its kubelet starts none of its containers anew for that. `None`: as long as may be.
    fn bears(&self, pod: &str) -> Option<Duration>;
}

/// The cluster of a node's pods; without one nobody knows anything.
#[derive(Default)]
pub struct Cluster(OnceLock<Arc<dyn Knows>>);

impl Cluster {
    /// From now on it is asked.
    pub fn told_by(&self, cluster: Arc<dyn Knows>) {
        // Said once, when the agent starts.
        let _ = self.0.set(cluster);
    }

    pub(crate) fn is_ephemeral(&self, pod: &PodKey, container: &str) -> bool {
        self.0.get().is_some_and(|cluster| cluster.is_ephemeral(pod.as_str(), container))
    }

    /// The longest freeze of a checkpoint, of at most so long. A kubelet that stops a pod probes it no more.
    pub(crate) fn longest_freeze(
        &self,
        pod: &PodKey,
        outcome: Outcome,
        at_most: Duration,
    ) -> Duration {
        let bears = self.0.get().and_then(|cluster| cluster.bears(pod.as_str()));
        match outcome {
            Outcome::Run => bears.map_or(at_most, |bears| bears.min(at_most)),
            Outcome::Stop | Outcome::Offer => at_most,
        }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("told", &self.0.get().is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Impatient;

    impl Knows for Impatient {
        fn is_ephemeral(&self, _: &str, container: &str) -> bool {
            container == "debugger"
        }

        fn bears(&self, _: &str) -> Option<Duration> {
            Some(Duration::from_secs(2))
        }
    }

    #[test]
    fn a_pod_that_runs_on_is_frozen_no_longer_than_its_kubelet_bears() {
        let (cluster, pod) = (Cluster::default(), PodKey::new("uid").unwrap());
        let longest = |cluster: &Cluster, outcome, seconds| {
            cluster.longest_freeze(&pod, outcome, Duration::from_secs(seconds)).as_secs()
        };
        assert_eq!(longest(&cluster, Outcome::Run, 10), 10);
        cluster.told_by(Arc::new(Impatient));
        assert_eq!(longest(&cluster, Outcome::Run, 10), 2);
        assert_eq!(longest(&cluster, Outcome::Run, 1), 1);
        assert_eq!(longest(&cluster, Outcome::Stop, 10), 10);
        assert!(cluster.is_ephemeral(&pod, "debugger") && !cluster.is_ephemeral(&pod, "main"));
    }
}
