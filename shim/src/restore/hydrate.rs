//! A container that runs while its memory is still on its way.
//!
//! Invariant: duplicates of userfaultfds (in [`Pager`]) are dropped only when everything is there, or when the container is dead.

use std::sync::Arc;

use godwit_types::Code;
use godwit_wire::Refusal;
use godwit_wire::pager::Totals;
use tracing::{error, info};

use super::dead;
use super::pager::Pager;
use super::work_dir::WorkDir;
use crate::container::Container;
use crate::state::State;

/// Watches until all memory is there, or the container is dead. If the memory cannot be completed, it tells of that, then kills the
/// container. Returns when the pager is no longer needed.
///
/// # Errors
/// Why the container was killed, or that it died by itself.
pub async fn supervise(
    container: Arc<Container>,
    pager: Pager,
    work: WorkDir,
    tell_unfilled: impl AsyncFnOnce(),
) -> Result<Totals, Refusal> {
    let mut state = container.watch_state();
    let outcome = tokio::select! {
        outcome = pager.outcome() => outcome,
        _ = state.wait_for(|state| *state == State::Stopped) => {
            Err(Refusal::new(Code::Cancelled, "the container ended while its memory was on its way"))
        }
    };
    match &outcome {
        Ok(totals) => info!(
            container = container.id(),
            pages = totals.placed,
            faults = totals.faults,
            millis = totals.millis,
            "all memory is here"
        ),
        Err(why) => {
            if container.state() != State::Stopped {
                // Before the kill: whoever deletes it must not take this for an end that somebody wanted.
                container.note_unfilled();
                error!(
                    container = container.id(),
                    why = why.reason,
                    "memory cannot be completed: the container is killed"
                );
                tell_unfilled().await;
            }
            if let Some(cgroup) = container.cgroup()
                && !dead::empty(&cgroup).await
            {
                // Its tasks sleep in the kernel and can never be served: whoever drops the last descriptor would wake them to zeros.
                error!(
                    container = container.id(),
                    "a killed container does not die; its pager is kept"
                );
                std::mem::forget(pager);
                return outcome;
            }
        }
    }
    drop(pager);
    drop(work);
    outcome
}
