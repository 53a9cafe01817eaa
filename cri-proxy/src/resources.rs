//! What the process has of the system: descriptors for all clients, and memory that goes back when they have left.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Notify;

use crate::limits::DESCRIPTORS;
use crate::sys;

/// Clients often leave together.
const TOGETHER: Duration = Duration::from_secs(1);
/// Between two times that memory is given back.
const SELDOM: Duration = Duration::from_secs(10);

/// Makes room for the descriptors of all clients, as far as the system lets us.
pub fn make_room() {
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|current| current >= DESCRIPTORS) {
        return;
    }
    let wanted = now.maximum.map_or(DESCRIPTORS, |maximum| maximum.min(DESCRIPTORS));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..now });
    if let Err(error) = raised {
        tracing::warn!(error = %error, "descriptors for all clients cannot be had");
    }
    if wanted < DESCRIPTORS {
        tracing::warn!(
            allowed = wanted,
            wanted = DESCRIPTORS,
            "too few descriptors are allowed for all clients"
        );
    }
}

/// Gives memory back after clients have left. For ever.
pub(crate) async fn give_back(left: &Notify) -> std::convert::Infallible {
    loop {
        left.notified().await;
        tokio::time::sleep(TOGETHER).await;
        sys::trim();
        tokio::time::sleep(SELDOM).await;
    }
}
