//! Images for several platforms that containerd's client tests ask public registries for. They share nothing with others: tests look at
//! what their content is, and whether it goes with them.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::oci::{self, Config, Layer};
use super::{MAKING, PATIENCE, programs};
use crate::error::{LabError, Result};
use crate::lock::LabLock;
use crate::places;

/// One that tests run, and one of which they ask for some platforms.
const PAUSE: &str = "registry.k8s.io/pause:3.10.2";
const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-2";
/// Of these a test asks for the first three. Whatever a platform is called, the programs are the machine's.
const PLATFORMS: [&str; 4] = ["amd64", "arm64/v8", "s390x", "ppc64le"];

/// The archive in the cache, made when it is not there, and the names in it.
///
/// # Errors
/// When programs cannot be built.
pub fn ensure_platform_images() -> Result<(PathBuf, Vec<String>)> {
    let pause = programs::build_pause()?;
    let program = std::fs::read(&pause).map_err(LabError::io("reading", &pause))?;
    let mut contents = Sha256::new();
    contents.update(format!("{MAKING} {PAUSE} {BUSYBOX} {PLATFORMS:?}"));
    contents.update(program);
    let dir = places::cache().join("images");
    let path = dir.join(format!("platforms-{}.tar", &oci::hex(contents)[..12]));
    if !path.exists() {
        let _lock = LabLock::take(&dir.join("lock"), "the cache of images", PATIENCE)?;
        let half = path.with_extension("half");
        oci::write_platforms(&half, &images(&pause)?, &PLATFORMS)?;
        std::fs::rename(&half, &path).map_err(LabError::io("renaming", &half))?;
    }
    Ok((path, [PAUSE, BUSYBOX].map(str::to_owned).into()))
}

fn images(pause: &Path) -> Result<Vec<(String, Layer, Config)>> {
    let image = |name: &str| -> Result<(String, Layer, Config)> {
        let mut layer = Layer::default();
        layer.file("pause", pause)?;
        layer.text("name", name)?;
        let config = Config { command: vec!["/pause".to_owned()], ..Config::default() };
        Ok((name.to_owned(), layer, config))
    };
    Ok(vec![image(PAUSE)?, image(BUSYBOX)?])
}
