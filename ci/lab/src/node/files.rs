//! Files of a node, read and written from the host.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Node;
use crate::error::{LabError, Result};
use crate::places;

const CONTAINERD: &str = "/etc/containerd/config.toml";

impl Node {
    /// The host's path of a file of the node. Symbolic links with absolute targets on the way would be the host's:
    /// name the real place.
    ///
    /// # Errors
    /// When the node is powered off.
    pub fn host_path(&self, path: &str) -> Result<PathBuf> {
        Ok(self.root_path()?.join(path.trim_start_matches('/')))
    }

    /// Writes a file of the node, mode 0644, with its directories, replacing it in one step.
    ///
    /// # Errors
    /// When the node is powered off or the file cannot be written.
    pub fn write_file(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let target = self.host_path(path)?;
        let next = sibling(&target)?;
        places::write(&next, content)?;
        fs::rename(&next, &target).map_err(LabError::io("renaming", &next))
    }

    /// Reads a text file of the node.
    ///
    /// # Errors
    /// When the node is powered off or the file cannot be read.
    pub fn read_file(&self, path: &str) -> Result<String> {
        places::read(&self.host_path(path)?)
    }

    /// Copies a file of the host to the node, executable, replacing it in one step also while it runs.
    ///
    /// # Errors
    /// When the node is powered off or the file cannot be copied.
    pub fn put_program(&self, from: &Path, path: &str) -> Result<()> {
        let target = self.host_path(path)?;
        let next = sibling(&target)?;
        fs::copy(from, &next).map_err(LabError::io("copying", from))?;
        fs::set_permissions(&next, fs::Permissions::from_mode(0o755))
            .map_err(LabError::io("making executable", &next))?;
        fs::rename(&next, &target).map_err(LabError::io("renaming", &next))
    }

    /// What tells this node from others: name, hosts, machine id, configuration of containerd.
    pub(super) fn write_identity(&self) -> Result<()> {
        let (name, address) = (self.name(), self.address());
        self.write_file("/etc/hostname", format!("{name}\n"))?;
        self.write_file("/etc/hosts", format!("127.0.0.1 localhost\n{address} {name}\n"))?;
        self.write_file("/etc/resolv.conf", "# no name server in the lab\n")?;
        self.write_file("/etc/machine-id", format!("{:032x}\n", u32::from(address)))?;
        // Written once: an installer may have changed it since.
        if self.dir.join("upper").join(CONTAINERD.trim_start_matches('/')).exists() {
            return Ok(());
        }
        self.write_file(CONTAINERD, include_str!("containerd.toml"))
    }
}

/// A name beside `target` for the next version of it; makes the directory.
fn sibling(target: &Path) -> Result<PathBuf> {
    let dir = target.parent().unwrap_or(target);
    places::make_dir(dir)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    Ok(dir.join(format!(".{name}.next")))
}
