//! What a cluster tells of its pods, and their deletion.

use anyhow::Result;
use godwit_lab::{Cluster, wait};

use crate::container::SOON;

/// The last event of this reason about the pod of this uid: what it says.
///
/// # Errors
/// There is none.
pub fn event(cluster: &Cluster, uid: &str, reason: &str) -> Result<String> {
    let field = format!("--field-selector=involvedObject.uid={uid},reason={reason}");
    Ok(wait::until(&format!("the event {reason}"), SOON, || {
        let found = cluster.get(&["events", "--sort-by=.metadata.creationTimestamp", &field]);
        let found = found.map_err(|error| error.to_string())?;
        let newest = found["items"].as_array().and_then(|all| all.last());
        let note = newest.and_then(|event| event["message"].as_str());
        note.map(str::to_owned).ok_or_else(|| events(cluster))
    })?)
}

/// Waits until some event of this reason about the pod of this uid has one of these words.
///
/// # Errors
/// None has.
pub fn event_says(cluster: &Cluster, uid: &str, reason: &str, words: &[&str]) -> Result<()> {
    let field = format!("--field-selector=involvedObject.uid={uid},reason={reason}");
    Ok(wait::until(&format!("an event {reason} with one of {words:?}"), SOON, || {
        let found = cluster.get(&["events", &field]).map_err(|error| error.to_string())?;
        let said = found["items"].to_string();
        if words.iter().any(|word| said.contains(word)) { Ok(()) } else { Err(said) }
    })?)
}

/// The number in a file of a pod's container, which may be being written, or be not there yet.
///
/// # Errors
/// There is none in time.
pub fn number(cluster: &Cluster, pod: &str, container: Option<&str>, file: &str) -> Result<u64> {
    let container = container.map(|name| format!("--container={name}"));
    let words = ["exec", pod].into_iter().chain(container.as_deref());
    let words: Vec<&str> = words.chain(["--", "cat", file]).collect();
    Ok(wait::until(&format!("a number in {file} of {pod}"), SOON, || {
        let text = cluster.kubectl(&words).map_err(|error| error.to_string())?;
        text.trim().parse().map_err(|_| format!("{text:?}"))
    })?)
}

/// How many events of this reason there are about the pod of this uid.
///
/// # Errors
/// The API server does not tell.
pub fn count_events(cluster: &Cluster, uid: &str, reason: &str) -> Result<usize> {
    let field = format!("--field-selector=involvedObject.uid={uid},reason={reason}");
    let found = cluster.get(&["events", &field])?;
    Ok(found["items"].as_array().map_or(0, Vec::len))
}

/// All that was told in a cluster, for who waits in vain.
#[must_use]
pub fn events(cluster: &Cluster) -> String {
    cluster.kubectl(&["get", "events"]).unwrap_or_else(|error| error.to_string())
}

/// Deletes an object and waits until it is gone.
///
/// # Errors
/// It does not go in time.
pub fn delete(cluster: &Cluster, object: &str) -> Result<()> {
    cluster.kubectl(&["delete", object, "--timeout=180s"])?;
    Ok(())
}
