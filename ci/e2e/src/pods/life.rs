//! One life of a pod: what has its name until another pod has. What tests ask of it and of its containers.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use godwit_lab::{Cluster, Node, wait};
use godwit_types::{CheckpointReport, names};
use serde_json::Value;

use super::{event, events};
use crate::container::SOON;

/// What [`super::Pod`] calls its container.
const MAIN: &str = "main";

/// A pod that is there.
#[derive(Debug, Clone)]
pub struct Life<'c> {
    cluster: &'c Cluster,
    /// Its name, which others have after it.
    pub name: String,
    /// Of the object.
    pub uid: String,
    /// Where it runs.
    pub node: String,
    /// Where it is reached.
    pub address: IpAddr,
}

impl<'c> Life<'c> {
    /// Has this object be made, and waits for its pod of this name.
    ///
    /// # Errors
    /// It is not ready in time.
    pub fn begin(cluster: &'c Cluster, object: &str, name: &str) -> Result<Self> {
        cluster.apply(object)?;
        Self::wait(cluster, name, None)
    }

    /// The pod of this name, when it is ready and another one than before.
    ///
    /// # Errors
    /// It is not in time.
    pub fn wait(cluster: &'c Cluster, name: &str, before: Option<&Self>) -> Result<Self> {
        let found = wait::until(&format!("{name} to be ready"), SOON, || {
            let found = cluster.get(&["pod", name]).map_err(|error| error.to_string())?;
            let is_new = before.is_none_or(|before| found["metadata"]["uid"] != *before.uid);
            let all = found["status"]["containerStatuses"].as_array();
            let is_ready = all.is_some_and(|all| all.iter().all(|one| one["ready"] == true));
            if is_new && is_ready { Ok(found) } else { Err(events(cluster)) }
        })?;
        Self::of(cluster, &found)
    }

    /// The pod of this object, which runs.
    ///
    /// # Errors
    /// It does not.
    pub fn of(cluster: &'c Cluster, object: &Value) -> Result<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned).context("a text");
        Ok(Self {
            cluster,
            name: text(&object["metadata"]["name"])?,
            uid: text(&object["metadata"]["uid"])?,
            node: text(&object["spec"]["nodeName"])?,
            address: text(&object["status"]["podIP"])?.parse()?,
        })
    }

    /// Where it runs.
    #[must_use]
    pub fn cluster(&self) -> &'c Cluster {
        self.cluster
    }

    /// What its object says now.
    ///
    /// # Errors
    /// The API server does not tell.
    pub fn object(&self) -> Result<Value> {
        Ok(self.cluster.get(&["pod", &self.name])?)
    }

    /// What an annotation of it says now.
    ///
    /// # Errors
    /// The API server does not tell.
    pub fn annotation(&self, name: &str) -> Result<Option<String>> {
        Ok(self.object()?["metadata"]["annotations"][name].as_str().map(str::to_owned))
    }

    /// What an event of this reason says of it.
    ///
    /// # Errors
    /// There is none in time.
    pub fn event(&self, reason: &str) -> Result<String> {
        event(self.cluster, &self.uid, reason)
    }

    /// What a command prints in its container.
    ///
    /// # Errors
    /// What `kubectl` says.
    pub fn exec(&self, words: &[&str]) -> Result<String> {
        self.exec_in(MAIN, words)
    }

    /// The same in another of its containers.
    ///
    /// # Errors
    /// What `kubectl` says.
    pub fn exec_in(&self, container: &str, words: &[&str]) -> Result<String> {
        let all = [&["exec", &self.name, "--container", container, "--"], words].concat();
        Ok(self.cluster.kubectl(&all)?)
    }

    /// The number that a file of its container has.
    ///
    /// # Errors
    /// There is none in time: it may be being written.
    pub fn number(&self, file: &str) -> Result<u64> {
        self.number_beyond(file, None)
    }

    /// Waits until a file of its container has a number beyond this.
    ///
    /// # Errors
    /// It has not in time.
    pub fn goes_beyond(&self, file: &str, last: u64) -> Result<u64> {
        self.number_beyond(file, Some(last))
    }

    fn number_beyond(&self, file: &str, last: Option<u64>) -> Result<u64> {
        Ok(wait::until(&format!("{} to get on", self.name), SOON, || {
            let read = self.exec(&["cat", file]);
            match read.as_ref().ok().and_then(|text| text.trim().parse().ok()) {
                Some(now) if Some(now) > last => Ok(now),
                _ => Err(format!("{read:?} after {last:?}: {}", events(self.cluster))),
            }
        })?)
    }

    /// It goes on from a point, beyond this number, and none of its containers was started twice.
    ///
    /// # Errors
    /// What is not so.
    pub fn went_on(&self, file: &str, last: u64) -> Result<()> {
        self.goes_beyond(file, last)?;
        let from = self.annotation(names::RESTORED_FROM)?;
        ensure!(from.is_some(), "{}", events(self.cluster));
        self.was_started_once()
    }

    /// None of its containers was started twice.
    ///
    /// # Errors
    /// One was.
    pub fn was_started_once(&self) -> Result<()> {
        let object = self.object()?;
        let all = object["status"]["containerStatuses"].as_array().context("its containers")?;
        ensure!(all.iter().all(|one| one["restartCount"] == 0), "{}", events(self.cluster));
        Ok(())
    }

    /// Asks for a checkpoint by annotation, and waits until the request is taken away.
    ///
    /// # Errors
    /// It is not in time.
    pub fn ask_for_checkpoint(&self) -> Result<()> {
        self.cluster.kubectl(&["annotate", "pod", &self.name, "godwit.dev/checkpoint=now"])?;
        self.wait_no_request()
    }

    /// Waits until no checkpoint is asked for.
    ///
    /// # Errors
    /// One is, for too long.
    pub fn wait_no_request(&self) -> Result<()> {
        wait::until("the request to be done", SOON, || match self.annotation(names::CHECKPOINT) {
            Ok(None) => Ok(()),
            _ => Err(events(self.cluster)),
        })?;
        Ok(())
    }

    /// The same, and it is made; its id.
    ///
    /// # Errors
    /// It was not made.
    pub fn checkpoint(&self) -> Result<String> {
        let before = self.annotation(names::LAST_CHECKPOINT)?;
        self.ask_for_checkpoint()?;
        // What was told of the one before may come late.
        Ok(wait::until("one to be made", SOON, || match self.annotation(names::LAST_CHECKPOINT) {
            Ok(Some(made)) if before.as_ref() != Some(&made) => Ok(made),
            _ => Err(events(self.cluster)),
        })?)
    }

    /// Has an administrator of its node stop it at a checkpoint.
    ///
    /// # Errors
    /// It was not made.
    pub fn stop_on(&self, node: &Node) -> Result<CheckpointReport> {
        let object = self.object()?;
        let id = object["status"]["containerStatuses"][0]["containerID"].as_str();
        let id = id.context("it runs")?.trim_start_matches("containerd://");
        let words = ["godwit", "checkpoint", "--output", "json", "--stop", "--namespace", "k8s.io"];
        Ok(serde_json::from_str(&node.run(&[&words[..], &[id]].concat())?)?)
    }

    /// Deletes its object, or that of its owner, and waits until the pod is gone.
    ///
    /// # Errors
    /// It does not go in time.
    pub fn delete(&self, object: &str) -> Result<()> {
        super::delete(self.cluster, object)?;
        self.wait_gone()
    }

    fn wait_gone(&self) -> Result<()> {
        let pod = format!("pod/{}", self.name);
        Ok(self.cluster.wait_for(&[&pod], "delete")?)
    }

    /// Deletes a pod of nobody that keeps its memory; the checkpoint that it was stopped at.
    ///
    /// # Errors
    /// It does not go in time, or kept nothing.
    pub fn stop(&self) -> Result<String> {
        super::delete(self.cluster, &format!("pod/{}", self.name))?;
        self.stopped_at()
    }

    /// Which checkpoint it was stopped at, once its object is gone.
    ///
    /// # Errors
    /// It does not go in time, or none was told.
    pub fn stopped_at(&self) -> Result<String> {
        self.wait_gone()?;
        let note = self.event("CheckpointCompleted")?;
        let id = note.split_whitespace().nth(1).with_context(|| note.clone())?;
        Ok(id.to_owned())
    }
}
