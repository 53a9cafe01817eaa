//! The images that `critest` asks public registries for, under the names that it asks for, in one archive.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::oci::{self, Config, Layer};
use super::{MAKING, PATIENCE, debian, programs};
use crate::command::{host, run};
use crate::error::{LabError, Result};
use crate::lock::LabLock;
use crate::{places, rootfs};

const E2E: &str = "registry.k8s.io/e2e-test-images";
const STAGING: &str = "gcr.io/k8s-staging-cri-tools";
/// A user of a group that only the image knows.
const USERS: &str = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\n\
    default-user:x:1000:1000::/home:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUPS: &str = "root:x:0:\nwww-data:x:33:\ndefault-user:x:1000:\n\
    group-defined-in-image:x:50000:default-user\nnogroup:x:65534:\n";
/// What Debian's busybox lacks.
const PGREP: &str = "#!/bin/sh\nfound=1\nfor comm in /proc/[0-9]*/comm; do\n\
    \tread -r name 2>/dev/null <$comm || continue\n\
    \tcase $name in *$1*) pid=${comm%/comm}; echo ${pid#/proc/}; found=0 ;; esac\ndone\nexit $found\n";
const IPCS: &str = "#!/bin/sh\nexec cat /proc/sysvipc/shm\n";

/// The archive in the cache, made when it is not there, and the names in it.
///
/// # Errors
/// When packages cannot be read or programs built.
pub fn ensure_critest_images() -> Result<(PathBuf, Vec<String>)> {
    let tree = rootfs::ensure()?;
    let scripts = format!("{USERS}{GROUPS}{PGREP}{IPCS}{}", nginx(80));
    archive_of(&tree, "critest", &images(), &scripts, || layers(&tree))
}

/// The archive of these images in the cache, made with these layers when it is not there, and the names in it. `told`: what it holds
/// beside files of the tree, so that it is made anew when that changes.
pub(super) fn archive_of(
    tree: &Path,
    name: &str,
    all: &[(Vec<String>, Config)],
    told: &str,
    layers: impl FnOnce() -> Result<Vec<Layer>>,
) -> Result<(PathBuf, Vec<String>)> {
    let names = all.iter().flat_map(|(names, _)| names.clone()).collect();
    let configs: Vec<String> =
        all.iter().map(|(names, config)| format!("{names:?}{config:?}")).collect();
    let mut contents = Sha256::new();
    contents.update(format!("{MAKING} {} {told} {configs:?}", tree.display()));
    let dir = places::cache().join("images");
    let path = dir.join(format!("{name}-{}.tar", &oci::hex(contents)[..12]));
    if !path.exists() {
        let _lock = LabLock::take(&dir.join("lock"), "the cache of images", PATIENCE)?;
        let half = path.with_extension("half");
        oci::write_all(&half, all, &layers()?)?;
        std::fs::rename(&half, &path).map_err(LabError::io("renaming", &half))?;
    }
    Ok((path, names))
}

/// Names and configuration of each. An image is told from others by a variable that nobody reads.
fn images() -> Vec<(Vec<String>, Config)> {
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let mut all = vec![];
    let mut add = |names: &[String], command: &[&str], user: &str| {
        let command = command.iter().map(|&word| word.to_owned()).collect();
        let name = names.first().cloned().unwrap_or_default();
        let env = vec![format!("IMAGE={name}")];
        let config = Config { command, user: user.to_owned(), env, ..Config::default() };
        all.push((names.to_vec(), config));
    };
    let e2e = |name: &str| [format!("{E2E}/{name}")];
    let staging = |name: &str| [format!("{STAGING}/{name}")];
    add(&e2e("busybox:1.29-2"), &["sh"], "");
    add(&e2e("nginx:1.14-2"), &["nginx", "-g", "daemon off;"], "");
    // Whose name is looked for in its log.
    add(&e2e("httpd:2.4.39-4"), &["sh", "-c", "echo httpd; exec nginx -g 'daemon off;'"], "");
    add(&e2e("nonewprivs:1.3"), &["/nnp"], "");
    let hostnet = staging(&format!("hostnet-nginx-{arch}:latest"));
    add(&hostnet, &["nginx", "-g", "daemon off;", "-c", "/etc/nginx/hostnet.conf"], "");
    for (name, user) in [
        ("user-uid", "1002"),
        ("user-username", "www-data"),
        ("user-uid-group", "1003:1004"),
        ("user-username-group", "www-data:1004"),
        ("predefined-group", "1000"),
    ] {
        add(&staging(&format!("test-image-{name}:latest")), &["sh"], user);
    }
    for name in ["1", "2", "3", "latest"] {
        add(&staging(&format!("test-image-{name}:latest")), &["sh"], "");
    }
    let tags = |tags: &[&str], name: &str| -> Vec<String> {
        tags.iter().map(|tag| format!("{STAGING}/{name}:{tag}")).collect()
    };
    add(&tags(&["1", "2", "3"], "test-image-tags"), &["sh"], "");
    add(&tags(&["test", "all"], "test-image-tag"), &["sh"], "");
    add(
        &["registry.k8s.io/pause:3.9".to_owned(), "k8s.gcr.io/pause:3.9".to_owned()],
        &["/pause"],
        "",
    );
    all
}

fn layers(tree: &Path) -> Result<Vec<Layer>> {
    let mut base = Layer::default();
    for dir in [
        "dev",
        "etc",
        "home",
        "proc",
        "root",
        "run",
        "sys",
        "usr/bin",
        "var/log/nginx",
        "var/lib/nginx",
        "var/www",
    ] {
        base.dir(dir, 0o755)?;
    }
    base.dir("tmp", 0o1777)?;
    // As in the image that busybox is known from: each program is the same file.
    base.file("bin/busybox", &tree.join("usr/bin/busybox"))?;
    for name in applets(tree)? {
        base.hard_link(&format!("bin/{name}"), "bin/busybox")?;
    }
    base.script("bin/pgrep", PGREP)?;
    base.script("bin/ipcs", IPCS)?;
    base.link("var/run", "/run")?;
    for name in ["lib", "lib64"] {
        base.link(name, &format!("usr/{name}"))?;
    }
    base.text("etc/passwd", USERS)?;
    base.text("etc/group", GROUPS)?;
    for (name, port) in [("nginx", 80), ("hostnet", 12003)] {
        base.text(&format!("etc/nginx/{name}.conf"), &nginx(port))?;
    }
    base.text("usr/share/nginx/html/index.html", "<h1>Welcome to nginx!</h1>\n")?;
    base.file("pause", &programs::build_pause()?)?;
    base.set_user_id("nnp", &programs::build_nnp()?)?;
    Ok(vec![base, debian::packages(tree, &["nginx"])?])
}

/// The names of busybox's programs.
pub(super) fn applets(tree: &Path) -> Result<Vec<String>> {
    let busybox = tree.join("usr/bin/busybox").display().to_string();
    let list = run(&mut host(&[&busybox, "--list"]))?;
    Ok(list.lines().filter(|name| *name != "busybox").map(str::to_owned).collect())
}

/// nginx's configuration: all that it says goes to where containers' words go.
pub(super) fn nginx(port: u16) -> String {
    format!(
        "pid /run/nginx.pid;\nerror_log /dev/stderr notice;\nevents {{}}\n\
         http {{\n\taccess_log off;\n\tserver {{ listen {port}; listen [::]:{port}; root /usr/share/nginx/html; }}\n}}\n"
    )
}
