//! The agent's word about calls: what it wants to see, and how it is asked.
//!
//! | Call | What for | Without the agent |
//! |---|---|---|
//! | `StopContainer` | a pod that is deleted is stopped at a checkpoint first (`godwit.dev/checkpoint-on-stop`) | passes; of a pod that asks for it after its grace period, at most a minute: an agent that is started anew is waited for |
//! | `ExecSync` | a probe or hook of a pod that is held or has moved is answered at once | passes |
//! | `RunPodSandbox` | what a pod will continue is read ahead; nobody waits for it | passes |
//! | `CheckpointContainer` | a durable checkpoint, besides the archive that the kubelet asks for | passes |
//!
//! One connection for each call: lines of JSON (`godwit_wire::api`). Who gives a call up closes it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use godwit_types::names;
use godwit_wire::api::{self, CriCall, CriVerdict, MAX_REQUEST, Reply, StartingPod};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use crate::cri::{Method, Request, RunPodSandbox};
use crate::intercept::{Absent, Call, Intercept, Interest, Need, Verdict};

/// For an agent to be started anew: it looks at every pod before it serves.
const COMES_BACK: Duration = Duration::from_secs(60);
/// For a word that is only of benefit.
const AT_MOST: Duration = Duration::from_secs(1);
/// Between two questions.
const AGAIN: Duration = Duration::from_millis(250);

/// The agent of this node.
#[derive(Debug)]
pub struct Agent {
    socket: PathBuf,
    bundles: PathBuf,
}

impl Agent {
    /// The one that serves this socket, when it does.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, bundles: PathBuf::from(names::CRI_BUNDLES) }
    }

    /// Asks, again for as long as somebody's memory is worth it.
    async fn ask_patiently(&self, call: CriCall) -> std::io::Result<CriVerdict> {
        let patience = match &call {
            CriCall::Stop { container, grace_seconds } if self.keeps(container) => {
                COMES_BACK.min(Duration::from_secs(*grace_seconds))
            }
            _ => Duration::ZERO,
        };
        let begun = Instant::now();
        let until = begun + patience;
        loop {
            match self.ask(less(&call, begun.elapsed())).await {
                Err(why) if Instant::now() < until && is_away(&why) => {
                    tracing::debug!(%why, "the agent is asked again");
                    sleep(AGAIN).await;
                }
                answer => return answer,
            }
        }
    }

    /// Tells the agent what nobody waits for: one that hangs holds no sandbox up.
    async fn tell(&self, call: CriCall) -> std::io::Result<CriVerdict> {
        match timeout(AT_MOST, self.ask(call)).await {
            Ok(answer) => answer,
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        }
    }

    /// Whether a container is of a pod whose memory is to be kept when it is deleted.
    fn keeps(&self, container: &str) -> bool {
        // A name, not a way to somewhere else.
        let Some(name) = Path::new(container).file_name().filter(|name| *name == container) else {
            return false;
        };
        let spec = std::fs::read(self.bundles.join(name).join("config.json"));
        let spec: Option<serde_json::Value> =
            spec.ok().and_then(|text| serde_json::from_slice(&text).ok());
        spec.is_some_and(|spec| spec["annotations"][names::CHECKPOINT_ON_STOP] == "true")
    }

    async fn ask(&self, call: CriCall) -> std::io::Result<CriVerdict> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        let mut line = serde_json::to_vec(&api::Request::Cri(call))?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut replies = BufReader::new(stream);
        loop {
            line.clear();
            let read = (&mut replies).take(MAX_REQUEST as u64).read_until(b'\n', &mut line).await?;
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            match serde_json::from_slice(&line)? {
                Reply::Progress(_) => {}
                Reply::Done { result } => return Ok(serde_json::from_value(result)?),
                Reply::Failed(failure) => return Err(std::io::Error::other(failure.message)),
            }
        }
    }
}

#[async_trait]
impl Intercept for Agent {
    fn interest(&self, method: Method) -> Interest {
        match method {
            Method::StopContainer
            | Method::ExecSync
            | Method::CheckpointContainer
            | Method::RunPodSandbox => Interest::Before,
            _ => Interest::Nothing,
        }
    }

    async fn before(&self, call: &Call) -> Result<Verdict, Absent> {
        let asked = match &call.request {
            Request::StopContainer(stop) => CriCall::Stop {
                container: stop.container_id.clone(),
                grace_seconds: stop.timeout.try_into().unwrap_or(0),
            },
            Request::ExecSync(exec) => CriCall::Exec { container: exec.container_id.clone() },
            Request::CheckpointContainer(checkpoint) => {
                CriCall::Checkpoint { container: checkpoint.container_id.clone() }
            }
            Request::RunPodSandbox(run) => match starting(run) {
                Some(pod) => CriCall::Sandbox(pod),
                None => return Ok(Verdict::Pass),
            },
            _ => return Ok(Verdict::Pass),
        };
        let absent = |why: std::io::Error| Absent {
            need: Need::Benefit,
            reason: format!("{} was asked: {why}", self.socket.display()),
        };
        let answer = match &asked {
            CriCall::Sandbox(_) => self.tell(asked).await,
            _ => self.ask_patiently(asked).await,
        };
        Ok(match answer.map_err(absent)? {
            CriVerdict::Pass => Verdict::Pass,
            // An answer without fields: nothing printed, exit status 0.
            CriVerdict::Done => Verdict::Answer(Bytes::new()),
        })
    }
}

/// It is not there, or went away: it may come back. What it says itself stays.
fn is_away(why: &std::io::Error) -> bool {
    use std::io::ErrorKind::{
        BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof,
    };
    let away = [BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof];
    away.contains(&why.kind())
}

/// A stop after some time of its grace period.
fn less(call: &CriCall, gone: Duration) -> CriCall {
    match call {
        CriCall::Stop { container, grace_seconds } => CriCall::Stop {
            container: container.clone(),
            grace_seconds: grace_seconds.saturating_sub(gone.as_secs()),
        },
        other => other.clone(),
    }
}

/// A pod that will ask for what a store has.
fn starting(run: &RunPodSandbox) -> Option<StartingPod> {
    const ASK: [&str; 3] = [names::RESTORE_FROM, names::FORK_FROM, names::CHECKPOINT_ON_STOP];
    let config = run.config.as_ref()?;
    let pod = config.metadata.as_ref()?;
    ASK.iter().any(|name| config.annotations.contains_key(*name)).then(|| StartingPod {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        labels: config.labels.clone().into_iter().collect(),
        annotations: config.annotations.clone().into_iter().collect(),
    })
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    async fn answer(listener: &UnixListener) {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let reply = Reply::Done { result: serde_json::to_value(CriVerdict::Pass).unwrap() };
        let reply = serde_json::to_string(&reply).unwrap();
        stream.write_all(format!("{reply}\n").as_bytes()).await.unwrap();
    }

    fn stop() -> CriCall {
        CriCall::Stop { container: "c1".to_owned(), grace_seconds: 30 }
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_keeps_its_memory_waits_for_an_agent_that_is_started_anew() {
        let dir = tempfile::tempdir().unwrap();
        let agent = Agent { socket: dir.path().join("agent"), bundles: dir.path().to_owned() };
        let begun = Instant::now();
        assert!(agent.ask_patiently(stop()).await.is_err());
        assert_eq!(begun.elapsed(), Duration::ZERO);

        std::fs::create_dir(dir.path().join("c1")).unwrap();
        let spec = format!(r#"{{"annotations":{{"{}":"true"}}}}"#, names::CHECKPOINT_ON_STOP);
        std::fs::write(dir.path().join("c1/config.json"), spec).unwrap();
        assert!(agent.keeps("c1") && !agent.keeps("../c1") && !agent.keeps(""));
        assert!(agent.ask_patiently(stop()).await.is_err());
        assert!(begun.elapsed() >= Duration::from_secs(30), "{:?}", begun.elapsed());

        // It dies while it is asked, and comes back.
        let (asks, comes) = tokio::join!(agent.ask_patiently(stop()), async {
            let listener = UnixListener::bind(&agent.socket).unwrap();
            drop(listener.accept().await.unwrap());
            answer(&listener).await;
        });
        assert_eq!((asks.unwrap(), comes), (CriVerdict::Pass, ()));
    }
}
