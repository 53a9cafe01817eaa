//! Copying between a process and containerd, one task per stream.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::warn;

use super::fd::AsyncPipe;
use super::sink::Sink;

/// Bytes moved at once.
const CHUNK: usize = 16 << 10;
/// What a drain moves at most: twice the largest pipe of an unprivileged user (1 MiB), so that a process that is not
/// frozen cannot keep it going.
const DRAIN_LIMIT: usize = 2 << 20;

/// One output stream on its way to containerd.
#[derive(Debug)]
pub struct Output {
    drains: mpsc::Sender<oneshot::Sender<()>>,
    ended: watch::Receiver<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Output {
    /// Starts copying.
    #[must_use]
    pub fn start(source: Arc<AsyncPipe>, sink: Sink) -> Self {
        let (drains, requests) = mpsc::channel(1);
        let (end, ended) = watch::channel(false);
        let task = tokio::spawn(async move {
            output(source, sink, requests).await;
            end.send_replace(true);
        });
        Self { drains, ended, task: Mutex::new(Some(task)) }
    }

    /// Returns when what is in the pipe now is handed on, or the stream has ended.
    pub async fn drain(&self) {
        let (done, drained) = oneshot::channel();
        if self.drains.send(done).await.is_ok() {
            let _ = drained.await;
        }
    }

    /// Returns when the stream has ended and everything is handed on.
    pub async fn ended(&self) {
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Ends the copying where it is and closes both sides.
    pub async fn stop(&self) {
        if let Some(task) = self.task.lock().await.take() {
            task.abort();
            // Aborted or done: either way its descriptors are closed when it is joined.
            let _ = task.await;
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut() {
            task.abort();
        }
    }
}

async fn output(
    source: Arc<AsyncPipe>,
    mut sink: Sink,
    mut requests: mpsc::Receiver<oneshot::Sender<()>>,
) {
    let mut buffer = vec![0; CHUNK];
    loop {
        tokio::select! {
            read = source.read(&mut buffer) => match read {
                Ok(0) => return,
                Ok(n) => hand_on(&mut sink, buffer.get(..n).unwrap_or_default()).await,
                Err(why) => return warn!(%why, "reading a container's output failed"),
            },
            Some(done) = requests.recv() => {
                drain(&source, &mut sink, &mut buffer).await;
                // The requester may have given up waiting.
                let _ = done.send(());
            }
        }
    }
}

async fn drain(source: &AsyncPipe, sink: &mut Sink, buffer: &mut [u8]) {
    let mut moved = 0;
    while moved < DRAIN_LIMIT {
        match source.try_read(buffer) {
            Ok(Some(n)) if n > 0 => {
                hand_on(sink, buffer.get(..n).unwrap_or_default()).await;
                moved += n;
            }
            _ => return,
        }
    }
}

/// A sink that fails is replaced by nothing: the process must not block on a log that cannot be written.
async fn hand_on(sink: &mut Sink, bytes: &[u8]) {
    if let Err(why) = sink.write_all(bytes).await {
        warn!(%why, "a container's output cannot be written any more; it is dropped from here on");
        *sink = Sink::Nothing;
    }
}

/// Copies stdin until its end or until the process does not want it any more.
pub async fn input(source: AsyncPipe, target: Arc<AsyncPipe>) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(n) = source.read(&mut buffer).await {
        if n == 0 || target.write_all(buffer.get(..n).unwrap_or_default()).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    fn pair() -> (std::fs::File, std::fs::File) {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        (read.into(), write.into())
    }

    #[tokio::test]
    async fn after_a_drain_everything_written_before_it_has_arrived() {
        let (read, mut write) = pair();
        let (mut arrived, out) = pair();
        write.write_all(&[7; 50_000]).unwrap();
        let source = Arc::new(AsyncPipe::new(read.into()).unwrap());
        let output = Output::start(source, Sink::Pipe(AsyncPipe::new(out.into()).unwrap()));
        output.drain().await;
        let mut bytes = vec![0; 50_000];
        arrived.read_exact(&mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 7));
    }

    #[tokio::test]
    async fn the_reader_sees_the_end_when_the_last_writer_is_gone() {
        let (read, write) = pair();
        let (mut arrived, out) = pair();
        let source = Arc::new(AsyncPipe::new(read.into()).unwrap());
        let output = Output::start(source, Sink::Pipe(AsyncPipe::new(out.into()).unwrap()));
        drop(write);
        output.ended().await;
        assert_eq!(arrived.read(&mut [0; 1]).unwrap(), 0);
    }

    #[tokio::test]
    async fn a_stopped_copy_closes_its_pipe_although_a_writer_lives() {
        let (read, mut write) = pair();
        let source = Arc::new(AsyncPipe::new(read.into()).unwrap());
        let output = Output::start(source, Sink::Nothing);
        output.stop().await;
        // A child of another test may hold a copy until it executes its program.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let error = loop {
            match write.write_all(b"x") {
                Err(error) => break error,
                Ok(()) => assert!(std::time::Instant::now() < until, "it is still open"),
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    }
}
