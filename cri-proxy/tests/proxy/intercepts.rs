//! Who looks into calls: what is shown, what can be said, and what containerd gets.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut as _, Bytes, BytesMut};
use godwit_cri_proxy::cri::{ExecSyncAnswer, Method, Request as Asked};
use godwit_cri_proxy::intercept::{Absent, Call, Intercept, Interest, Need, Outcome, Verdict};
use godwit_cri_proxy::limits::MAX_SEEN;
use godwit_cri_proxy::status::{GrpcCode, Status};
use k8s_cri::v1;
use prost::Message as _;
use tokio::sync::{Semaphore, watch};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request};

use crate::bed::Bed;
use crate::client::SOON;
use crate::frames::{connect, request};

/// Says what it was told to say, as soon as it may.
struct Guard {
    interest: Interest,
    verdict: Result<Verdict, Absent>,
    may_speak: Semaphore,
    /// Calls that it thinks about.
    thinking: watch::Sender<usize>,
    shown: Mutex<Vec<Call>>,
    outcomes: Mutex<Vec<Outcome>>,
}

impl Guard {
    fn saying(interest: Interest, verdict: Result<Verdict, Absent>) -> Arc<Self> {
        Arc::new(Self {
            interest,
            verdict,
            may_speak: Semaphore::new(Semaphore::MAX_PERMITS),
            thinking: watch::Sender::new(0),
            shown: Mutex::default(),
            outcomes: Mutex::default(),
        })
    }

    /// One that thinks until it is told to stop.
    fn thinking(verdict: Verdict) -> Arc<Self> {
        let mut guard = Self::saying(Interest::Before, Ok(verdict));
        Arc::get_mut(&mut guard).unwrap().may_speak = Semaphore::new(0);
        guard
    }

    async fn thinks_about(&self, count: usize) {
        let mut thinking = self.thinking.subscribe();
        tokio::time::timeout(SOON, thinking.wait_for(|n| *n == count)).await.unwrap().unwrap();
    }

    fn shown(&self) -> Vec<Call> {
        self.shown.lock().unwrap().clone()
    }
}

struct Thought<'a>(&'a watch::Sender<usize>);

impl Drop for Thought<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

#[async_trait]
impl Intercept for Guard {
    fn interest(&self, method: Method) -> Interest {
        match method {
            Method::StopContainer => Interest::Nothing,
            _ => self.interest,
        }
    }

    async fn before(&self, call: &Call) -> Result<Verdict, Absent> {
        self.shown.lock().unwrap().push(call.clone());
        self.thinking.send_modify(|n| *n += 1);
        let _thought = Thought(&self.thinking);
        self.may_speak.acquire().await.unwrap().forget();
        self.verdict.clone()
    }

    async fn after(&self, _: &Call, outcome: &Outcome) {
        self.outcomes.lock().unwrap().push(outcome.clone());
    }
}

fn path(method: Method) -> PathAndQuery {
    method.path().parse().unwrap()
}

fn exec() -> Bytes {
    let asked = v1::ExecSyncRequest {
        container_id: "c1".to_owned(),
        cmd: vec!["/bin/probe".to_owned(), "-v".to_owned()],
        timeout: 7,
    };
    let mut bytes = asked.encode_to_vec();
    // Of a newer kubelet.
    prost::encoding::string::encode(99, &"new".to_owned(), &mut bytes);
    Bytes::from(bytes)
}

fn absent(need: Need) -> Result<Verdict, Absent> {
    Err(Absent { need, reason: "pod web cannot be asked for".to_owned() })
}

#[tokio::test]
async fn a_call_that_passes_is_shown_and_containerd_gets_the_bytes_that_came() {
    let guard = Guard::saying(Interest::Before, Ok(Verdict::Pass));
    let (bed, runtime) = Bed::watched(guard.clone());
    let mut request = Request::new(exec());
    request.set_timeout(Duration::from_secs(600));
    let answer = bed.client().at(path(Method::ExecSync), request).await.unwrap();
    assert_eq!(answer, exec());
    assert_eq!(*runtime.seen.requests.lock().unwrap(), [exec()]);
    let [call] = guard.shown().try_into().unwrap();
    let Asked::ExecSync(shown) = call.request else { panic!("{call:?}") };
    assert_eq!((shown.container_id.as_str(), shown.timeout), ("c1", 7));
    assert_eq!(shown.cmd, ["/bin/probe", "-v"]);
    let left = call.deadline.unwrap().saturating_duration_since(std::time::Instant::now());
    assert!(left > Duration::from_secs(500), "{left:?}");
    assert!(guard.outcomes.lock().unwrap().is_empty(), "it did not ask for them");
}

#[tokio::test]
async fn every_method_that_can_be_looked_into_is_shown_and_no_other() {
    let guard = Guard::saying(Interest::Before, Ok(Verdict::Pass));
    let (bed, runtime) = Bed::watched(guard.clone());
    let client = bed.client();
    for method in Method::ALL {
        client.at(path(method), Request::new(Bytes::new())).await.unwrap();
    }
    let others = ["/runtime.v1.RuntimeService/ListContainers", "/test.v9.Invented/ExecSync"];
    for other in others {
        client.at(other.parse().unwrap(), Request::new(Bytes::new())).await.unwrap();
    }
    // All but the one that it has no interest in.
    assert_eq!(guard.shown().len(), Method::ALL.len() - 1);
    assert_eq!(runtime.seen.requests.lock().unwrap().len(), Method::ALL.len() + others.len());
}

#[tokio::test]
async fn a_call_can_be_answered_without_containerd() {
    let said = ExecSyncAnswer { stdout: Bytes::from("ok"), stderr: Bytes::new(), exit_code: 3 };
    let verdict = Verdict::Answer(Bytes::from(said.encode_to_vec()));
    let (bed, runtime) = Bed::watched(Guard::saying(Interest::Before, Ok(verdict)));
    let answer = bed.client().at(path(Method::ExecSync), Request::new(exec())).await.unwrap();
    let heard = v1::ExecSyncResponse::decode(answer).unwrap();
    assert_eq!((heard.stdout.as_slice(), heard.exit_code), (&b"ok"[..], 3));
    assert_eq!(runtime.seen.requests.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn a_call_can_be_ended_without_containerd() {
    let status = Status::new(GrpcCode::FailedPrecondition, "web was taken over by node-2");
    let guard = Guard::saying(Interest::Around, Ok(Verdict::End(status)));
    let (bed, runtime) = Bed::watched(guard.clone());
    let error = bed.client().at(path(Method::StartContainer), Request::new(exec())).await;
    let error = error.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert_eq!(error.message(), "web was taken over by node-2");
    assert_eq!(runtime.seen.requests.lock().unwrap().len(), 0);
    assert!(guard.outcomes.lock().unwrap().is_empty(), "containerd has not answered");
}

#[tokio::test]
async fn a_call_that_is_held_waits_and_all_others_go_on() {
    let guard = Guard::thinking(Verdict::Pass);
    let (bed, runtime) = Bed::watched(guard.clone());
    let client = bed.client();
    let held = tokio::spawn({
        let client = client.clone();
        async move { client.at(path(Method::ExecSync), Request::new(exec())).await }
    });
    guard.thinks_about(1).await;
    assert_eq!(client.unary("Echo", "meanwhile").await.unwrap(), "meanwhile");
    assert_eq!(*runtime.seen.requests.lock().unwrap(), ["meanwhile"]);
    guard.may_speak.add_permits(1);
    assert_eq!(held.await.unwrap().unwrap(), exec());
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_thought_about_its_call() {
    let guard = Guard::thinking(Verdict::Pass);
    let (bed, runtime) = Bed::watched(guard.clone());
    let client = bed.client();
    let held = tokio::spawn({
        let client = client.clone();
        async move { client.at(path(Method::ExecSync), Request::new(exec())).await }
    });
    guard.thinks_about(1).await;
    held.abort();
    guard.thinks_about(0).await;
    assert_eq!(client.unary("Echo", "x").await.unwrap(), "x");
    assert_eq!(runtime.seen.requests.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_call_is_held_no_longer_than_its_deadline() {
    let guard = Guard::thinking(Verdict::Pass);
    let (bed, runtime) = Bed::watched(guard.clone());
    // A client without a clock of its own: only the words are there.
    let mut client = connect(&bed.socket()).await;
    let mut asked = request(&Method::StartContainer.path());
    asked.headers_mut().insert("grpc-timeout", "100m".parse().unwrap());
    let (response, mut send) = client.send_request(asked, false).unwrap();
    send.send_data(Bytes::from_static(&[0, 0, 0, 0, 0]), true).unwrap();
    let response = tokio::time::timeout(SOON, response).await.unwrap().unwrap();
    assert_eq!(response.headers().get("grpc-status").unwrap(), "4");
    guard.thinks_about(0).await;
    assert_eq!(runtime.seen.requests.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn without_the_agent_calls_that_need_it_for_safety_fail_and_all_others_pass() {
    let (bed, runtime) = Bed::watched(Guard::saying(Interest::Around, absent(Need::Safety)));
    let error = bed.client().at(path(Method::StartContainer), Request::new(exec())).await;
    let error = error.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.message().starts_with("pod web cannot be asked for: "), "{error:?}");
    assert!(error.message().contains("systemctl status godwit-agent"), "{error:?}");
    assert_eq!(runtime.seen.requests.lock().unwrap().len(), 0);
    assert_eq!(bed.client().unary("Echo", "x").await.unwrap(), "x");
    let (bed, _runtime) = Bed::watched(Guard::saying(Interest::Around, absent(Need::Benefit)));
    let answer = bed.client().at(path(Method::StartContainer), Request::new(exec())).await;
    assert_eq!(answer.unwrap(), exec());
}

#[tokio::test]
async fn what_containerd_answered_is_shown_and_passes_unchanged() {
    let guard = Guard::saying(Interest::Around, Ok(Verdict::Pass));
    let (bed, runtime) = Bed::watched(guard.clone());
    let client = bed.client();
    let answer = client.at(path(Method::ExecSync), Request::new(exec())).await.unwrap();
    assert_eq!(answer, exec());
    let long = Bytes::from(vec![0; 3 << 20]);
    let answer = client.at(path(Method::ExecSync), Request::new(long.clone())).await.unwrap();
    assert!(answer == long);
    let shown = std::mem::take(&mut *guard.outcomes.lock().unwrap());
    // A message of three million zeros is no request: it passed unseen.
    assert_eq!(shown, [Outcome { code: Some(0), message: Some(exec()) }]);
    drop(runtime);
    let error = client.at(path(Method::ExecSync), Request::new(exec())).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(*guard.outcomes.lock().unwrap(), [], "containerd did not answer");
}

#[tokio::test]
async fn what_cannot_be_read_passes_unseen() {
    let status = Status::new(GrpcCode::Internal, "nobody may pass");
    let guard = Guard::saying(Interest::Around, Ok(Verdict::End(status)));
    let (bed, runtime) = Bed::watched(guard.clone());
    let client = bed.client();
    let noise = Bytes::from_static(&[0x0a, 0xff, 0xff]);
    let answer = client.at(path(Method::ExecSync), Request::new(noise.clone())).await.unwrap();
    assert_eq!(answer, noise);
    // A field of its own that makes it longer than what is looked at.
    let mut large = exec().to_vec();
    prost::encoding::bytes::encode(99, &vec![7; MAX_SEEN], &mut large);
    let large = Bytes::from(large);
    let answer = client.at(path(Method::ExecSync), Request::new(large.clone())).await.unwrap();
    assert!(answer == large, "{} bytes", answer.len());
    assert_eq!(guard.shown(), []);
    assert_eq!(runtime.seen.requests.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_message_that_comes_in_pieces_is_one() {
    let guard = Guard::saying(Interest::Before, Ok(Verdict::Pass));
    let (bed, runtime) = Bed::watched(guard.clone());
    let mut client = connect(&bed.socket()).await;
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(exec().len()).unwrap());
    framed.put(exec());
    let mut framed = framed.freeze();
    let (response, mut send) =
        client.send_request(request(&Method::ExecSync.path()), false).unwrap();
    while !framed.is_empty() {
        send.send_data(framed.split_to(framed.len().min(3)), false).unwrap();
    }
    send.send_data(Bytes::new(), true).unwrap();
    tokio::time::timeout(SOON, response).await.unwrap().unwrap();
    assert_eq!(*runtime.seen.requests.lock().unwrap(), [exec()]);
    assert_eq!(guard.shown().len(), 1);
}
