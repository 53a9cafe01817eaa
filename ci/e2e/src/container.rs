//! A container as its user runs, checkpoints, restores and forks it: `ctr` and `godwit`, nothing else.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use godwit_lab::{Image, Node, PodNetwork, Spawned, wait};
use godwit_types::{CheckpointReport, names};

use crate::clean;

/// The runtime, as users write it.
pub const RUNTIME: &str = "io.containerd.godwit.v2";
/// For anything to happen on a busy machine.
pub const SOON: Duration = Duration::from_secs(180);
/// Where programs keep their last line of progress: in the writable layer.
pub const PROGRESS: &str = "/progress";
/// Where containerd keeps what runs: a directory for each task.
pub const BUNDLES: &str = "/run/containerd/io.containerd.runtime.v2.task/default";

/// What is given to `ctr run`, the same on every node.
#[derive(Debug, Clone)]
pub struct Container {
    /// Container id.
    pub id: String,
    image: Image,
    options: Vec<String>,
    words: Vec<String>,
}

impl Container {
    /// A container of this image and command; without words, the image's own.
    #[must_use]
    pub fn new(id: &str, image: Image, words: &[&str]) -> Self {
        let words = words.iter().map(|&w| w.to_owned()).collect();
        Self { id: id.to_owned(), image, options: Vec::new(), words }
    }

    /// With more options of `ctr run`.
    #[must_use]
    pub fn with(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(|&o| o.to_owned()));
        self
    }

    /// In a pod's network, whose path is the same on every node.
    #[must_use]
    pub fn on(self, network: &PodNetwork) -> Self {
        self.with(&["--with-ns", &format!("network:{}", network.path)])
    }

    /// The same under another id.
    #[must_use]
    pub fn named(&self, id: &str) -> Self {
        Self { id: id.to_owned(), ..self.clone() }
    }

    /// Runs it anew.
    ///
    /// # Errors
    /// What `ctr` says.
    pub fn run(&self, node: &Node) -> Result<()> {
        self.start(node, &[])
    }

    /// Continues it from a checkpoint.
    ///
    /// # Errors
    /// What `ctr` says.
    pub fn restore(&self, node: &Node, checkpoint: &str) -> Result<()> {
        self.start(node, &["--annotation", &format!("godwit.dev/restore-from={checkpoint}")])
    }

    /// Starts a copy of a checkpoint.
    ///
    /// # Errors
    /// What `ctr` says.
    pub fn fork(&self, node: &Node, checkpoint: &str) -> Result<()> {
        self.start(node, &["--annotation", &format!("godwit.dev/fork-from={checkpoint}")])
    }

    fn start(&self, node: &Node, annotation: &[&str]) -> Result<()> {
        node.run(&self.ctr_run(node, &[&["--detach"], annotation].concat()))?;
        Ok(())
    }

    /// Runs it with its streams attached to the child that is returned: anew, or continued from a checkpoint.
    ///
    /// # Errors
    /// `ctr` cannot be started.
    pub fn attach(&self, node: &Node, checkpoint: Option<&str>) -> Result<Spawned> {
        let continued = checkpoint.map(|id| format!("godwit.dev/restore-from={id}"));
        let how: Vec<&str> = continued.iter().flat_map(|c| ["--annotation", c.as_str()]).collect();
        Ok(node.spawn(&self.ctr_run(node, &how))?)
    }

    fn ctr_run<'a>(&'a self, node: &Node, how: &[&'a str]) -> Vec<&'a str> {
        let mut all = vec!["ctr", "run", "--runtime", RUNTIME];
        if !node.has_limits() {
            // `ctr` gives shares of the processor to everybody else.
            all.extend(["--cpu-shares", "0"]);
        }
        all.extend(how);
        all.extend(self.options.iter().map(String::as_str));
        all.extend([self.image.reference(), &self.id]);
        all.extend(self.words.iter().map(String::as_str));
        all
    }

    /// `godwit checkpoint` with these flags.
    ///
    /// # Errors
    /// What `godwit` says.
    pub fn checkpoint(&self, node: &Node, flags: &[&str]) -> Result<CheckpointReport> {
        let mut all = vec!["godwit", "checkpoint", "--output", "json"];
        all.extend(flags);
        all.push(&self.id);
        let json = node.run(&all)?;
        serde_json::from_str(&json).with_context(|| format!("godwit said {json}"))
    }

    /// Runs a command in it.
    ///
    /// # Errors
    /// What `ctr` says.
    pub fn exec(&self, node: &Node, words: &[&str]) -> Result<String> {
        let mut all = vec!["task", "exec", "--exec-id", "look", &self.id];
        all.extend(words);
        Ok(node.ctr(&all)?)
    }

    /// What `ctr task ls` says of it; `ABSENT` for no task.
    ///
    /// # Errors
    /// What `ctr` says.
    pub fn listed(&self, node: &Node) -> Result<String> {
        let list = node.ctr(&["task", "ls"])?;
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(&self.id));
        let status = line.and_then(|line| line.split_whitespace().nth(2));
        Ok(status.unwrap_or("ABSENT").to_owned())
    }

    /// What its shim says: `running`, `hydrating`, `exited`, ….
    ///
    /// # Errors
    /// When the agent does not know it.
    pub fn state(&self, node: &Node) -> Result<String> {
        let status: serde_json::Value =
            serde_json::from_str(&node.run(&["godwit", "status", "--output", "json"])?)?;
        let name = format!("default+{}", self.id);
        let pods = status["pods"].as_array().context("status lists pods")?;
        let pod = pods.iter().find(|pod| pod["pod"] == name);
        let state = pod.and_then(|pod| pod["shim"].as_str());
        state
            .map(str::to_owned)
            .with_context(|| format!("the agent does not know {name}: {status}"))
    }

    /// Waits until its shim says this.
    ///
    /// # Errors
    /// It does not in time.
    pub fn wait_state(&self, node: &Node, wanted: &str) -> Result<()> {
        wait::until(&format!("{} to be {wanted}", self.id), SOON, || match self.state(node) {
            Ok(state) if state == wanted => Ok(()),
            Ok(state) => Err(state),
            Err(error) => Err(format!("{error:#}")),
        })?;
        Ok(())
    }

    /// Waits until containerd has cleaned up after its death, and the log has that death: at once, or by a later look of the agent.
    /// Nothing starts under its name before.
    ///
    /// # Errors
    /// It is not so in time.
    pub fn wait_buried(&self, node: &Node) -> Result<()> {
        let gone = || self.listed(node).is_ok_and(|listed| listed == "ABSENT");
        wait::until_true("containerd to clean up", SOON, gone)?;
        let fence = node.host_path(&format!("{}/default+{}", names::FENCES, self.id))?;
        wait::until_true("its death to be settled", SOON, || !fence.exists())?;
        Ok(())
    }

    /// The number in its last line of progress.
    ///
    /// # Errors
    /// There is none.
    pub fn progress(&self, node: &Node) -> Result<u64> {
        let text = self.progress_line(node)?;
        let number = text.split_whitespace().find_map(|word| word.parse().ok());
        number.with_context(|| format!("no number in {text:?}"))
    }

    /// Its last line of progress.
    ///
    /// # Errors
    /// There is none.
    pub fn progress_line(&self, node: &Node) -> Result<String> {
        Ok(node.read_file(&format!("{BUNDLES}/{}/rootfs{PROGRESS}", self.id))?)
    }

    /// Waits until that number is greater than `last`.
    ///
    /// # Errors
    /// It is not in time.
    pub fn wait_beyond(&self, node: &Node, last: u64) -> Result<u64> {
        let what = format!("{} on {} to get beyond {last}", self.id, node.name());
        Ok(wait::until(&what, SOON, || {
            let listed = self.listed(node).map_err(|e| format!("{e:#}"))?;
            match self.progress(node) {
                Ok(now) if now > last => Ok(now),
                Ok(now) => Err(format!("{listed} at {now}")),
                Err(error) => Err(format!("{listed}: {error:#}")),
            }
        })?)
    }

    /// Deletes task and container, killing it if it runs.
    ///
    /// # Errors
    /// What `ctr` says.
    pub fn remove(&self, node: &Node) -> Result<()> {
        // Its exit status is the task's own.
        node.exec(&["ctr", "task", "rm", "--force", &self.id])?;
        node.ctr(&["container", "rm", &self.id])?;
        Ok(())
    }

    /// Stops it with a checkpoint on one node and continues it on another; its remains are removed first.
    ///
    /// # Errors
    /// Either half's.
    pub fn move_to(&self, from: &Node, to: &Node) -> Result<CheckpointReport> {
        let report = self.checkpoint(from, &["--stop"])?;
        ensure!(self.listed(from)? == "STOPPED", "{} runs on after its stop", self.id);
        self.remove(from)?;
        self.restore(to, &report.checkpoint.to_string())?;
        Ok(report)
    }

    /// Runs it on the first node, moves it to the second and back. The number in its progress never goes backwards and goes
    /// on growing, and nothing stays behind.
    ///
    /// # Errors
    /// That is not so, or a step failed.
    pub fn there_and_back(&self, first: &Node, second: &Node) -> Result<()> {
        self.run(first)?;
        let mut last = self.wait_beyond(first, 3)?;
        for (from, to) in [(first, second), (second, first)] {
            self.move_to(from, to)?;
            let now = self.progress(to)?;
            ensure!(now >= last, "{} went back from {last} to {now}", self.id);
            last = self.wait_beyond(to, now)?;
            self.wait_state(to, "running")?;
            last = self.wait_beyond(to, last + 1)?;
            ensure!(self.listed(from)? == "ABSENT");
            clean::wait(from)?;
        }
        self.remove(first)?;
        clean::wait(first)
    }
}
