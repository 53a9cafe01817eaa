//! Freezing, looking into and killing a container's cgroup, v1 and v2.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::streams::wait;

const ROOT: &str = "/sys/fs/cgroup";

/// Whether this node has only cgroup v2.
pub(crate) fn is_v2() -> bool {
    Path::new(ROOT).join("cgroup.procs").exists()
}

/// The freezer of one container.
pub(crate) struct Freezer(PathBuf);

impl Freezer {
    pub(crate) fn of(cgroup: &str) -> Self {
        let root = if is_v2() { PathBuf::from(ROOT) } else { Path::new(ROOT).join("freezer") };
        Self(root.join(cgroup.trim_start_matches('/')))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn freeze(&self) -> Result<()> {
        self.write("freezer.state", "FROZEN", "cgroup.freeze", "1")?;
        wait("the freeze", || Ok(self.is_frozen()?.then_some(())))
    }

    pub(crate) fn thaw(&self) -> Result<()> {
        self.write("freezer.state", "THAWED", "cgroup.freeze", "0")?;
        wait("the thaw", || Ok((!self.is_frozen()?).then_some(())))
    }

    pub(crate) fn is_frozen(&self) -> Result<bool> {
        if is_v2() {
            return Ok(self.read("cgroup.events")?.contains("frozen 1"));
        }
        Ok(self.read("freezer.state")?.trim() == "FROZEN")
    }

    pub(crate) fn pids(&self) -> Result<Vec<u32>> {
        let text = self.read("cgroup.procs")?;
        text.lines().map(|l| Ok(l.parse()?)).collect()
    }

    /// Kills everything, frozen or not.
    pub(crate) fn kill(&self) -> Result<()> {
        for pid in self.pids()? {
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("pid 0")?;
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        self.thaw()?;
        wait("the processes to end", || Ok(self.pids()?.is_empty().then_some(())))
    }

    fn write(&self, v1: &str, v1_value: &str, v2: &str, v2_value: &str) -> Result<()> {
        let (file, value) = if is_v2() { (v2, v2_value) } else { (v1, v1_value) };
        let path = self.0.join(file);
        fs::write(&path, value).with_context(|| format!("writing {}", path.display()))
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.0.join(file);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }
}
