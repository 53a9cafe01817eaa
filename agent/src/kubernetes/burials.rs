//! The last word about pods whose objects are gone: their agents alone know that nobody comes back under that uid.

use std::time::Duration;

use godwit_engine::{Node, gone};
use tokio::sync::broadcast;
use tokio::time::timeout;

use super::api::Api;
use super::watch::{self, Change};

/// While something is left: the kubelet still ends its containers, or its store is away.
const SOON: Duration = Duration::from_secs(1);
/// While nothing is known to be.
const LATER: Duration = Duration::from_secs(60);

/// Looks for ever at what deleted pods have left.
pub(super) async fn forever(node: &Node, api: &Api, mut changes: broadcast::Receiver<Change>) {
    let mut patience = LATER;
    loop {
        // Many changes are one look.
        if let Ok(None) = timeout(patience, watch::next(api, &mut changes)).await {
            return;
        }
        // Before all are listed nobody is known to be gone.
        if api.pods().is_none() {
            continue;
        }
        let left = gone::bury(node, |uid| api.pod(uid).is_some()).await;
        patience = if left == 0 { LATER } else { SOON };
    }
}
