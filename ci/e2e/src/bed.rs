//! Two nodes with Godwit on them and a store that both reach.

use std::path::Path;

use anyhow::Result;
use godwit_lab::{Image, InstallOptions, Lab, LabOptions, Node, StoreChoice, default_bin_dir};

/// Directory that both nodes see.
const SHARED_STORE: &str = "/lab/shared/store";

/// Where checkpoints go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// A directory that both nodes see.
    File,
    /// A bucket of the lab's S3 server.
    S3,
}

impl std::str::FromStr for Store {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "file" => Ok(Self::File),
            "s3" => Ok(Self::S3),
            other => anyhow::bail!("the store is `file` or `s3`, not `{other}`"),
        }
    }
}

impl Store {
    /// It, for the nodes of a lab.
    ///
    /// # Errors
    /// The S3 server cannot be started.
    pub fn of(self, lab: &Lab) -> Result<StoreChoice> {
        Ok(match self {
            Self::File => StoreChoice::Directory(SHARED_STORE.to_owned()),
            Self::S3 => StoreChoice::Bucket { server: lab.s3()?, path: "godwit/e2e".to_owned() },
        })
    }
}

/// How much CRIU says, as a line of an agent's configuration. Who measures builds for release; who looks for a defect wants all.
#[must_use]
pub fn log_level() -> String {
    format!("criu_log_level = {}", if cfg!(debug_assertions) { 4 } else { 1 })
}

/// Two nodes; gone when dropped.
#[derive(Debug)]
pub struct Bed {
    /// The lab.
    pub lab: Lab,
    /// The first node.
    pub n1: Node,
    /// The second node.
    pub n2: Node,
}

impl Bed {
    /// Starts both nodes with the agent, the store and these images. `settings` are lines of the agents' configuration.
    ///
    /// # Errors
    /// When the lab cannot be brought up, or a program is not built.
    pub fn up(
        options: &LabOptions,
        store: Store,
        settings: &str,
        images: &[Image],
    ) -> Result<Self> {
        let lab = Lab::up(options)?;
        let (store, settings) = (store.of(&lab)?, format!("{}\n{settings}", log_level()));
        let options = InstallOptions { bin_dir: default_bin_dir(), store, settings };
        let (n1, n2) = (lab.node("n1")?, lab.node("n2")?);
        for node in [&n1, &n2] {
            node.install(&options)?;
            for image in images {
                node.import(*image)?;
            }
        }
        Ok(Self { lab, n1, n2 })
    }

    /// Bytes that Godwit's processes on both nodes, and all that they started and waited for (CRIU among them), have
    /// caused to be written to disks: `write_bytes` of `/proc/PID/io`. Writes to tmpfs do not count.
    ///
    /// # Errors
    /// When a node cannot be asked.
    pub fn disk_bytes_written(&self) -> Result<u64> {
        let mut sum = 0;
        for node in [&self.n1, &self.n2] {
            let shims = node.sh("pgrep --full '^[^ ]*containerd-shim-godwit-v2' || true")?;
            let shims = shims.split_whitespace().filter_map(|pid| pid.parse().ok());
            for pid in node.agent_pid().into_iter().chain(shims) {
                sum += written_by(&node.host_path(&format!("/proc/{pid}/io"))?);
            }
        }
        Ok(sum)
    }
}

/// `write_bytes`; nothing for a process that has ended.
fn written_by(io: &Path) -> u64 {
    let text = std::fs::read_to_string(io).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}
