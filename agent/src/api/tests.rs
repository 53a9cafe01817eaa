//! Clients that do not behave, beside a work that is no checkpoint.

use godwit_types::Phase;
use tokio::io::AsyncBufRead;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(20);

fn done(what: &str) -> Reply {
    Reply::Done { result: serde_json::Value::String(what.to_owned()) }
}

/// A connection: what the agent has of it, and the client.
struct Pair {
    lines: BufReader<OwnedReadHalf>,
    told: Told,
    client: UnixStream,
}

fn pair() -> Pair {
    let (agent, client) = UnixStream::pair().unwrap();
    let (read, write) = agent.into_split();
    Pair { lines: BufReader::new(read), told: Told::new(write), client }
}

impl Pair {
    /// Leaves no room in the socket for anything more.
    async fn fill(&self) {
        timeout(SOON, self.told.write.writable()).await.unwrap().unwrap();
        let mut empty_lines = 4096;
        while empty_lines > 0 {
            while self.told.write.try_write(&vec![b'\n'; empty_lines]).is_ok() {}
            empty_lines /= 2;
        }
    }
}

/// Everything up to the agent's end, without empty lines.
async fn replies(mut client: impl AsyncBufRead + Unpin) -> Vec<Reply> {
    let mut text = String::new();
    timeout(SOON, client.read_to_string(&mut text)).await.unwrap().unwrap();
    let lines = text.lines().filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_nothing_up_and_gets_its_answer_when_it_reads() {
    let pair = pair();
    pair.fill().await;
    let (mut journal, watched) = Journal::begin();
    let (ended, has_ended) = oneshot::channel();
    let work = tokio::spawn(async move {
        for phase in [Phase::PreCopy, Phase::Freeze, Phase::Upload] {
            journal.enter(phase);
            tokio::time::sleep(TICK).await;
        }
        ended.send(()).unwrap();
        done("made")
    });
    let Pair { mut lines, mut told, client } = pair;
    let attending = tokio::spawn(async move {
        let reply = attend(work, CancellationToken::new(), &watched, &mut lines, &mut told).await;
        told.end(&reply).await
    });
    timeout(SOON, has_ended).await.expect("the work stands still").unwrap();
    let replies = replies(BufReader::new(client)).await;
    attending.await.unwrap().unwrap();
    assert_eq!(replies.last(), Some(&done("made")));
    assert!(replies.len() <= 2, "what it did not read in time is left away: {replies:?}");
}

#[tokio::test]
async fn telling_progress_waits_for_nobody_and_breaks_no_line() {
    let mut pair = pair();
    timeout(SOON, pair.told.write.writable()).await.unwrap().unwrap();
    let progress = |done| Progress { phase: Phase::Upload, done, total: u64::MAX };
    for n in 0..100_000 {
        pair.told.progress(progress(n)).unwrap();
    }
    assert!(pair.told.rest.len() < 200, "no more than a line is kept");
    let Pair { mut told, client, .. } = pair;
    let end = tokio::spawn(async move { told.end(&done("all")).await });
    let replies = replies(BufReader::new(client)).await;
    end.await.unwrap().unwrap();
    assert_eq!(replies.last(), Some(&done("all")));
    assert!(replies.len() > 10 && replies.len() < 100_000, "{}", replies.len());
}

#[test]
fn an_answer_that_no_client_takes_is_not_cut_but_told() {
    let (short, long) = (done("a"), done(&"a".repeat(1000)));
    assert_eq!(line_within(1000, &short).unwrap(), line(&short).unwrap());
    let told = line_within(1000, &long).unwrap();
    let Reply::Failed(failure) = serde_json::from_slice(&told).unwrap() else { panic!("{told:?}") };
    assert_eq!(failure.code, Code::Refused);
    assert!(failure.message.contains("--store URL"), "{}", failure.message);
}

/// Work that ends only some time after it was cancelled, and a task of it that has to see that.
fn slow_to_end(cancel: &CancellationToken) -> (JoinHandle<Reply>, oneshot::Receiver<()>) {
    let (seen, has_seen) = oneshot::channel();
    let (for_watcher, cancel) = (cancel.clone(), cancel.clone());
    let watcher = tokio::spawn(async move {
        for_watcher.cancelled().await;
        seen.send(()).unwrap();
    });
    let work = tokio::spawn(async move {
        cancel.cancelled().await;
        watcher.await.unwrap();
        done("undone")
    });
    (work, has_seen)
}

#[tokio::test]
async fn a_client_that_vanishes_cancels_its_work_which_is_awaited() {
    let Pair { mut lines, mut told, client } = pair();
    let (_journal, watched) = Journal::begin();
    let cancel = CancellationToken::new();
    let (work, has_seen) = slow_to_end(&cancel);
    drop(client);
    let attended = attend(work, cancel, &watched, &mut lines, &mut told);
    assert_eq!(timeout(SOON, attended).await.unwrap(), done("undone"));
    has_seen.await.unwrap();
    assert!(told.end(&done("undone")).await.is_err());
}

#[tokio::test]
async fn a_client_that_cannot_be_told_cancels_its_work_which_is_awaited() {
    let Pair { mut lines, mut told, client } = pair();
    let (mut journal, watched) = Journal::begin();
    journal.enter(Phase::Upload);
    let client = client.into_std().unwrap();
    client.shutdown(std::net::Shutdown::Read).unwrap();
    let cancel = CancellationToken::new();
    let (work, has_seen) = slow_to_end(&cancel);
    let attended = attend(work, cancel, &watched, &mut lines, &mut told);
    assert_eq!(timeout(SOON, attended).await.unwrap(), done("undone"));
    has_seen.await.unwrap();
}

#[tokio::test]
async fn a_client_that_closes_its_half_is_told_how_it_ended() {
    let Pair { mut lines, mut told, mut client } = pair();
    let (_journal, watched) = Journal::begin();
    let cancel = CancellationToken::new();
    let (work, _has_seen) = slow_to_end(&cancel);
    client.shutdown().await.unwrap();
    let reply = attend(work, cancel, &watched, &mut lines, &mut told).await;
    told.end(&reply).await.unwrap();
    drop((told, lines));
    assert_eq!(replies(BufReader::new(client)).await, [done("undone")]);
}
