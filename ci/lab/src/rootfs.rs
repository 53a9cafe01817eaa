//! The nodes' root file system: Debian by `debootstrap`, built once into the cache, never written afterwards.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::command::{host, run, run_shown};
use crate::error::{LabError, Result};
use crate::lock::LabLock;
use crate::places;

/// Debian's release that has containerd 2.1 and CRIU 4.2. It moves: the versions got are kept beside the tree.
const SUITE: &str = "sid";
/// What a node has beyond Debian's minimum, sorted.
const PACKAGES: &[&str] = &[
    "bash",
    "busybox-static",
    "ca-certificates",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "coreutils",
    "criu",
    "crun",
    "curl",
    "dbus-daemon",
    "etcd-server",
    "ethtool",
    "iproute2",
    "iptables",
    "kmod",
    "lsof",
    "mount",
    "nftables",
    "nginx",
    "procps",
    "python3-minimal",
    "redis-server",
    "redis-tools",
    "runc",
    "socat",
    "strace",
    "tar",
    "util-linux",
    "zstd",
];
/// How long to wait for another process that builds the same tree.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// The nodes' tree; builds it first when the cache lacks it (one or two minutes, with progress on standard error).
///
/// # Errors
/// When `debootstrap` fails; the cache is then as before.
pub fn ensure() -> Result<PathBuf> {
    let all = places::cache().join("rootfs");
    let tree = all.join(key());
    if tree.exists() {
        return Ok(tree);
    }
    let _lock = LabLock::take(&all.join("lock"), "the cache of root file systems", PATIENCE)?;
    if !tree.exists() {
        build(&tree, PACKAGES)?;
    }
    Ok(tree)
}

/// Names and versions of all packages in the nodes' tree, one per line.
///
/// # Errors
/// When the tree is not there.
pub fn versions() -> Result<String> {
    versions_in(&ensure()?)
}

fn versions_in(tree: &Path) -> Result<String> {
    let query = r"--showformat=${Package} ${Version}\n";
    let admin = format!("--admindir={}/var/lib/dpkg", tree.display());
    run(&mut host(&["dpkg-query", &admin, query, "--show"]))
}

/// Twelve hexadecimal digits that change whenever the contents should.
fn key() -> String {
    let list = format!("{SUITE}\n{}\n", PACKAGES.join("\n"));
    let digest = Sha256::digest(list.as_bytes());
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// Makes a tree of Debian's minimum and these packages. There is none when it fails.
pub(crate) fn build(tree: &Path, packages: &[&str]) -> Result<()> {
    eprintln!("building a root file system in {} (once)", tree.display());
    let name = tree.file_name().unwrap_or_default().to_string_lossy();
    let half = tree.with_file_name(format!(".building-{name}"));
    places::remove(&half)?;
    let half_text = half.display().to_string();
    let include = format!("--include={}", packages.join(","));
    // In namespaces of its own: what it mounts and starts goes with it, and it goes with us.
    run_shown(&mut host(
        &[
            &["setpriv", "--pdeathsig", "KILL"][..],
            &["unshare", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"],
            &["debootstrap", "--variant=minbase", &include, SUITE, &half_text],
        ]
        .concat(),
    ))?;
    std::fs::rename(&half, tree).map_err(LabError::io("renaming", &half))?;
    for line in versions_in(tree)?.lines().filter(|line| is_of_interest(line)) {
        eprintln!("  {line}");
    }
    Ok(())
}

fn is_of_interest(line: &str) -> bool {
    let package = line.split(' ').next().unwrap_or_default();
    ["containerd", "criu", "crun", "runc", "redis-server"].contains(&package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_so_that_its_key_is_one() {
        assert!(PACKAGES.is_sorted());
        assert_eq!(key().len(), 12);
    }
}
