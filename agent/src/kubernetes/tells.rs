//! What users are told on their pods: events and annotations of whatever the engine does to them, whoever asked for it, in order. While the
//! API server is away it waits; what is told beyond [`godwit_engine::news`]'s queue is lost then.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use godwit_engine::news::{News, What, Why};
use godwit_types::{CheckpointReport, names};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc;

use super::api::{Annotations, Api, Told};

/// Between tries: 1 s, 2 s, … .
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// News that wait to be told.
const WAIT: usize = 256;
/// Of what others wait behind.
const TRIES: u32 = 3;

/// Tells for ever, in order. Whose news it is is looked up when it comes, unless very many wait: its pod may be gone when its turn is.
pub(super) async fn forever(api: &Api, news: broadcast::Receiver<News>) {
    let (seen, mut all) = mpsc::channel::<(Arc<Pod>, What)>(WAIT);
    let tells = async {
        while let Some((pod, what)) = all.recv().await {
            tell(api, &pod, what).await;
        }
    };
    tokio::join!(look_up(api, news, seen), tells);
}

async fn look_up(
    api: &Api,
    mut news: broadcast::Receiver<News>,
    seen: mpsc::Sender<(Arc<Pod>, What)>,
) {
    let mut looked_up = FuturesOrdered::new();
    let mut is_over = false;
    loop {
        tokio::select! {
            one = news.recv(), if !is_over && looked_up.len() < WAIT => match one {
                // Containers without Kubernetes are nobody's pod.
                Ok(News { pod, .. }) if pod.contains('+') => {}
                Ok(News { pod, what }) => looked_up.push_back(async move {
                    found(api, &pod).await.map(|pod| (pod, what))
                }),
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "too much happened at once: not everything is told");
                }
                Err(RecvError::Closed) => is_over = true,
            },
            Some(found) = looked_up.next() => {
                if let Some(one) = found && seen.send(one).await.is_err() {
                    return;
                }
            }
            else => return,
        }
    }
}

async fn tell(api: &Api, pod: &Pod, what: What) {
    let (written, event) = (annotations(&what), event(&what));
    let told = persist(api, TRIES, || async {
        if !written.is_empty() {
            api.annotate(pod, &written).await?;
        }
        api.tell(pod, event.clone()).await
    });
    if let Err(error) = told.await {
        tracing::warn!(pod = pod.name_any(), event = event.reason, %error, "a pod's users could not be told");
    }
}

/// The pod of this uid; one that only an API server which is away may know is waited for.
async fn found(api: &Api, uid: &str) -> Option<Arc<Pod>> {
    loop {
        let found = api.pod_soon(uid).await;
        if found.is_some() || api.away_since().is_none() {
            return found;
        }
        // All were listed once, and it answers: there is no such pod.
        if api.pods().is_some() && api.answers().await {
            return api.pod_soon(uid).await;
        }
    }
}

/// Does it again until the API server has answered: for as long as it is away, and so many times while it is not.
pub(super) async fn persist<T, F>(api: &Api, tries: u32, act: impl Fn() -> F) -> kube::Result<T>
where
    F: Future<Output = kube::Result<T>>,
{
    let (mut wait, mut left) = (FIRST_WAIT, tries);
    loop {
        let error = match act().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        // Of one that has vanished the watch hears minutes later.
        let says_nothing = !matches!(error, kube::Error::Api(_));
        let is_away = (says_nothing || api.away_since().is_some()) && !api.answers().await;
        left = if is_away { tries } else { left.saturating_sub(1) };
        if left == 0 || is_an_answer(&error) {
            return Err(error);
        }
        tracing::info!(%error, "what was done cannot be told yet");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// It would be the same another time: not one of too many requests, nor of somebody who wrote in between.
fn is_an_answer(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    (400..500).contains(&status.code) && ![409, 429].contains(&status.code)
}

/// What a pod's annotations say after a checkpoint of it.
pub(super) fn of_checkpoint(report: &CheckpointReport) -> Annotations {
    Annotations::from([
        (names::LAST_CHECKPOINT, Some(report.checkpoint.to_string())),
        (names::LAST_CHECKPOINT_TIME, Some(time(report.checkpoint.timestamp_ms()))),
        (names::LINEAGE, Some(report.lineage.to_string())),
    ])
}

fn annotations(what: &What) -> Annotations {
    match what {
        What::CheckpointCompleted(report) => of_checkpoint(report),
        What::RestoreSucceeded(report) => {
            let from = Some(report.checkpoint.to_string());
            Annotations::from([
                (names::RESTORED_FROM, from),
                (names::LINEAGE, Some(report.lineage.to_string())),
            ])
        }
        _ => Annotations::new(),
    }
}

fn event(what: &What) -> Told {
    let normal = |reason: &str, action: String, note: String| Told {
        warns: false,
        reason: reason.to_owned(),
        action,
        note,
    };
    let warning = |reason: &str, action: &str, why: &Why| Told {
        warns: true,
        reason: why.reason.unwrap_or(reason).to_owned(),
        action: action.to_owned(),
        note: why.told.clone(),
    };
    match what {
        What::CheckpointStarted => {
            normal("CheckpointStarted", "Checkpoint".to_owned(), "a checkpoint is made".to_owned())
        }
        What::CheckpointCompleted(report) => {
            let sizes = &report.sizes;
            let note = format!(
                "checkpoint {} of {}: {} of memory, {} stored, frozen for {:.1} ms, durable after {:.1} s",
                report.checkpoint,
                report.containers.join(", "),
                sizes.memory,
                sizes.uploaded,
                report.frozen_ms,
                report.durable_ms / 1e3
            );
            normal("CheckpointCompleted", format!("Checkpoint/{}", report.checkpoint), note)
        }
        What::CheckpointFailed(why) => warning("CheckpointFailed", "Checkpoint", why),
        What::RestoreStarted(checkpoint) => normal(
            "RestoreStarted",
            format!("Restore/{checkpoint}"),
            format!("the pod continues from checkpoint {checkpoint}"),
        ),
        What::RestoreSucceeded(report) => {
            let note = format!(
                "runs from checkpoint {} {:.1} s after it was asked for",
                report.checkpoint,
                report.resumed_ms / 1e3
            );
            normal("RestoreSucceeded", format!("Restore/{}", report.checkpoint), note)
        }
        What::RestoreFailed(why) => warning("RestoreFailed", "Restore", why),
        What::StartedFromImage(why) => warning("StartedFromImage", "Restore", why),
    }
}

/// RFC 3339.
fn time(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use godwit_types::Code;

    use super::*;

    #[test]
    fn a_failure_with_a_name_is_told_by_it() {
        let why = |reason| Why { code: Code::Refused, reason, told: "because".to_owned() };
        let told = event(&What::StartedFromImage(why(Some("TemplateChanged"))));
        assert_eq!((told.reason.as_str(), told.warns), ("TemplateChanged", true));
        assert_eq!(event(&What::RestoreFailed(why(None))).reason, "RestoreFailed");
        assert!(annotations(&What::RestoreFailed(why(None))).is_empty());
    }

    #[test]
    fn times_are_as_kubernetes_writes_them() {
        assert_eq!(time(1_700_000_000_000), "2023-11-14T22:13:20Z");
    }
}
