//! What may end a checkpoint from outside while its bytes are on their way: whoever asked for it, the shim, the freeze's deadline.

use std::pin::pin;
use std::time::{Duration, Instant};

use godwit_capture::Stop;
use tokio_util::sync::CancellationToken;

use super::CheckpointError;
use crate::shim::Shim;

/// A pod that is frozen.
#[derive(Clone, Copy)]
pub(super) struct Freeze<'a> {
    /// Whoever froze it, and thaws it by itself.
    pub(super) shim: &'a Shim,
    /// For how long it may be frozen.
    pub(super) patience: Duration,
    /// Since when it is.
    pub(super) since: Instant,
}

/// The request's token, and the flag that blocking work looks at.
pub(super) struct Outside<'a> {
    cancel: &'a CancellationToken,
    stop: Stop,
}

impl<'a> Outside<'a> {
    /// Of a checkpoint that `cancel` cancels.
    pub(super) fn new(cancel: &'a CancellationToken) -> Self {
        Self { cancel, stop: Stop::new() }
    }

    /// The flag; raised when the work is given up.
    pub(super) fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Until it is cancelled or, of a frozen pod, until that was frozen for too long or runs because its shim has ended the operation.
    /// What is not done by then is dropped.
    ///
    /// # Errors
    /// The work's own, or why it was given up.
    pub(super) async fn given_up<T>(
        &self,
        freeze: Option<Freeze<'_>>,
        work: impl Future<Output = Result<T, CheckpointError>>,
    ) -> Result<T, CheckpointError> {
        tokio::select! {
            biased;
            result = work => result,
            why = self.why(freeze) => {
                self.stop.raise();
                Err(why)
            }
        }
    }

    /// The same while CRIU has the tasks in its hands: `end` is called, and the work is waited for. It must come to an end by itself
    /// then: nothing is told before CRIU is gone.
    ///
    /// # Errors
    /// The work's own, or why it was ended.
    pub(super) async fn ended<T>(
        &self,
        freeze: Freeze<'_>,
        end: impl FnOnce(),
        work: impl Future<Output = Result<T, CheckpointError>>,
    ) -> Result<T, CheckpointError> {
        let mut work = pin!(work);
        tokio::select! {
            biased;
            result = &mut work => result,
            why = self.why(Some(freeze)) => {
                self.stop.raise();
                end();
                if let Err(error) = work.await {
                    tracing::debug!(%error, "what was given up has ended");
                }
                Err(why)
            }
        }
    }

    /// The first of what may happen.
    async fn why(&self, freeze: Option<Freeze<'_>>) -> CheckpointError {
        let freeze = async {
            let Some(Freeze { shim, patience, since }) = freeze else {
                return std::future::pending().await;
            };
            tokio::select! {
                why = shim.ended() => CheckpointError::Shim(why),
                () = tokio::time::sleep_until((since + patience).into()) => {
                    CheckpointError::FrozenTooLong { patience }
                }
            }
        };
        tokio::select! {
            () = self.cancel.cancelled() => CheckpointError::Cancelled,
            why = freeze => why,
        }
    }
}
