//! What the pager says, until it says no more.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use godwit_types::Code;
use godwit_wire::pager::{Dropped, FromPagerBody};
use godwit_wire::{Received, Refusal, WireError};
use tracing::{debug, warn};

use super::{Shared, State, gone};

/// Hears the pager until its end. An end before `Hydrated` is a failure.
pub(super) async fn listen(shared: Arc<Shared>) {
    let why = loop {
        match shared.socket.recv().await {
            Ok(Some(message)) => {
                if let Err(why) = hear(&shared, message).await {
                    break Refusal::new(Code::Internal, format!("the pager misbehaves: {why}"));
                }
            }
            Ok(None) => break gone(),
            Err(why) => break Refusal::new(Code::Internal, format!("the pager's socket: {why}")),
        }
    };
    // The first word counts: after `Hydrated` or `Fatal` the end is expected.
    shared.state.send_if_modified(|state| {
        let over = matches!(state, State::Hydrated(_) | State::Failed(_));
        if !over {
            *state = State::Failed(why);
        }
        !over
    });
}

async fn hear(shared: &Shared, message: Received<FromPagerBody>) -> Result<(), WireError> {
    match message.body {
        FromPagerBody::Forked(_) => forked(shared, message),
        FromPagerBody::Loaded(_) => {
            set(shared, State::Serving);
            Ok(())
        }
        FromPagerBody::Finished(finished) => {
            drop(shared.kept().remove(&finished.descriptor));
            shared.socket.send(Dropped { descriptor: finished.descriptor }, &[]).await
        }
        FromPagerBody::Hydrated(hydrated) => {
            let kept = shared.kept().len();
            if kept > 0 {
                warn!(
                    kept,
                    "the pager calls a container complete and has not finished every descriptor"
                );
            }
            set(shared, State::Hydrated(hydrated.totals.unwrap_or_default()));
            Ok(())
        }
        FromPagerBody::Fatal(fatal) => {
            set(shared, State::Failed(fatal.why.unwrap_or_else(gone)));
            Ok(())
        }
        FromPagerBody::Progress(progress) => {
            let totals = progress.totals.unwrap_or_default();
            debug!(missing = totals.missing, faults = totals.faults, "hydrating");
            Ok(())
        }
    }
}

/// A child's descriptor is kept before the pager serves it: the pager waits for nothing, but its message came first.
fn forked(shared: &Shared, message: Received<FromPagerBody>) -> Result<(), WireError> {
    let (body, [uffd]): (_, [OwnedFd; 1]) = message.with_fds("Forked")?;
    if let FromPagerBody::Forked(forked) = body {
        shared.kept().insert(forked.descriptor, uffd);
    }
    Ok(())
}

fn set(shared: &Shared, next: State) {
    shared.state.send_if_modified(|state| {
        let over = matches!(state, State::Failed(_));
        if !over {
            *state = next;
        }
        !over
    });
}
