//! Test images, made from the nodes' own Debian packages and from our test programs: no registry is needed.

mod cri;
mod debian;
mod node;
mod oci;
mod platforms;
mod programs;
mod suite;

use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::error::{LabError, Result};
use crate::lock::LabLock;
use crate::node::Node;
use crate::{places, rootfs};
pub use cri::ensure_critest_images;
pub use node::{NODE_IMAGE, write_node_image};
use oci::{Config, Layer};
pub use platforms::ensure_platform_images;
pub use suite::ensure_suite_images;

/// Raised when the way of making images changes, so that cached ones are made anew.
const MAKING: &str = "1";
/// For another process that makes the same image.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// What every image has, so that a test can look around in a container. glibc and coreutils on purpose: the sleep of
/// Debian's busybox ends when a dump or a thaw interrupts it.
const SHELL_PACKAGES: &[&str] =
    &["bash", "coreutils", "dash", "findutils", "grep", "libc-bin", "procps", "sed", "tar"];

/// Of busybox, in the suite's image and in the web image.
const SUITE_PROGRAMS: [&str; 3] = ["hostname", "nc", "top"];
/// That runs as root, whoever starts it: a test looks for the bit.
const SUITE_ROOTS_OWN: &str = "usr/bin/passwd";
const WEB_PROGRAMS: [&str; 5] = ["hostname", "httpd", "nc", "top", "wget"];
/// What the web image runs.
const SERVE: &str = "mkdir -p /www; hostname >/www/index.html; exec httpd -f -p 8080 -h /www";

/// The images that the lab can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Image {
    /// bash, coreutils, procps. Runs `sleep infinity`.
    Shell,
    /// Redis 8 without persistence, reachable from outside. Runs `redis-server`.
    Redis,
    /// `counter`, `ccounter`, `memwriter`, `forktree`, `hold`. Runs `counter`.
    Mem,
    /// The shell image, and `hostname`, `httpd`, `nc`, `top` and `wget` of busybox. Serves `/www` on port 8080, where it says its
    /// host name.
    Web,
    /// Process 1 of a pod: nothing but `pause`, which waits and reaps.
    Pause,
    /// The programs of the memory image and nothing else, where each byte takes time: virtual machines.
    Programs,
    /// What containerd's own tests run: the shell image, `hostname`, `nc` and `top` of busybox, and a program with the rights of root.
    Suite,
}

impl Image {
    /// All that people use.
    pub const ALL: [Self; 4] = [Self::Shell, Self::Redis, Self::Mem, Self::Web];

    /// The reference under which containerd knows it.
    #[must_use]
    pub fn reference(self) -> &'static str {
        match self {
            Self::Shell => "godwit.test/shell:latest",
            Self::Redis => "godwit.test/redis:latest",
            Self::Mem => "godwit.test/mem:latest",
            Self::Web => "godwit.test/web:latest",
            Self::Pause => "godwit.test/pause:latest",
            Self::Programs => "godwit.test/programs:latest",
            Self::Suite => "godwit.test/suite:latest",
        }
    }

    /// The image of this short name: `shell`, `redis`, `mem`, `web`.
    ///
    /// # Errors
    /// [`LabError::Refused`] with the names that exist.
    pub fn of_name(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|image| image.name() == name).ok_or_else(|| {
            LabError::Refused(format!(
                "there is no test image {name:?}, only shell, redis, mem and web"
            ))
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Shell => "shell",
            Self::Redis => "redis",
            Self::Mem => "mem",
            Self::Web => "web",
            Self::Pause => "pause",
            Self::Programs => "programs",
            Self::Suite => "suite",
        }
    }

    fn command(self) -> Vec<String> {
        let words: &[&str] = match self {
            Self::Shell | Self::Suite => &["sleep", "infinity"],
            Self::Redis => {
                &["redis-server", "--protected-mode", "no", "--save", "", "--appendonly", "no"]
            }
            Self::Mem | Self::Programs => &["counter"],
            Self::Web => &["sh", "-c", SERVE],
            Self::Pause => &["/pause"],
        };
        words.iter().map(|&word| word.to_owned()).collect()
    }

    /// The archive of this image in the cache; makes it when it is not there.
    ///
    /// # Errors
    /// When packages or programs cannot be read or built.
    pub fn archive(self) -> Result<PathBuf> {
        let tree = rootfs::ensure()?;
        let programs = match self {
            Self::Mem => programs::build()?,
            Self::Programs => programs::stripped(programs::build()?)?,
            Self::Pause => vec![programs::build_pause()?],
            Self::Shell | Self::Redis | Self::Web | Self::Suite => vec![],
        };
        let told = if self == Self::Suite { SUITE_ROOTS_OWN } else { "" };
        let mut contents = Sha256::new();
        contents.update(format!("{MAKING} {} {:?}{told}", tree.display(), self.command()));
        for program in &programs {
            contents.update(std::fs::read(program).map_err(LabError::io("reading", program))?);
        }
        let dir = places::cache().join("images");
        let path = dir.join(format!("{}-{}.tar", self.name(), &oci::hex(contents)[..12]));
        if path.exists() {
            return Ok(path);
        }
        let _lock = LabLock::take(&dir.join("lock"), "the cache of images", PATIENCE)?;
        if !path.exists() {
            self.make(&tree, &programs, &path)?;
        }
        Ok(path)
    }

    fn make(self, tree: &Path, programs: &[PathBuf], path: &std::path::Path) -> Result<()> {
        let shell = || debian::base(tree, SHELL_PACKAGES);
        let layers = match self {
            Self::Shell => vec![shell()?],
            Self::Redis => {
                vec![shell()?, debian::packages(tree, &["redis-server", "redis-tools"])?]
            }
            Self::Mem => vec![shell()?, program_layer("usr/local/bin", programs)?],
            Self::Web => vec![shell()?, busybox_layer(tree, &WEB_PROGRAMS)?],
            Self::Pause => vec![program_layer("", programs)?],
            Self::Programs => vec![program_layer("usr/bin", programs)?],
            Self::Suite => {
                let mut programs = busybox_layer(tree, &SUITE_PROGRAMS)?;
                programs.set_user_id(SUITE_ROOTS_OWN, &tree.join("usr/bin/true"))?;
                vec![shell()?, programs]
            }
        };
        let half = path.with_extension("half");
        let config = Config { command: self.command(), ..Config::default() };
        oci::write(&half, self.reference(), &layers, config)?;
        std::fs::rename(&half, path).map_err(LabError::io("renaming", &half))
    }
}

fn program_layer(dir: &str, programs: &[PathBuf]) -> Result<Layer> {
    let mut layer = Layer::default();
    for program in programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        layer.file(format!("{dir}/{name}").trim_start_matches('/'), program)?;
    }
    Ok(layer)
}

/// Programs of busybox, found before those of other packages.
fn busybox_layer(tree: &Path, names: &[&str]) -> Result<Layer> {
    let mut layer = Layer::default();
    layer.file("usr/bin/busybox", &tree.join("usr/bin/busybox"))?;
    for name in names {
        layer.link(&format!("usr/local/bin/{name}"), "/usr/bin/busybox")?;
    }
    Ok(layer)
}

/// Makes an image archive of a checkpoint archive of the kubelet's, of the container of this name that ran the image of that name.
///
/// # Errors
/// One of them cannot be read or written.
pub fn of_checkpoint(checkpoint: &Path, of: (&str, &str), name: &str, to: &Path) -> Result<()> {
    let archive = std::fs::read(checkpoint).map_err(LabError::io("reading", checkpoint))?;
    oci::write_checkpoint(to, name, of, &archive)
}

impl Node {
    /// Makes the image known to the node's containerd, in namespace `default`.
    ///
    /// # Errors
    /// When the image cannot be made or imported.
    pub fn import(&self, image: Image) -> Result<()> {
        self.import_into("default", image)
    }

    /// Makes the image known to the node's containerd, in this namespace.
    ///
    /// # Errors
    /// When the image cannot be made or imported.
    pub fn import_into(&self, namespace: &str, image: Image) -> Result<()> {
        let archive = image.archive()?;
        self.import_archive(namespace, &archive.file_name().unwrap_or_default().to_string_lossy())
    }

    /// The same by the name of its archive in the cache.
    pub(crate) fn import_archive(&self, namespace: &str, name: &str) -> Result<()> {
        self.ctr(&["-n", namespace, "images", "import", &format!("/lab/images/{name}")]).map(drop)
    }
}
