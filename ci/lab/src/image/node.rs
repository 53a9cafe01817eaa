//! The image that puts Godwit on its node from a pod (`install/kubernetes/daemonset.yaml`): programs of Debian, a release, and the
//! entry point.

use std::path::{Path, PathBuf};

use super::oci::{self, Config, Layer};
use super::{SHELL_PACKAGES, debian};
use crate::error::{LabError, Result};
use crate::{command, rootfs};

/// The reference under which containerd knows it. Its tag is not `latest`, which would be pulled.
pub const NODE_IMAGE: &str = "godwit.test/node:own";
/// As the manifest names it.
const ENTRY: &str = "node.sh";
const SCRIPT: &str = include_str!("../../../../install/kubernetes/node.sh");

/// Writes the archive of the image with these programs of a release, without what debuggers want.
///
/// # Errors
/// When packages or programs cannot be read.
pub fn write_node_image(programs: &[PathBuf], to: &Path) -> Result<()> {
    let tree = rootfs::ensure()?;
    // `nsenter` is its.
    let packages = [SHELL_PACKAGES, &["util-linux"]].concat();
    let mut release = Layer::default();
    for program in programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stripped = to.with_file_name(format!("{name}.stripped"));
        command::strip(program, &stripped)?;
        release.file(&format!("godwit/{name}"), &stripped)?;
        std::fs::remove_file(&stripped).map_err(LabError::io("removing", &stripped))?;
    }
    release.script(ENTRY, SCRIPT)?;
    let layers = [debian::base(&tree, &packages)?, release];
    let config = Config { command: vec![format!("/{ENTRY}")], ..Config::default() };
    oci::write(to, NODE_IMAGE, &layers, config)
}
