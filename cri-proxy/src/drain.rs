//! How calls learn that the process ends, and the process that calls have ended.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Shared by all calls.
#[derive(Debug, Clone, Default)]
pub(crate) struct Drain {
    /// No new calls; clients are told to make them elsewhere. Streams that are quiet end.
    leaving: CancellationToken,
    /// What is left ends.
    cut: CancellationToken,
    /// Calls whose answer has not begun.
    waiting: Arc<watch::Sender<usize>>,
}

/// A call whose answer has not begun, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Waiting(Arc<watch::Sender<usize>>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

impl Drain {
    pub(crate) fn waiting(&self) -> Waiting {
        self.waiting.send_modify(|waiting| *waiting += 1);
        Waiting(Arc::clone(&self.waiting))
    }

    /// Until no call waits for the beginning of its answer.
    pub(crate) async fn nobody_waits(&self) {
        let mut waiting = self.waiting.subscribe();
        // It fails when the sender is gone, which we hold.
        let _ = waiting.wait_for(|waiting| *waiting == 0).await;
    }

    pub(crate) fn leave(&self) {
        self.leaving.cancel();
    }

    pub(crate) async fn leaving(&self) {
        self.leaving.cancelled().await;
    }

    pub(crate) fn cut_all(&self) {
        self.cut.cancel();
    }

    pub(crate) async fn cut(&self) {
        self.cut.cancelled().await;
    }
}
