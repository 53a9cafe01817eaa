//! Putting Godwit on a node: its programs where `godwit_types::names` says, the agent's configuration, the agent started.

use std::path::{Path, PathBuf};

use godwit_types::names;

use crate::error::{LabError, Result};
use crate::node::{AgentOptions, Node};
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

impl Node {
    /// Puts the programs and the configuration on the node and starts the agent (anew, when one runs).
    ///
    /// # Errors
    /// [`LabError::Missing`] for a program that is not built; else as [`Node::start_agent`].
    pub fn install(&self, options: &InstallOptions) -> Result<()> {
        self.install_programs(&options.bin_dir)?;
        options.store.prepare(self)?;
        self.write_file(names::AGENT_CONFIG, configuration(self.name(), options))?;
        self.kill_agent()?;
        self.start_agent(&AgentOptions::default())
    }

    /// Only the programs, without configuration and agent.
    ///
    /// # Errors
    /// [`LabError::Missing`] for a program that is not built.
    pub fn install_programs(&self, bin_dir: &Path) -> Result<()> {
        for (program, place) in placement() {
            let from = bin_dir.join(program);
            if !from.exists() {
                return Err(LabError::Missing {
                    what: from.display().to_string(),
                    hint: "build it first: `make build`".to_owned(),
                });
            }
            self.put_program(&from, &place)?;
        }
        Ok(())
    }
}

/// Each program and its place on a node.
fn placement() -> Vec<(&'static str, String)> {
    vec![
        ("containerd-shim-godwit-v2", "/usr/local/bin/containerd-shim-godwit-v2".to_owned()),
        ("godwit-agent", "/usr/local/bin/godwit-agent".to_owned()),
        ("godwit", "/usr/local/bin/godwit".to_owned()),
        ("godwit-pager", names::PAGER_PATH.to_owned()),
        ("godwit-relay", format!("{}/criu", names::RELAY_DIR)),
    ]
}

fn configuration(node: &str, options: &InstallOptions) -> String {
    format!(
        "node = \"{node}\"\ndefault_store = \"main\"\n{}\n[stores.main]\n{}",
        options.settings,
        options.store.section()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_relay_is_named_criu_where_runc_looks_first() {
        let places = placement();
        assert!(places.contains(&("godwit-relay", "/usr/libexec/godwit/relay/criu".to_owned())));
    }

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
}
