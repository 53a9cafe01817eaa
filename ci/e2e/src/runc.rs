//! A container that runc runs alone, checkpoints and restores: what there is without Godwit.

use std::time::Duration;

use anyhow::{Context as _, Result};
use godwit_criu::images::stats;
use godwit_lab::{Image, Node, PodNetwork};
use serde_json::{Value, json};

/// On the node's disk.
const PLACE: &str = "/var/lib/chain";
/// Where CRIU leaves its log and its numbers.
const WORK: &str = "/run/chain-work";

/// A bundle on a node. The container's name is `chain`.
#[derive(Debug)]
pub struct Alone<'a> {
    node: &'a Node,
}

impl<'a> Alone<'a> {
    /// Makes a bundle with the image's files and the spec of a container of containerd's.
    ///
    /// # Errors
    /// When a command fails on the node.
    pub fn prepare(
        node: &'a Node,
        image: Image,
        config: &str,
        network: Option<&PodNetwork>,
    ) -> Result<Self> {
        let mut config: Value = serde_json::from_str(config)?;
        config["linux"]["cgroupsPath"] = json!("/chain/alone");
        config["root"]["path"] = json!("rootfs");
        if let Some(network) = network {
            let namespaces = config["linux"]["namespaces"].as_array_mut().context("namespaces")?;
            for namespace in namespaces.iter_mut().filter(|n| n["type"] == "network") {
                namespace["path"] = json!(network.path);
            }
        }
        node.sh(&format!("mkdir -p {PLACE}/rootfs {PLACE}/images"))?;
        node.ctr(&["image", "mount", "--rw", image.reference(), &format!("{PLACE}/rootfs")])?;
        node.write_file(&format!("{PLACE}/config.json"), config.to_string())?;
        Ok(Self { node })
    }

    /// Runs it.
    ///
    /// # Errors
    /// What runc says.
    pub fn run(&self) -> Result<()> {
        self.sh("runc --root /run/chain run --detach --bundle . chain </dev/null >/dev/null 2>&1")?;
        Ok(())
    }

    /// Writes its images to a directory of the node and ends it. Returns for how long CRIU held its processes, by CRIU's own
    /// count: until they were dead.
    ///
    /// # Errors
    /// What runc says.
    pub fn checkpoint(&self, images: &str) -> Result<Duration> {
        self.sh(&format!(
            "runc --root /run/chain checkpoint --image-path {images} --work-path {WORK} chain"
        ))?;
        Ok(stats::of_dump(&self.node.host_path(WORK)?)?.frozen)
    }

    /// Continues it from such images.
    ///
    /// # Errors
    /// What runc says.
    pub fn restore(&self, images: &str) -> Result<()> {
        self.sh(&format!(
            "runc --root /run/chain restore --detach --bundle . --image-path {images} chain </dev/null >/dev/null 2>&1"
        ))?;
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// What runc says.
    pub fn end(&self) -> Result<()> {
        self.sh("runc --root /run/chain delete --force chain")?;
        Ok(())
    }

    /// Removes it with its bundle.
    ///
    /// # Errors
    /// When a command fails on the node.
    pub fn remove(self) -> Result<()> {
        self.end()?;
        self.sh("umount rootfs")?;
        Ok(())
    }

    /// Runs a line of bash in the bundle.
    ///
    /// # Errors
    /// With what it printed.
    pub fn sh(&self, line: &str) -> Result<String> {
        Ok(self.node.sh(&format!("cd {PLACE}; {line}"))?)
    }

    /// What a file or directory of the bundle takes on disk.
    ///
    /// # Errors
    /// It is not there.
    pub fn bytes(&self, path: &str) -> Result<u64> {
        let line = format!("du --summarize --block-size=1 {path} | cut --fields=1");
        let text = self.sh(&line)?;
        text.trim().parse().with_context(|| format!("du said {text:?}"))
    }
}
