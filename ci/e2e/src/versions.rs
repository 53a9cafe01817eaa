//! What numbers were measured with.

use std::fmt;

use anyhow::Result;
use godwit_lab::Node;
use serde::Serialize;

/// Versions of a node's parts, each as its program prints it.
#[derive(Debug, Clone, Serialize)]
pub struct Versions {
    /// `uname --kernel-release`.
    pub kernel: String,
    /// CRIU.
    pub criu: String,
    /// runc.
    pub runc: String,
    /// containerd.
    pub containerd: String,
    /// Godwit.
    pub godwit: String,
}

impl Versions {
    /// Those of a node.
    ///
    /// # Errors
    /// A program is not there.
    pub fn of(node: &Node) -> Result<Self> {
        let version = |line: &str| -> Result<String> {
            let told = node.sh(line)?;
            let words = told.lines().next().unwrap_or_default().split_whitespace();
            // "runc version 1.3.6", "containerd github.com/… 2.1.9 …", "Version: 4.2.1".
            let number = words.clone().find(|w| w.starts_with(|c: char| c.is_ascii_digit()));
            Ok(number.unwrap_or(told.trim()).to_owned())
        };
        Ok(Self {
            kernel: version("uname --kernel-release")?,
            criu: version("criu --version")?,
            runc: version("runc --version")?,
            containerd: version("containerd --version")?,
            godwit: version("godwit version")?,
        })
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, criu, runc, containerd, godwit } = self;
        write!(
            f,
            "Godwit {godwit}, Linux {kernel}, CRIU {criu}, runc {runc}, containerd {containerd}"
        )
    }
}
