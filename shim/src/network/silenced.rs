//! The networks that this shim has silenced. Whoever runs in one of them next is heard, whatever its annotations say by then.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::{Id, Network, Silence, Unsilenced};
use crate::error::Result;

/// How long a kernel that cannot open a network is asked again before its pod is given up.
pub(crate) const OPENS: Duration = Duration::from_secs(5);
/// Pause before a kernel that could not is asked again: out of memory or descriptors, mostly.
const AGAIN: Duration = Duration::from_millis(50);

/// Those that have not been opened again. It keeps none of them alive: a namespace that is deleted is gone, with its address.
#[derive(Debug, Clone, Default)]
pub(crate) struct Silenced {
    all: Arc<Mutex<BTreeSet<Id>>>,
    turns: Arc<tokio::sync::Mutex<()>>,
}

/// One silence begins or ends at a time, in the order in which it was asked for: who does it keeps this, also when nobody waits for it any
/// more. Else a silence that was given up half-way could begin after it was ended.
pub(super) type Turn = OwnedMutexGuard<()>;

impl Silenced {
    /// From now on nothing of this is heard. Idempotent.
    ///
    /// # Errors
    /// The kernel cannot, or its word was lost: then it may be silent, and has to be opened like one that is.
    pub(crate) async fn silence(&self, network: &Network, silence: Silence) -> Result<()> {
        let turn = self.turn().await;
        // First, for whoever does not come to know whether it succeeded.
        let is_new = self.all().insert(network.id);
        network.silence(silence, turn).await.map_err(|Unsilenced { why, asked }| {
            if is_new && !asked {
                self.all().remove(&network.id);
            }
            why
        })
    }

    /// It is heard and answers again. Idempotent.
    ///
    /// # Errors
    /// The kernel cannot; it counts as silent still.
    pub(crate) async fn open(&self, network: &Network) -> Result<()> {
        let turn = self.turn().await;
        let (silenced, id) = (self.clone(), network.id);
        // Before anybody else's turn.
        let opened = move || {
            silenced.all().remove(&id);
        };
        network.break_silence(turn, opened).await
    }

    /// All of these are heard again; tried for so long.
    ///
    /// # Errors
    /// The kernel could not for as long.
    pub(crate) async fn open_all(&self, networks: &[Network], patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        for network in networks {
            while let Err(why) = self.open(network).await {
                if Instant::now() >= until {
                    return Err(why);
                }
                warn!(why = why.chain(), "a pod that goes on cannot be heard yet");
                sleep(AGAIN).await;
            }
        }
        Ok(())
    }

    /// Whether this is one of them.
    pub(crate) fn has(&self, network: &Network) -> bool {
        self.all().contains(&network.id)
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    async fn turn(&self) -> Turn {
        Arc::clone(&self.turns).lock_owned().await
    }

    fn all(&self) -> MutexGuard<'_, BTreeSet<Id>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
