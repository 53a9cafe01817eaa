//! Work that blocks, on threads that may.

use crate::checkpoint::{CheckpointError, Step};

/// Runs it. If the caller is dropped, it runs to its end by itself.
///
/// # Errors
/// Its own, or that it panicked.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CheckpointError> + Send + 'static,
) -> Result<T, CheckpointError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(error = %error, "a task of the engine failed");
            Err(CheckpointError::Order(Step::Task))
        }
    }
}
