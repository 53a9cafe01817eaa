//! Putting Godwit on a node: by `godwit-install`, as everybody does; then the agent is started.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use godwit_types::names;

use crate::command;
use crate::error::{LabError, Result};
use crate::node::{AgentOptions, KUBELET_CONFIG, Node, Role, Service};
use crate::s3::{ACCESS_KEY, REGION, S3, SECRET_KEY};

/// Which store the agent is told of.
#[derive(Debug, Clone)]
pub enum StoreChoice {
    /// A directory of the node, as `/lab/shared/store` (which all nodes of the lab see).
    Directory(String),
    /// A bucket and prefix on the lab's S3 server; the bucket is made.
    Bucket {
        /// The server.
        server: S3,
        /// `bucket` or `bucket/prefix`.
        path: String,
    },
}

impl StoreChoice {
    /// The store's URL.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Self::Directory(path) => format!("file://{path}"),
            Self::Bucket { path, .. } => format!("s3://{path}"),
        }
    }

    /// The body of its section in the agent's configuration.
    fn section(&self) -> String {
        let mut text = format!("url = \"{}\"\n", self.url());
        if let Self::Bucket { server, .. } = self {
            text.push_str(&format!(
                "endpoint = \"{}\"\npath_style = true\nregion = \"{REGION}\"\n\
                 access_key_id = \"{ACCESS_KEY}\"\nsecret_access_key = \"{SECRET_KEY}\"\n",
                server.endpoint()
            ));
        }
        text
    }

    fn prepare(&self, node: &Node) -> Result<()> {
        match self {
            Self::Directory(path) => node.run(&["mkdir", "-p", path]).map(drop),
            Self::Bucket { server, path } => {
                server.make_bucket(path.split('/').next().unwrap_or(path))
            }
        }
    }
}

/// What is installed.
#[derive(Debug, Clone)]
pub struct InstallOptions {
    /// Directory with the built programs; see [`default_bin_dir`].
    pub bin_dir: PathBuf,
    /// The store, which is the default one of the node.
    pub store: StoreChoice,
    /// Lines before the stores in the agent's configuration (`memory_budget = "1 GiB"`).
    pub settings: String,
}

/// Where cargo has put the programs beside the one that runs: the parent of `deps` for a test.
#[must_use]
pub fn default_bin_dir() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let dir = own.parent().unwrap_or(Path::new("."));
    match dir.file_name().and_then(|name| name.to_str()) {
        Some("deps" | "examples") => dir.parent().unwrap_or(dir).to_owned(),
        _ => dir.to_owned(),
    }
}

/// The installer's exit status for "restart what was changed".
const LEFT_TO_US: i32 = 10;
/// A directory of the host, handed to a command in a node as its standard input.
const HANDED: &str = "/proc/self/fd/0";

impl Node {
    /// Installs the programs of a directory by the installer among them, with this configuration, and starts the agent (anew,
    /// when one runs), on workers the CRI proxy, too. containerd and the kubelet are restarted if the installer says so.
    ///
    /// # Errors
    /// [`LabError::Missing`] for a program that is not built; else as [`Node::installer`] and [`Node::start_agent`].
    pub fn install(&self, options: &InstallOptions) -> Result<()> {
        options.store.prepare(self)?;
        self.write_file(names::AGENT_CONFIG, configuration(self.name(), options))?;
        self.kill_agent()?;
        // These nodes are thrown away: nobody waits for their disks.
        let ended = self.installer(&options.bin_dir, &["--volatile"])?;
        if ended.status.code() == Some(LEFT_TO_US)
            && command::printed(&ended).contains("restart containerd")
        {
            self.kill_containerd()?;
            self.start_containerd()?;
        }
        self.start_agent(&AgentOptions::default())?;
        match self.role() {
            Role::Worker(..) => self.point_kubelet(&options.bin_dir),
            Role::Containers | Role::ControlPlane(_) => Ok(()),
        }
    }

    /// Has the kubelet go through the CRI proxy, and waits until it is well again.
    fn point_kubelet(&self, bin_dir: &Path) -> Result<()> {
        self.reload_cri_proxy()?;
        self.start(Service::CriProxy)?;
        let words = ["--volatile", "--kubelet-config", KUBELET_CONFIG];
        let ended = self.installer(bin_dir, &words)?;
        if ended.status.code() == Some(LEFT_TO_US)
            && command::printed(&ended).contains("restart the kubelet")
        {
            self.kill(Service::Kubelet)?;
            self.start(Service::Kubelet)?;
        }
        Ok(())
    }

    /// Runs `godwit-install node` of a directory of the host with the programs of that directory, and more words.
    ///
    /// # Errors
    /// [`LabError::Missing`] when it is not built; [`LabError::Failed`] with what it printed when it fails.
    pub fn installer(&self, bin_dir: &Path, words: &[&str]) -> Result<Output> {
        let mut command = self.installer_command(bin_dir, words)?;
        let program = || "godwit-install".to_owned();
        let output = command.output();
        let output = output.map_err(|source| LabError::Start { program: program(), source })?;
        match output.status.code() {
            Some(0 | LEFT_TO_US) => Ok(output),
            _ => Err(LabError::Failed {
                what: format!("{} on node {}", program(), self.name()),
                status: output.status,
                output: command::printed(&output),
            }),
        }
    }

    /// The command of [`Node::installer`]. The node sees the directory as the command's standard input: nothing is copied to
    /// the node for it.
    ///
    /// # Errors
    /// [`LabError::Missing`] when it is not built.
    pub fn installer_command(&self, bin_dir: &Path, words: &[&str]) -> Result<Command> {
        let program = bin_dir.join("godwit-install");
        if !program.exists() {
            return Err(LabError::Missing {
                what: program.display().to_string(),
                hint: "build it first: `make build`".to_owned(),
            });
        }
        let dir = File::open(bin_dir).map_err(LabError::io("opening", bin_dir))?;
        let fixed = [&format!("{HANDED}/godwit-install"), "node", "--from", HANDED];
        let mut command = self.command(&[&fixed, words].concat())?;
        command.stdin(dir);
        Ok(command)
    }
}

/// What settings say of freezes.
const DEADLINE: &str = "freeze_deadline";

/// A freeze may last longer than on a machine that does nothing else, unless the settings say how long.
fn configuration(node: &str, options: &InstallOptions) -> String {
    let (settings, store) = (&options.settings, options.store.section());
    let patient = if settings.contains(DEADLINE) { "" } else { "freeze_deadline = \"2min\"\n" };
    format!(
        "node = \"{node}\"\ndefault_store = \"main\"\n{patient}{settings}\n[stores.main]\n{store}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_needs_no_credentials() {
        let options = InstallOptions {
            bin_dir: default_bin_dir(),
            store: StoreChoice::Directory("/lab/shared/store".to_owned()),
            settings: String::new(),
        };
        let text = configuration("n1", &options);
        assert!(text.contains("url = \"file:///lab/shared/store\""), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }

    #[test]
    fn a_freeze_may_last_as_long_as_the_settings_say() {
        let of = |settings: &str| {
            let store = StoreChoice::Directory("/lab/shared/store".to_owned());
            let (bin_dir, settings) = (default_bin_dir(), settings.to_owned());
            configuration("n1", &InstallOptions { bin_dir, store, settings })
        };
        assert!(of("").contains("freeze_deadline = \"2min\"\n"));
        let told = of("freeze_deadline = \"4s\"\n");
        assert_eq!(told.matches(DEADLINE).count(), 1, "{told}");
    }
}
