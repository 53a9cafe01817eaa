//! What may end a checkpoint from outside while its bytes are on their way: whoever asked for it, the shim, the freeze's deadline.

use std::pin::pin;
use std::time::{Duration, Instant};

use godwit_capture::Stop;
use tokio_util::sync::CancellationToken;

use super::CheckpointError;
use crate::shim::Shim;

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

    /// Until it is cancelled or, with a shim, until that has ended the operation by itself: the pod that it had frozen runs. What is
    /// not done by then is dropped.
    ///
    /// # Errors
    /// The work's own, or why it was given up.
    pub(super) async fn given_up<T>(
        &self,
        shim: Option<&Shim>,
        work: impl Future<Output = Result<T, CheckpointError>>,
    ) -> Result<T, CheckpointError> {
        tokio::select! {
            biased;
            result = work => result,
            why = self.why(shim, None) => {
                self.stop.raise();
                Err(why)
            }
        }
    }

    /// The same while CRIU has the tasks in its hands, or until they have been frozen for `patience`: then `end` is called, and the
    /// work is waited for. It must come to an end by itself then: nothing is told before CRIU is gone.
    ///
    /// # Errors
    /// The work's own, or why it was ended.
    pub(super) async fn ended<T>(
        &self,
        shim: &Shim,
        patience: Duration,
        since: Instant,
        end: impl FnOnce(),
        work: impl Future<Output = Result<T, CheckpointError>>,
    ) -> Result<T, CheckpointError> {
        let mut work = pin!(work);
        tokio::select! {
            biased;
            result = &mut work => result,
            why = self.why(Some(shim), Some((patience, since))) => {
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
    async fn why(
        &self,
        shim: Option<&Shim>,
        freeze: Option<(Duration, Instant)>,
    ) -> CheckpointError {
        let told = async {
            match shim {
                Some(shim) => shim.ended().await,
                None => std::future::pending().await,
            }
        };
        let frozen_too_long = async {
            match freeze {
                Some((patience, since)) => {
                    tokio::time::sleep_until((since + patience).into()).await;
                    patience
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.cancel.cancelled() => CheckpointError::Cancelled,
            why = told => CheckpointError::Shim(why),
            patience = frozen_too_long => CheckpointError::FrozenTooLong { patience },
        }
    }
}
