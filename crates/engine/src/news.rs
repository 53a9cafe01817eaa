//! What happens to pods, for whoever tells their users: operations that begin and end, whoever asked for them.
//!
//! Nobody need listen, and who listens too slowly misses some: what must not be lost is in the store.

use godwit_types::{CheckpointId, CheckpointReport, Code, RestoreReport};
use tokio::sync::broadcast;

/// So many are kept for a slow listener.
const KEPT: usize = 256;

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
pub struct Channel(broadcast::Sender<News>);

impl Default for Channel {
    fn default() -> Self {
        Self(broadcast::channel(KEPT).0)
    }
}

impl Channel {
    /// Tells whoever listens.
    pub(crate) fn tell(&self, pod: &str, what: What) {
        // Nobody may listen.
        let _ = self.0.send(News { pod: pod.to_owned(), what });
    }

    /// All that is told from now on.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<News> {
        self.0.subscribe()
    }
}
