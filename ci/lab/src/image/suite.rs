//! The images that containerd's CRI suite asks public registries for, under the names that it asks for, in one archive. Each has what the
//! tests look for in the one that it stands in for.

use std::path::{Path, PathBuf};

use super::cri::{applets, archive_of, nginx};
use super::oci::{Config, Layer};
use super::{debian, programs};
use crate::error::Result;
use crate::rootfs;

const PROJECT: &str = "ghcr.io/containerd";
/// As in the image that busybox is known from: a test looks for the groups of root.
const USERS: &str = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
    www-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUPS: &str = "root:x:0:\ndaemon:x:1:\nwheel:x:10:root\nwww-data:x:33:\nnogroup:x:65534:\n";
/// Volumes, and the file in each. A path of Windows is one below the root.
const VOLUMES: [(&str, &str); 3] = [
    ("/test_dir", "test_file"),
    ("C:/weird_test_dir", "weird_test_file"),
    ("/:colon_prefixed", "colon_prefixed_file"),
];
/// Whose the first of them is.
const NOBODY: (u64, u64) = (65534, 65534);
/// As `stress -m 1 --vm-bytes 100M --vm-hang 0 -t 30`, whatever its words are: that much memory for so long, in one process.
const STRESS: &str =
    "#!/bin/sh\n{ head -c 104857600 /dev/zero; sleep 30; } | tail -c 104857600 >/dev/null\n";
const RELEASE: &str =
    "NAME=\"Alpine Linux\"\nPRETTY_NAME=\"Debian's busybox, in the place of Alpine Linux\"\n";

/// The archive in the cache, made when it is not there, and the names in it.
///
/// # Errors
/// When packages cannot be read or programs built.
pub fn ensure_suite_images() -> Result<(PathBuf, Vec<String>)> {
    let tree = rootfs::ensure()?;
    let told = format!("{USERS}{GROUPS}{STRESS}{RELEASE}{VOLUMES:?}{NOBODY:?}{}", nginx(80));
    archive_of(&tree, "suite-cri", &images(), &told, || layers(&tree))
}

/// Names and configuration of each. An image is told from others by a variable that nobody reads.
fn images() -> Vec<(Vec<String>, Config)> {
    let image = |name: String, command: &[&str], volumes: &[&str]| {
        let config = Config {
            command: command.iter().map(|&word| word.to_owned()).collect(),
            env: vec![format!("IMAGE={name}")],
            volumes: volumes.iter().map(|&path| path.to_owned()).collect(),
            ..Config::default()
        };
        (vec![name], config)
    };
    let of_project = |name: &str| format!("{PROJECT}/{name}");
    let idle = ["sleep", "1d"];
    vec![
        image(of_project("busybox:1.36"), &["sh"], &[]),
        image(of_project("alpine:3.14.0"), &["sh"], &[]),
        image(of_project("nginx:1.27.0"), &["nginx", "-g", "daemon off;"], &[]),
        image(of_project("volume-copy-up:2.2"), &["sh"], &VOLUMES.map(|(path, _)| path)),
        image(of_project("volume-ownership:2.1"), &["sh"], &["/test_dir"]),
        image("registry.k8s.io/pause:3.10.2".to_owned(), &["/pause"], &[]),
        image("registry.k8s.io/e2e-test-images/resource-consumer:1.10".to_owned(), &idle, &[]),
    ]
}

fn layers(tree: &Path) -> Result<Vec<Layer>> {
    let mut base = Layer::default();
    let dirs =
        ["dev", "home", "mnt", "proc", "run", "sys", "usr/bin", "var/log/nginx", "var/lib/nginx"];
    for dir in dirs {
        base.dir(dir, 0o755)?;
    }
    base.dir("root", 0o700)?;
    base.dir("tmp", 0o1777)?;
    base.file("bin/busybox", &tree.join("usr/bin/busybox"))?;
    // As in Alpine: a test wants `bin/sh` to lead out of its directory.
    for name in applets(tree)? {
        base.link(&format!("bin/{name}"), "/bin/busybox")?;
    }
    base.script("usr/bin/stress", STRESS)?;
    for name in ["lib", "lib64"] {
        base.link(name, &format!("usr/{name}"))?;
    }
    base.text("etc/passwd", USERS)?;
    base.text("etc/group", GROUPS)?;
    base.text("etc/os-release", RELEASE)?;
    base.text("etc/nginx/nginx.conf", &nginx(80))?;
    base.file("pause", &programs::build_pause()?)?;
    base.owned_dir("test_dir", NOBODY)?;
    for (dir, name) in VOLUMES {
        base.text(&format!("{}/{name}", dir.trim_start_matches('/')), "test_content\n")?;
    }
    Ok(vec![base, debian::packages(tree, &["nginx"])?])
}
