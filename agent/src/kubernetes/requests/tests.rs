//! A request stands until it is taken away, and is taken away by its value.

use std::collections::VecDeque;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::super::fake::{self, lock, pod, read};
use super::*;

fn asks(value: &str) -> Pod {
    read(&pod(json!({ names::CHECKPOINT: value })))
}

#[test]
fn a_request_is_begun_once_until_it_was_taken_away() {
    let mut requests = Requests::default();
    assert_eq!(requests.begin(&asks("now")).as_deref(), Some("u1"));
    assert_eq!(requests.begin(&asks("now")), None, "it is at work");
    requests.ended("u1", None);
    assert_eq!(requests.begin(&asks("now")), None, "it could not be taken away yet");
    assert_eq!(requests.begin(&read(&pod(json!({})))), None);
    assert!(requests.begin(&asks("now")).is_some(), "it is asked for again");
}

#[test]
fn a_request_is_another_one_by_its_value_or_after_it_was_taken_away() {
    let mut served = Served { value: "now".to_owned(), taken_at: None };
    assert!(served.is("now", Some(7)));
    assert!(!served.is("soon", Some(7)));
    served.taken_at = Some(8);
    // What is told late is what it was.
    assert!(served.is("now", Some(7)) && served.is("now", Some(8)) && served.is("now", None));
    assert!(!served.is("now", Some(9)));
}

#[test]
fn a_request_that_was_taken_away_unseen_and_made_again_is_begun_again() {
    let mut requests = Requests::default();
    assert!(requests.begin(&asks("now")).is_some());
    requests.ended("u1", Some(2));
    assert_eq!(requests.begin(&asks("now")), None, "it is told late");
    let mut again = asks("now");
    again.metadata.resource_version = Some("3".to_owned());
    assert!(requests.begin(&again).is_some());
}

#[test]
fn another_value_is_another_request_and_waits_for_the_one_before() {
    let mut requests = Requests::default();
    assert!(requests.begin(&asks("now")).is_some());
    assert_eq!(requests.begin(&asks("later")), None, "one at a time for each pod");
    requests.ended("u1", None);
    assert!(requests.begin(&asks("later")).is_some());
}

#[test]
fn an_agent_that_comes_anew_carries_out_what_stands() {
    assert!(Requests::default().begin(&asks("now")).is_some());
    assert!(Requests::default().begin(&asks("now")).is_some());
}

#[test]
fn a_pod_that_ends_or_does_not_run_yet_is_not_asked() {
    let mut requests = Requests::default();
    let mut starts = asks("now");
    let status = starts.status.take();
    assert_eq!(requests.begin(&starts), None);
    starts.status = status;
    let mut ends = starts.clone();
    ends.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
    assert_eq!(requests.begin(&ends), None);
    assert!(requests.begin(&starts).is_some(), "it waits until something runs");
}

#[test]
fn a_pod_that_is_gone_is_forgotten() {
    let mut requests = Requests::default();
    assert!(requests.begin(&asks("now")).is_some());
    requests.ended("u1", None);
    requests.forget(|uid| uid == "another");
    assert_eq!(requests.begin(&asks("now")), None);
    requests.forget(|uid| uid == "u1");
    assert!(requests.begin(&asks("now")).is_some());
}

/// Acknowledges the request of a pod, as it was when it was begun. What the server had been told before it succeeded.
async fn acknowledged(faults: &[u16], meanwhile: Option<fn(&mut Value)>) -> (usize, [Value; 2]) {
    let (api, server) = fake::server(&pod(json!({ names::CHECKPOINT: "now" })));
    {
        let mut server = lock(&server);
        server.faults = faults.iter().copied().collect::<VecDeque<_>>();
        server.meanwhile = meanwhile;
    }
    let written = Annotations::from([(names::LAST_CHECKPOINT, Some("c1".to_owned()))]);
    let begun = asks("now");
    let taken = || api.acknowledge(&begun, names::CHECKPOINT, written.clone());
    tells::persist(&api, TRIES, taken).await.unwrap();
    let server = lock(&server);
    let after = [names::CHECKPOINT, names::LAST_CHECKPOINT].map(|name| server.annotation(name));
    (server.patches.len(), after)
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_for_is_taken_away_and_what_was_made_is_told() {
    assert_eq!(acknowledged(&[], None).await, (1, [Value::Null, json!("c1")]));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_busy_or_fails_is_told_again() {
    assert_eq!(acknowledged(&[429, 500, 503], None).await, (4, [Value::Null, json!("c1")]));
}

#[tokio::test(start_paused = true)]
async fn somebody_who_writes_in_between_is_not_written_over() {
    let labels = |pod: &mut Value| pod["metadata"]["labels"] = json!({"a": "b"});
    assert_eq!(acknowledged(&[], Some(labels)).await, (2, [Value::Null, json!("c1")]));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_has_come_in_between_stands() {
    let asks_again = |pod: &mut Value| {
        pod["metadata"]["annotations"][names::CHECKPOINT] = json!("later");
    };
    assert_eq!(acknowledged(&[], Some(asks_again)).await, (2, [json!("later"), json!("c1")]));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_gone_or_another_of_its_name_is_left_alone() {
    let (api, server) = fake::server(&pod(json!({ names::CHECKPOINT: "now" })));
    if let Some(pod) = &mut lock(&server).pod {
        pod["metadata"]["uid"] = json!("u2");
    }
    let begun = asks("now");
    api.acknowledge(&begun, names::CHECKPOINT, Annotations::new()).await.unwrap();
    lock(&server).pod = None;
    api.acknowledge(&begun, names::CHECKPOINT, Annotations::new()).await.unwrap();
    assert!(lock(&server).patches.is_empty());
}

/// Its host has vanished, of which the watch has not heard yet.
#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_told_when_it_does() {
    let (api, server) = fake::server(&pod(json!({ names::CHECKPOINT: "now" })));
    lock(&server).silent = 5 * TRIES;
    let begun = asks("now");
    let taken = || api.acknowledge(&begun, names::CHECKPOINT, Annotations::new());
    tells::persist(&api, TRIES, taken).await.unwrap();
    assert_eq!(lock(&server).annotation(names::CHECKPOINT), Value::Null);
}

#[tokio::test(start_paused = true)]
async fn what_a_server_does_not_permit_is_not_asked_again_and_again() {
    let (api, server) = fake::server(&pod(json!({ names::CHECKPOINT: "now" })));
    lock(&server).faults = vec![403; 20].into();
    let begun = asks("now");
    let taken = || api.acknowledge(&begun, names::CHECKPOINT, Annotations::new());
    assert!(tells::persist(&api, TRIES, taken).await.is_err());
    assert_eq!(lock(&server).patches.len(), 1);
    // One that always fails is given up.
    lock(&server).faults = vec![500; 20].into();
    assert!(tells::persist(&api, TRIES, taken).await.is_err());
    assert_eq!(lock(&server).patches.len(), 1 + TRIES as usize);
}
