//! A server of frames, asked by a pager that is played.

use std::sync::Mutex;

use godwit_image::{FrameEncoder, PackBuilder, PackKind, PackSlot};
use godwit_types::{CheckpointId, PackIndex};
use godwit_wire::pager::frames::{FromFramesBody, SLOT_BYTES, Want};
use rustix::fs::{MemfdFlags, SealFlags};

use super::*;

type Played = AsyncSocket<ToFrames, FromFrames>;

const SOON: Duration = Duration::from_secs(20);

/// Cannot open anything, for these reasons, one after the other; the last one for ever.
struct Closed(Mutex<Vec<Code>>);

#[async_trait]
impl OpenSource for Closed {
    async fn open(&self, _: &[u8]) -> Result<Arc<dyn OpenedSource>, FrameError> {
        let mut codes = self.0.lock().unwrap();
        let code = if codes.len() > 1 { codes.remove(0) } else { codes[0] };
        Err(FrameError { code, reason: "no".to_owned() })
    }
}

/// A connection with one checkpoint, and room for each of its packs twice.
async fn connected(path: &Path) -> Played {
    connected_to(path, &[1]).await
}

async fn connected_to(path: &Path, source: &[u8]) -> Played {
    let deadline = Instant::now() + SOON;
    let played = loop {
        match Played::connect(path).await {
            Ok(played) => break played,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::task::yield_now().await;
    };
    let memory = rustix::fs::memfd_create("slots", MemfdFlags::ALLOW_SEALING).unwrap();
    let slots = 2 * PACKS;
    rustix::fs::ftruncate(&memory, u64::from(slots) * SLOT_BYTES).unwrap();
    rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK).unwrap();
    use std::os::fd::AsFd;
    played.send(Slots { slots }, &[memory.as_fd()]).await.unwrap();
    played.send(Source { number: 0, source: source.to_vec() }, &[]).await.unwrap();
    played
}

async fn ask(played: &Played, turn: u64) -> Code {
    let want = Want { slot: 0, source: 0, pack: 0, frame: 0, turn };
    played.send(Need { urgent: true, wants: vec![want] }, &[]).await.unwrap();
    let answer = played.recv_timeout(SOON).await.unwrap().unwrap();
    let FromFramesBody::Failed(failed) = answer.body else { panic!("{answer:?}") };
    failed.why.unwrap().means()
}

#[tokio::test]
async fn what_could_not_be_opened_is_opened_again_when_it_is_wanted_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("frames.sock");
    let codes = vec![Code::Unavailable, Code::Unavailable, Code::NotFound, Code::Corrupt];
    let server = FrameServer::new(Arc::new(Closed(Mutex::new(codes))));
    let stop = CancellationToken::new();
    let (at, stopped) = (path.clone(), stop.clone());
    let serving = tokio::spawn(async move { server.serve(&at, stopped).await });
    let played = connected(&path).await;
    let deadline = Instant::now() + SOON;
    let (mut turn, mut last) = (1, ask(&played, 1).await);
    while last == Code::Unavailable {
        assert!(Instant::now() < deadline, "it is not opened again");
        turn += 1;
        last = ask(&played, turn).await;
    }
    assert_eq!(last, Code::NotFound);
    assert_eq!(ask(&played, turn + 1).await, Code::NotFound, "a final answer is not asked again");
    stop.cancel();
    serving.await.unwrap().unwrap();
}

/// Checkpoints of many packs of one frame each, in stores that answer or do not.
struct Shelves {
    packs: PackTable,
    pack: Bytes,
    /// Reads that wait for a store that does not answer.
    stuck: Arc<AtomicU64>,
}

/// Packs of a checkpoint: more than all lanes of a store together.
const PACKS: u32 = 64;

struct Shelf {
    store: String,
    packs: PackTable,
    pack: Bytes,
    stuck: Option<Arc<AtomicU64>>,
}

/// A read that nobody answers.
struct Stuck(Arc<AtomicU64>);

impl Drop for Stuck {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shelves {
    fn new() -> Self {
        let (mut packs, mut bytes) = (PackTable::default(), Vec::new());
        let checkpoint = CheckpointId::mint();
        for number in 0..PACKS {
            let index = PackIndex(number);
            let name = PackName { checkpoint, kind: PackKind::Data, index };
            let mut encoder = FrameEncoder::new().unwrap();
            let mut builder = PackBuilder::new(name, Vec::new());
            builder.push(&encoder.encode(&[7; 4096]).unwrap()).unwrap();
            let (pack, record) = builder.finish();
            packs.insert(PackSlot(number), record);
            bytes = pack;
        }
        Self { packs, pack: bytes.into(), stuck: Arc::default() }
    }
}

#[async_trait]
impl OpenSource for Shelves {
    /// `words`: whether it is stuck (1), then the store's name.
    async fn open(&self, words: &[u8]) -> Result<Arc<dyn OpenedSource>, FrameError> {
        Ok(Arc::new(Shelf {
            store: String::from_utf8_lossy(&words[1..]).into_owned(),
            packs: self.packs.clone(),
            pack: self.pack.clone(),
            stuck: (words[0] == 1).then(|| Arc::clone(&self.stuck)),
        }))
    }
}

#[async_trait]
impl OpenedSource for Shelf {
    fn store(&self) -> &str {
        &self.store
    }

    fn packs(&self) -> &PackTable {
        &self.packs
    }

    async fn read(&self, _: &PackName, range: std::ops::Range<u64>) -> Result<Bytes, FrameError> {
        if let Some(stuck) = &self.stuck {
            stuck.fetch_add(1, Ordering::SeqCst);
            let _stuck = Stuck(Arc::clone(stuck));
            std::future::pending::<()>().await;
        }
        Ok(self.pack.slice(range.start as usize..range.end as usize))
    }
}

/// Wants every pack, slot by slot from `first`.
async fn want_all(played: &Played, urgent: bool, first: u32) {
    let want = |pack| Want { slot: first + pack, source: 0, pack, frame: 0, turn: 1 };
    let wants = (0..PACKS).map(want).collect();
    played.send(Need { urgent, wants }, &[]).await.unwrap();
}

/// A server, and what it can open.
fn serving(path: &Path) -> (Arc<AtomicU64>, CancellationToken, tokio::task::JoinHandle<()>) {
    let shelves = Shelves::new();
    let stuck = Arc::clone(&shelves.stuck);
    let (server, stop) = (FrameServer::new(Arc::new(shelves)), CancellationToken::new());
    let (at, stopped) = (path.to_owned(), stop.clone());
    let served = tokio::spawn(async move { server.serve(&at, stopped).await.unwrap() });
    (stuck, stop, served)
}

/// A pager that wants more of a store that does not answer than its lanes have room for.
async fn greedy(path: &Path, store: &str, stuck: &AtomicU64) -> Played {
    let played = connected_to(path, &[b"\x01", store.as_bytes()].concat()).await;
    want_all(&played, false, 0).await;
    want_all(&played, true, PACKS).await;
    until(|| stuck.load(Ordering::SeqCst) >= 20, "the lanes are full").await;
    played
}

async fn until(mut is_so: impl FnMut() -> bool, what: &str) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "not so: {what}");
        tokio::task::yield_now().await;
    }
}

async fn all_come(played: &Played) {
    want_all(played, false, 0).await;
    want_all(played, true, PACKS).await;
    for _ in 0..2 * PACKS {
        let answer = played.recv_timeout(SOON).await.unwrap().unwrap();
        assert!(matches!(answer.body, FromFramesBody::Ready(_)), "{answer:?}");
    }
}

#[tokio::test]
async fn a_store_that_does_not_answer_holds_up_nobody_who_reads_from_another() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("frames.sock");
    let (stuck, stop, served) = serving(&path);
    let _held_up = greedy(&path, "away", &stuck).await;
    let well = connected_to(&path, b"\x00here").await;
    all_come(&well).await;
    stop.cancel();
    served.await.unwrap();
}

#[tokio::test]
async fn what_is_read_for_a_pager_that_is_gone_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("frames.sock");
    let (stuck, stop, served) = serving(&path);
    let dies = greedy(&path, "here", &stuck).await;
    let lives = connected_to(&path, b"\x00here").await;
    drop(dies);
    all_come(&lives).await;
    until(|| stuck.load(Ordering::SeqCst) == 0, "its reads are given up").await;
    stop.cancel();
    served.await.unwrap();
}
