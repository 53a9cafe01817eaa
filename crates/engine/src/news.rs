//! What happens to pods, for whoever tells their users: operations that begin and end, whoever asked for them.
//!
//! Nobody need listen, and who listens too slowly misses some: what must not be lost is in the store.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use godwit_types::{CheckpointId, CheckpointReport, Code, RestoreReport};
use godwit_wire::api::PastFailure;
use jiff::Timestamp;
use tokio::sync::broadcast;

/// So many are kept for a slow listener.
const KEPT: usize = 256;
/// So many failures are remembered.
const FAILURES: usize = 16;

/// Something happened to a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct News {
    /// [`godwit_types::Owner::pod_uid`].
    pub pod: String,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// A checkpoint begins.
    CheckpointStarted,
    /// It is durable.
    CheckpointCompleted(Box<CheckpointReport>),
    /// It did not take place.
    CheckpointFailed(Why),
    /// A point is being restored.
    RestoreStarted(CheckpointId),
    /// The pod runs from there.
    RestoreSucceeded(Box<RestoreReport>),
    /// It does not.
    RestoreFailed(Why),
    /// There was a point, and the pod starts from its image.
    StartedFromImage(Why),
}

/// Why something did not take place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// Its kind.
    pub code: Code,
    /// Its name in one word, where it has one.
    pub reason: Option<&'static str>,
    /// A sentence.
    pub told: String,
}

/// Where news are told and heard.
#[derive(Debug, Clone)]
pub struct Channel {
    told: broadcast::Sender<News>,
    failures: Arc<Mutex<VecDeque<PastFailure>>>,
}

impl Default for Channel {
    fn default() -> Self {
        Self { told: broadcast::channel(KEPT).0, failures: Arc::default() }
    }
}

impl Channel {
    /// Tells whoever listens.
    pub(crate) fn tell(&self, pod: &str, what: What) {
        let failed = match &what {
            What::CheckpointFailed(why) => Some(("checkpoint", why)),
            What::RestoreFailed(why) => Some(("restore", why)),
            _ => None,
        };
        if let Some((kind, why)) = failed {
            self.remember(PastFailure {
                at: Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                kind: kind.to_owned(),
                pod: pod.to_owned(),
                told: why.told.clone(),
            });
        }
        // Nobody may listen.
        let _ = self.told.send(News { pod: pod.to_owned(), what });
    }

    /// All that is told from now on.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<News> {
        self.told.subscribe()
    }

    /// The last failures, newest first.
    #[must_use]
    pub fn failures(&self) -> Vec<PastFailure> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn remember(&self, failure: PastFailure) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.truncate(FAILURES - 1);
        failures.push_front(failure);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_failures_are_remembered_and_nothing_else() {
        let news = Channel::default();
        news.tell("web", What::CheckpointStarted);
        assert!(news.failures().is_empty());
        for n in 0..20 {
            let why =
                Why { code: Code::Refused, reason: None, told: format!("for the {n}th time") };
            news.tell("web", What::CheckpointFailed(why));
        }
        let kept = news.failures();
        assert_eq!((kept.len(), kept[0].told.as_str()), (FAILURES, "for the 19th time"));
        assert_eq!((kept[0].kind.as_str(), kept[0].pod.as_str()), ("checkpoint", "web"));
    }
}
