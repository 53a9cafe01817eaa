//! The agent's word about calls: what it wants to see, and how it is asked.
//!
//! | Call | What for | Asked about | Without the agent | One that hangs |
//! |---|---|---|---|---|
//! | `StopContainer` | a pod that is deleted is stopped at a checkpoint first (`godwit.dev/checkpoint-on-stop`) | pods that ask for it | passes after its grace period, at most a minute: an agent that is started anew is waited for | passes [`UNTOLD`] after its grace period |
//! | `ExecSync` | a probe or hook of a pod that is held or has moved is answered at once | pods of our shim | passes | passes after [`A_WORD`] |
//! | `CheckpointContainer` | a durable checkpoint, besides the archive that the kubelet asks for | pods of our shim | passes | passes after [`BESIDE`] |
//! | `RunPodSandbox`, `CreateContainer` | what a pod will continue is read ahead; nobody waits for it | pods that ask for it | passes | passes after [`AT_MOST`] |
//!
//! Whose container it is, its bundle says: of others' no agent hears.
//! One connection for each call: lines of JSON (`godwit_wire::api`). Who gives a call up closes it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use godwit_types::names;
use godwit_wire::api::{self, CriCall, CriVerdict, MAX_REQUEST, Reply, StartingPod};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use crate::cri::{CreateContainer, Method, PodSandboxConfig, Request};
use crate::intercept::{Absent, Call, Intercept, Interest, Need, Verdict};

/// For an agent to be started anew: it looks at every pod before it serves.
const COMES_BACK: Duration = Duration::from_secs(60);
/// For a word that is only of benefit.
const AT_MOST: Duration = Duration::from_secs(1);
/// For a probe or hook of a pod of ours: it would fail where it is not answered.
const A_WORD: Duration = Duration::from_secs(10);
/// For a checkpoint: longer than the agent lets it take.
const BESIDE: Duration = Duration::from_secs(60);
/// For a stop to be told after its grace period. A kubelet gives it up after two minutes.
const UNTOLD: Duration = Duration::from_secs(30);
/// Between two questions.
const AGAIN: Duration = Duration::from_millis(250);

/// The agent of this node.
#[derive(Debug)]
pub struct Agent {
    socket: PathBuf,
    bundles: PathBuf,
    shims: PathBuf,
    /// Containers whose stop an agent that does not answer has held up already. Held up each time, they would never be killed.
    overdue: Mutex<BTreeSet<String>>,
}

/// What a container's bundle says of it.
#[derive(Debug, Default, Deserialize)]
struct Spec {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Agent {
    /// The one that serves this socket, when it does; of the containers of this containerd.
    #[must_use]
    pub fn new(socket: PathBuf, containerd: &Path) -> Self {
        let state = containerd.parent().unwrap_or(Path::new("/"));
        Self {
            socket,
            bundles: state.join(names::CRI_BUNDLES),
            shims: PathBuf::from(names::SHIM_SOCKETS),
            overdue: Mutex::default(),
        }
    }

    /// Asks if it concerns the agent, and not for longer than it is worth.
    async fn word(&self, call: CriCall) -> std::io::Result<CriVerdict> {
        let stopped = match &call {
            CriCall::Stop { container, .. } => Some(container.clone()),
            _ => None,
        };
        let is_overdue = stopped.as_ref().is_some_and(|one| self.overdue().contains(one));
        if is_overdue || !self.concerns(&call) {
            return Ok(CriVerdict::Pass);
        }
        match timeout(worth(&call), self.ask_patiently(call)).await {
            Ok(answer) => {
                if answer.is_ok() {
                    self.overdue().clear();
                }
                answer
            }
            Err(_) => {
                self.overdue().extend(stopped);
                Err(std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    "it does not answer: is it stopped, or hung?",
                ))
            }
        }
    }

    fn overdue(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.overdue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks, again for as long as somebody's memory is worth it.
    async fn ask_patiently(&self, call: CriCall) -> std::io::Result<CriVerdict> {
        let patience = match &call {
            CriCall::Stop { grace_seconds, .. } => {
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

    /// Whether there may be anything to say. Where containerd keeps its bundles elsewhere, there may be.
    fn concerns(&self, call: &CriCall) -> bool {
        let (CriCall::Stop { container, .. }
        | CriCall::Exec { container }
        | CriCall::Checkpoint { container }) = call
        else {
            return true;
        };
        let Some(spec) = self.spec(container) else { return !self.bundles.exists() };
        let says = |name: &str| spec.annotations.get(name).map(String::as_str);
        match call {
            CriCall::Stop { .. } => says(names::CHECKPOINT_ON_STOP) == Some("true"),
            _ => says(names::SANDBOX_UID).is_some_and(|uid| self.is_ours(uid)),
        }
    }

    /// What a container was made by; `None`: there is no such container, as far as one can see.
    fn spec(&self, container: &str) -> Option<Spec> {
        let spec = self.bundles.join(one_name(container)?).join("config.json");
        std::fs::read(spec).ok().and_then(|text| serde_json::from_slice(&text).ok())
    }

    /// Whether our shim serves the pod of this uid.
    fn is_ours(&self, uid: &str) -> bool {
        one_name(uid).is_some_and(|uid| self.shims.join(format!("{uid}.sock")).exists())
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
            | Method::RunPodSandbox
            | Method::CreateContainer => Interest::Before,
            _ => Interest::Nothing,
        }
    }

    async fn before(&self, call: &Call) -> Result<Verdict, Absent> {
        let Some(asked) = question(&call.request) else { return Ok(Verdict::Pass) };
        let absent = |why: std::io::Error| Absent {
            need: Need::Benefit,
            reason: format!("{} was asked: {why}", self.socket.display()),
        };
        Ok(match self.word(asked).await.map_err(absent)? {
            CriVerdict::Pass => Verdict::Pass,
            // An answer without fields: nothing printed, exit status 0.
            CriVerdict::Done => Verdict::Answer(Bytes::new()),
        })
    }
}

/// A name, not a way to somewhere else.
fn one_name(word: &str) -> Option<&str> {
    Path::new(word).file_name().filter(|name| *name == word).map(|_| word)
}

/// What an agent is asked about a call; `None`: nothing.
fn question(request: &Request) -> Option<CriCall> {
    Some(match request {
        Request::StopContainer(stop) => CriCall::Stop {
            container: stop.container_id.clone(),
            grace_seconds: stop.timeout.try_into().unwrap_or(0),
        },
        Request::ExecSync(exec) => CriCall::Exec { container: exec.container_id.clone() },
        Request::CheckpointContainer(checkpoint) => {
            CriCall::Checkpoint { container: checkpoint.container_id.clone() }
        }
        Request::RunPodSandbox(run) => CriCall::Sandbox(run.config.as_ref().and_then(starting)?),
        Request::CreateContainer(create) if is_first(create) => {
            CriCall::Sandbox(create.sandbox_config.as_ref().and_then(starting)?)
        }
        _ => return None,
    })
}

/// One that is made again after its end begins from its image.
fn is_first(create: &CreateContainer) -> bool {
    let metadata = create.config.as_ref().and_then(|config| config.metadata.as_ref());
    metadata.is_none_or(|metadata| metadata.attempt == 0)
}

/// How long an answer to it is waited for.
fn worth(call: &CriCall) -> Duration {
    match call {
        CriCall::Sandbox(_) => AT_MOST,
        CriCall::Exec { .. } => A_WORD,
        CriCall::Checkpoint { .. } => BESIDE,
        CriCall::Stop { grace_seconds, .. } => {
            Duration::from_secs(*grace_seconds).saturating_add(UNTOLD)
        }
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
fn starting(config: &PodSandboxConfig) -> Option<StartingPod> {
    const ASK: [&str; 3] = [names::RESTORE_FROM, names::FORK_FROM, names::CHECKPOINT_ON_STOP];
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
    use crate::cri::{ContainerConfig, ContainerMetadata, PodSandboxMetadata, RunPodSandbox};

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

    fn exec() -> CriCall {
        CriCall::Exec { container: "c1".to_owned() }
    }

    /// A node with no container yet.
    fn node(dir: &Path) -> Agent {
        let at = |name: &str| dir.join(name);
        let (socket, bundles, shims) = (at("agent"), at("bundles"), at("shims"));
        let agent = Agent { socket, bundles, shims, overdue: Mutex::default() };
        std::fs::create_dir(&agent.bundles).unwrap();
        std::fs::create_dir(&agent.shims).unwrap();
        agent
    }

    /// A container of the pod `uid` with these annotations besides.
    fn contain(agent: &Agent, name: &str, annotation: Option<&str>) {
        let bundle = agent.bundles.join(name);
        std::fs::create_dir_all(&bundle).unwrap();
        let asks = annotation.map(|value| format!(r#","{}":"{value}""#, names::CHECKPOINT_ON_STOP));
        let (uid, asks) = (names::SANDBOX_UID, asks.unwrap_or_default());
        let spec =
            format!(r#"{{"process":{{"args":["a"]}},"annotations":{{"{uid}":"uid"{asks}}}}}"#);
        std::fs::write(bundle.join("config.json"), spec).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_keeps_its_memory_waits_for_an_agent_that_is_started_anew() {
        let dir = tempfile::tempdir().unwrap();
        let agent = node(dir.path());
        let begun = Instant::now();
        contain(&agent, "c1", None);
        assert_eq!(agent.word(stop()).await.unwrap(), CriVerdict::Pass);
        assert_eq!(begun.elapsed(), Duration::ZERO);

        contain(&agent, "c1", Some("true"));
        assert!(agent.word(stop()).await.is_err());
        assert!(begun.elapsed() >= Duration::from_secs(30), "{:?}", begun.elapsed());

        // It dies while it is asked, and comes back.
        let (asks, comes) = tokio::join!(agent.word(stop()), async {
            let listener = UnixListener::bind(&agent.socket).unwrap();
            drop(listener.accept().await.unwrap());
            answer(&listener).await;
        });
        assert_eq!((asks.unwrap(), comes), (CriVerdict::Pass, ()));
    }

    #[test]
    fn what_a_pod_will_continue_is_asked_for_with_its_sandbox_and_with_its_containers() {
        let config = |annotation: &str| {
            let metadata = PodSandboxMetadata { name: "web".to_owned(), ..Default::default() };
            let annotations = [(annotation.to_owned(), "latest".to_owned())].into();
            Some(PodSandboxConfig { metadata: Some(metadata), annotations, ..Default::default() })
        };
        let both = |annotation: &str| {
            let config = config(annotation);
            let create = CreateContainer { sandbox_config: config.clone(), ..Default::default() };
            let run = RunPodSandbox { config, ..Default::default() };
            [Request::RunPodSandbox(run), Request::CreateContainer(create)]
        };
        for request in both(names::RESTORE_FROM) {
            let asked = question(&request);
            assert!(
                matches!(&asked, Some(CriCall::Sandbox(pod)) if pod.name == "web"),
                "{asked:?}"
            );
        }
        for request in both("example.com/other") {
            assert_eq!(question(&request), None);
        }
        let metadata = Some(ContainerMetadata { attempt: 1, ..Default::default() });
        let again = Some(ContainerConfig { metadata, ..Default::default() });
        let sandbox_config = config(names::RESTORE_FROM);
        let again = CreateContainer { config: again, sandbox_config, ..Default::default() };
        assert_eq!(question(&Request::CreateContainer(again)), None);
    }

    #[test]
    fn of_others_containers_no_agent_hears() {
        let dir = tempfile::tempdir().unwrap();
        let agent = node(dir.path());
        assert!(!agent.concerns(&stop()) && !agent.concerns(&exec()), "there is none");
        contain(&agent, "c1", None);
        assert!(!agent.concerns(&stop()) && !agent.concerns(&exec()), "of another runtime");
        std::fs::write(agent.shims.join("uid.sock"), "").unwrap();
        assert!(!agent.concerns(&stop()) && agent.concerns(&exec()), "of ours");
        contain(&agent, "c1", Some("false"));
        assert!(!agent.concerns(&stop()));
        contain(&agent, "c1", Some("true"));
        assert!(agent.concerns(&stop()));
        let other = |container: &str| CriCall::Exec { container: container.to_owned() };
        assert!(!agent.concerns(&other("../bundles/c1")) && !agent.concerns(&other("")));
        std::fs::remove_dir_all(&agent.bundles).unwrap();
        assert!(agent.concerns(&stop()) && agent.concerns(&exec()), "they are elsewhere");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_is_not_waited_for_longer_than_its_word_is_worth() {
        let dir = tempfile::tempdir().unwrap();
        let agent = node(dir.path());
        contain(&agent, "c1", Some("true"));
        std::fs::write(agent.shims.join("uid.sock"), "").unwrap();
        let _hung = UnixListener::bind(&agent.socket).unwrap();
        for (call, worth) in [(exec(), 10), (stop(), 60)] {
            let begun = Instant::now();
            let why = agent.word(call).await.unwrap_err();
            assert_eq!(why.kind(), std::io::ErrorKind::TimedOut);
            assert_eq!(begun.elapsed().as_secs(), worth);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_that_one_that_hangs_has_held_up_is_not_held_up_again() {
        let dir = tempfile::tempdir().unwrap();
        let agent = node(dir.path());
        contain(&agent, "c1", Some("true"));
        std::fs::write(agent.shims.join("uid.sock"), "").unwrap();
        let hung = UnixListener::bind(&agent.socket).unwrap();
        assert!(agent.word(stop()).await.is_err());
        let begun = Instant::now();
        assert_eq!(agent.word(stop()).await.unwrap(), CriVerdict::Pass);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        // It answers again: the next one waits for it.
        drop(hung.accept().await.unwrap());
        let (said, ()) = tokio::join!(agent.word(exec()), answer(&hung));
        assert_eq!(said.unwrap(), CriVerdict::Pass);
        drop(hung);
        assert!(agent.word(stop()).await.is_err());
    }
}
