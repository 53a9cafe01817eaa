//! Frames for pagers: the agent's half of `godwit_wire::pager::frames`.
//!
//! Owns: the connections of pagers, the two lanes of each store, the joining of neighbours into one ranged GET, the check and the
//! decompression of frames, and the writing of slots. Owns no userfaultfd and no page map, so an agent may die at any moment:
//! the pager asks the next one. A frame whose digest is wrong is never written to a slot; what is read for a pager that is gone is
//! given up.

mod fetch;
mod lanes;
mod pace;
mod slots;
pub mod source;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use godwit_image::{PackName, PackTable};
use godwit_types::Code;
use godwit_wire::pager::frames::{
    Failed, FromFrames, MAX_SLOTS, MAX_WANTS, Need, Ready, Slots, Source, ToFrames, ToFramesBody,
};
use godwit_wire::{AsyncListener, AsyncSocket, Refusal, WireError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::fetch::Named;
use self::lanes::{ByStore, Turns};
use self::slots::SharedSlots;
use crate::listen;

/// Before a checkpoint that could not be opened is opened again.
const REOPEN: Duration = Duration::from_millis(500);

type Connection = AsyncSocket<FromFrames, ToFrames>;

/// Why a frame cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub struct FrameError {
    /// `Unavailable` is asked again; anything else ends the container.
    pub code: Code,
    /// One sentence.
    pub reason: String,
}

/// Opens the checkpoints that pagers name. Implemented over the agent's stores.
#[async_trait]
pub trait OpenSource: Send + Sync {
    /// Opens and pins a checkpoint; `words` are those that the agent put into the pager's plan.
    ///
    /// # Errors
    /// It does not exist any more, or the store does not answer.
    async fn open(&self, words: &[u8]) -> Result<Arc<dyn OpenedSource>, FrameError>;
}

/// A checkpoint that frames are read of. Pinned while it lives.
#[async_trait]
pub trait OpenedSource: Send + Sync {
    /// Name of the store that it is in: whoever reads from one store takes turns with the others who do.
    fn store(&self) -> &str;

    /// All packs that it refers to.
    fn packs(&self) -> &PackTable;

    /// Bytes of one pack, unverified.
    ///
    /// # Errors
    /// The store does not answer, or the pack is gone.
    async fn read(&self, pack: &PackName, range: std::ops::Range<u64>)
    -> Result<Bytes, FrameError>;

    /// Why it could not be opened; `None` for a source that was.
    fn unopened(&self) -> Option<FrameError> {
        None
    }
}

/// Counts what the server did; for status and reports.
#[derive(Debug, Default)]
pub struct FrameCounts {
    /// Frames that were written to slots.
    pub frames: AtomicU64,
    /// Stored bytes that were read for them.
    pub fetched: AtomicU64,
    /// Ranged GETs.
    pub requests: AtomicU64,
}

/// The server of frames.
pub struct FrameServer {
    open: Arc<dyn OpenSource>,
    lanes: ByStore,
    counts: Arc<FrameCounts>,
}

impl FrameServer {
    /// A server of the checkpoints that `open` knows.
    #[must_use]
    pub fn new(open: Arc<dyn OpenSource>) -> Self {
        Self { open, lanes: ByStore::default(), counts: Arc::default() }
    }

    /// What it has done so far.
    #[must_use]
    pub fn counts(&self) -> Arc<FrameCounts> {
        Arc::clone(&self.counts)
    }

    /// Serves every pager that connects, until cancelled. Pagers outlive it.
    ///
    /// # Errors
    /// The socket cannot be bound.
    pub async fn serve(&self, path: &Path, stop: CancellationToken) -> Result<(), WireError> {
        let session = |connection| {
            let (work, stop) = (self.session(connection), stop.clone());
            async move { stop.run_until_cancelled(work.run()).await.unwrap_or_default() }
        };
        listen::serve(AsyncListener::bind(path)?, "a pager", &stop, session).await;
        Ok(())
    }

    fn session(&self, connection: Connection) -> Session {
        Session {
            connection: Arc::new(connection),
            open: Arc::clone(&self.open),
            lanes: self.lanes.clone(),
            turns: Arc::default(),
            counts: Arc::clone(&self.counts),
            slots: None,
            sources: HashMap::new(),
            unopened: HashMap::new(),
        }
    }
}

/// One pager.
struct Session {
    connection: Arc<Connection>,
    open: Arc<dyn OpenSource>,
    lanes: ByStore,
    /// Its own share of them.
    turns: Arc<Turns>,
    counts: Arc<FrameCounts>,
    slots: Option<Arc<SharedSlots>>,
    sources: HashMap<u32, Named>,
    /// Those that may be opened later.
    unopened: HashMap<u32, Unopened>,
}

/// A checkpoint that could not be opened.
struct Unopened {
    words: Vec<u8>,
    tried: Instant,
}

/// What became of one want.
type Answer = Result<Ready, Failed>;

impl Session {
    async fn run(mut self) {
        if let Err(error) = self.converse().await {
            tracing::warn!(error = %error, "the connection of a pager ended");
        }
    }

    async fn converse(&mut self) -> Result<(), WireError> {
        self.connection.greet(Duration::from_secs(5)).await?;
        // As many answers as there are slots can be waiting at most.
        let (answers, outgoing) = mpsc::channel(MAX_SLOTS as usize);
        let sender = send_answers(Arc::clone(&self.connection), outgoing);
        tokio::pin!(sender);
        // Ends with the conversation: what is still read then nobody waits for.
        let mut reads = JoinSet::new();
        loop {
            let message = tokio::select! {
                message = self.connection.recv() => message?,
                result = &mut sender => return result,
            };
            let Some(message) = message else { return Ok(()) };
            match message.body {
                ToFramesBody::Slots(_) => {
                    let (body, [memory]) = message.with_fds("Slots")?;
                    let ToFramesBody::Slots(Slots { slots }) = body else { continue };
                    self.slots = Some(Arc::new(SharedSlots::new(memory, slots)?));
                }
                ToFramesBody::Source(source) => self.add_source(source).await,
                ToFramesBody::Need(need) => {
                    self.reopen(&need).await;
                    self.need(need, &answers, &mut reads)?;
                }
            }
        }
    }

    /// A source that cannot be opened is left out: its wants are answered with the reason's kind when they come.
    async fn add_source(&mut self, source: Source) {
        let Source { number, source: words } = source;
        let opened = match self.open.open(&words).await {
            Ok(opened) => opened,
            Err(error) => {
                if error.code == Code::Unavailable {
                    self.unopened.insert(number, Unopened { words, tried: Instant::now() });
                }
                Arc::new(fetch::Unopened::new(error))
            }
        };
        let lanes = self.lanes.of(opened.store());
        self.sources.insert(number, Named { source: opened, lanes });
    }

    /// Opens what is wanted and could not be opened when it was named: the store may answer by now.
    async fn reopen(&mut self, need: &Need) {
        let wanted: BTreeSet<u32> = need.wants.iter().map(|want| want.source).collect();
        for number in wanted {
            let due = |unopened: &Unopened| unopened.tried.elapsed() >= REOPEN;
            if self.unopened.get(&number).is_some_and(due)
                && let Some(unopened) = self.unopened.remove(&number)
            {
                self.add_source(Source { number, source: unopened.words }).await;
            }
        }
    }

    fn need(
        &self,
        need: Need,
        answers: &mpsc::Sender<Answer>,
        reads: &mut JoinSet<()>,
    ) -> Result<(), WireError> {
        let invalid = |value: &str| WireError::Field { field: "need", value: value.to_owned() };
        let slots = self.slots.as_ref().ok_or_else(|| invalid("before Slots"))?;
        if need.wants.is_empty() || need.wants.len() > MAX_WANTS {
            return Err(invalid("its number of wants"));
        }
        let claims = slots.claim(&need)?;
        while reads.try_join_next().is_some() {}
        for run in fetch::runs(&self.sources, claims, need.urgent) {
            let (answers, counts) = (answers.clone(), Arc::clone(&self.counts));
            let (slots, turns) = (Arc::clone(slots), Arc::clone(&self.turns));
            reads.spawn(async move {
                for answer in fetch::in_turn(run, &turns, need.urgent, &slots, &counts).await {
                    if answers.send(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
        Ok(())
    }
}

async fn send_answers(
    connection: Arc<Connection>,
    mut outgoing: mpsc::Receiver<Answer>,
) -> Result<(), WireError> {
    while let Some(answer) = outgoing.recv().await {
        match answer {
            Ok(ready) => connection.send(ready, &[]).await?,
            Err(failed) => connection.send(failed, &[]).await?,
        }
    }
    Ok(())
}

impl FrameCounts {
    fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

impl From<FrameError> for Refusal {
    fn from(error: FrameError) -> Self {
        Self::new(error.code, error.reason)
    }
}

#[cfg(test)]
mod tests;
