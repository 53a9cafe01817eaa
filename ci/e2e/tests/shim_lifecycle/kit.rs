//! A node with the shim on it, and questions to ask it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api::{StateRequest, Status};
use containerd_shim_protos::{Client, TaskClient, ttrpc};
use godwit_e2e::container::BUNDLES;
pub(super) use godwit_e2e::container::RUNTIME;
use godwit_lab::{CgroupView, Image, Lab, LabOptions, Node, Spawned, default_bin_dir, wait};

/// For anything to happen on a busy machine.
pub(super) const SOON: Duration = Duration::from_secs(60);
const SHIM: &str = "containerd-shim-godwit-v2";

/// One node with the shim and the shell image; gone when dropped.
pub(super) struct Bed {
    _lab: Lab,
    pub node: Node,
}

impl Bed {
    pub(super) fn new() -> Result<Self> {
        Self::on(&LabOptions::for_tests())
    }

    pub(super) fn with(view: CgroupView) -> Result<Self> {
        Self::on(&LabOptions::for_tests().cgroup(view))
    }

    fn on(options: &LabOptions) -> Result<Self> {
        let lab = Lab::up(&options.clone().nodes(&["n1"]))?;
        let node = lab.node("n1")?;
        let program = default_bin_dir().join(SHIM);
        ensure!(program.exists(), "{} is not built: `make build`", program.display());
        node.put_program(&program, &format!("/usr/local/bin/{SHIM}"))?;
        node.import(Image::Shell)?;
        Ok(Self { _lab: lab, node })
    }

    /// `ctr run` with our runtime; `options` before the image, `words` are the container's command.
    pub(super) fn run(&self, options: &[&str], id: &str, words: &[&str]) -> Result<String> {
        Ok(self.node.ctr(&run_words(options, id, words))?)
    }

    /// The same, as a child whose pipes are the caller's.
    pub(super) fn spawn(&self, options: &[&str], id: &str, words: &[&str]) -> Result<Spawned> {
        let mut all = vec!["ctr"];
        all.extend(run_words(options, id, words));
        Ok(self.node.spawn(&all)?)
    }

    /// A container that sleeps.
    pub(super) fn sleeper(&self, id: &str) -> Result<()> {
        self.run(&["--detach"], id, &["sleep", "infinity"]).map(drop)
    }

    /// `ctr task exec` in a container.
    pub(super) fn exec(&self, id: &str, words: &[&str]) -> Result<String> {
        Ok(self.node.ctr(&exec_words(&[], id, words))?)
    }

    /// The task service of the shim that serves a container, without containerd in between.
    pub(super) fn task(&self, id: &str) -> Result<TaskClient> {
        let bootstrap = self.node.read_file(&format!("{BUNDLES}/{id}/bootstrap.json"))?;
        let bootstrap: serde_json::Value = serde_json::from_str(&bootstrap)?;
        let address = bootstrap["address"].as_str().context("the shim has an address")?;
        let path = address.trim_start_matches("unix://");
        let path = self.node.host_path(path)?;
        let client = Client::connect(&format!("unix://{}", path.display()))?;
        Ok(TaskClient::new(client))
    }

    /// What the shim says of a container.
    pub(super) fn status(&self, id: &str) -> Result<Status> {
        let request = StateRequest { id: id.to_owned(), ..Default::default() };
        let state = self.task(id)?.state(context(), &request)?;
        state.status.enum_value().map_err(|value| anyhow::anyhow!("unknown status {value}"))
    }

    /// What `ctr task ls` says of a container.
    pub(super) fn listed(&self, id: &str) -> Result<String> {
        let list = self.node.ctr(&["task", "ls"])?;
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(id));
        let status = line.and_then(|line| line.split_whitespace().nth(2));
        Ok(status.unwrap_or("ABSENT").to_owned())
    }

    pub(super) fn wait_listed(&self, id: &str, status: &str) -> Result<()> {
        wait::until(&format!("{id} to be {status}"), SOON, || match self.listed(id) {
            Ok(now) if now == status => Ok(()),
            Ok(now) => Err(now),
            Err(why) => Err(why.to_string()),
        })?;
        Ok(())
    }

    /// Kills a container, waits for its end and deletes it.
    pub(super) fn remove(&self, id: &str) -> Result<()> {
        self.node.ctr(&["task", "kill", "--signal", "SIGKILL", id])?;
        self.wait_listed(id, "STOPPED")?;
        self.delete(id).map(drop)
    }

    /// Deletes a container that has stopped; returns the status of its task.
    pub(super) fn delete(&self, id: &str) -> Result<u32> {
        let deleted = self.node.exec(&["ctr", "task", "delete", id])?;
        let said = String::from_utf8_lossy(&deleted.stderr).into_owned();
        ensure!(deleted.status.success(), "{said}");
        self.node.ctr(&["container", "delete", id])?;
        // containerd 2.1 warns of it and exits with 0.
        let Some((_, status)) = said.split_once("non-zero exit code ") else { return Ok(0) };
        let digits = status.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        digits.parse().with_context(|| format!("ctr said {said}"))
    }

    /// Pids, in the node, of shims of ours.
    pub(super) fn shims(&self) -> Result<Vec<u32>> {
        let found = self.node.sh(&format!("pgrep --full ^[^\\ ]*{SHIM} || true"))?;
        Ok(found.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
    }

    /// Waits until nothing of any container is left on the node.
    pub(super) fn wait_clean(&self) -> Result<()> {
        wait::until("the node to be as clean as before", SOON, || match self.leftovers() {
            Ok(left) if left.is_empty() => Ok(()),
            Ok(left) => Err(left),
            Err(why) => Err(why.to_string()),
        })?;
        Ok(())
    }

    /// Everything that containers leave behind when a shim forgets something.
    pub(super) fn leftovers(&self) -> Result<String> {
        self.node
            .sh("pgrep --list-full containerd-shim || true\n\
             ps --no-headers -eo stat,pid,comm | grep ^Z || true\n\
             grep io.containerd.runtime.v2.task /proc/self/mountinfo || true\n\
             find /sys/fs/cgroup -mindepth 2 -type d -path '*/default/*' || true\n\
             for dir in /run/containerd/s /run/containerd/runc/default /run/godwit/shims \
                 /run/containerd/io.containerd.runtime.v2.task/default; do\n\
               test ! -d $dir || find $dir -mindepth 1 -maxdepth 1\n\
             done\n\
             find /run/godwit -name 'pty-*' 2>/dev/null || true")
            .map_err(Into::into)
    }
}

/// A context of a call without a deadline of its own.
pub(super) fn context() -> ttrpc::context::Context {
    ttrpc::context::with_duration(SOON)
}

pub(super) fn exec_words<'a>(options: &[&'a str], id: &'a str, words: &[&'a str]) -> Vec<&'a str> {
    // One exec id is enough: the test's commands come one after another.
    let mut all = vec!["task", "exec", "--exec-id", "look"];
    all.extend(options);
    all.push(id);
    all.extend(words);
    all
}

fn run_words<'a>(options: &[&'a str], id: &'a str, words: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["run", "--runtime", RUNTIME];
    all.extend(options);
    all.extend([Image::Shell.reference(), id]);
    all.extend(words);
    all
}

/// Kills a process of the node.
pub(super) fn kill(node: &Node, pid: u32) -> Result<()> {
    node.run(&["kill", "-KILL", &pid.to_string()]).map(drop).map_err(Into::into)
}

/// Whether the node has this file.
pub(super) fn exists(node: &Node, path: &str) -> Result<bool> {
    Ok(Path::new(&node.host_path(path)?).exists())
}
