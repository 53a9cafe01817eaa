//! A server of frames, asked by a pager that is played.

use std::sync::Mutex;

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

/// A connection with one slot and one checkpoint.
async fn connected(path: &Path) -> Played {
    let deadline = Instant::now() + SOON;
    let played = loop {
        match Played::connect(path).await {
            Ok(played) => break played,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::task::yield_now().await;
    };
    let memory = rustix::fs::memfd_create("slots", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&memory, SLOT_BYTES).unwrap();
    rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK).unwrap();
    use std::os::fd::AsFd;
    played.send(Slots { slots: 1 }, &[memory.as_fd()]).await.unwrap();
    played.send(Source { number: 0, source: vec![1] }, &[]).await.unwrap();
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
