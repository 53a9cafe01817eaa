//! An agent that has no descriptor left. A program of its own: the limit is the process's.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use godwit_engine::frames::{FrameError, FrameServer, OpenSource, OpenedSource};
use godwit_types::Code;
use godwit_wire::pager::frames::{FromFrames, ToFrames};
use godwit_wire::{AsyncSocket, Socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(60);

struct NoSource;

#[async_trait]
impl OpenSource for NoSource {
    async fn open(&self, _: &[u8]) -> Result<Arc<dyn OpenedSource>, FrameError> {
        Err(FrameError { code: Code::NotFound, reason: "there is none".to_owned() })
    }
}

async fn wait_for(path: &Path) {
    while !path.exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// For shims and pagers alike: they are served by the same code.
#[tokio::test]
async fn who_connects_while_no_descriptor_is_left_is_served_when_there_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("frames.sock");
    let serving = tokio::spawn({
        let (path, server) = (path.clone(), FrameServer::new(Arc::new(NoSource)));
        async move { server.serve(&path, CancellationToken::new()).await }
    });
    tokio::time::timeout(SOON, wait_for(&path)).await.unwrap();
    let pager = Socket::<ToFrames, FromFrames>::connect_silently(&path).unwrap();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit }).unwrap();
    // So often the server gets its turn.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    setrlimit(Resource::Nofile, limit).unwrap();
    assert!(!serving.is_finished(), "the agent would end");
    let pager = AsyncSocket::<ToFrames, FromFrames>::from_fd(pager.into_fd()).unwrap();
    pager.greet(SOON).await.unwrap();
}
