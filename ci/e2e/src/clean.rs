//! What a node has of containers of ours: processes, directories, groups, mounts. After the last one is removed it has nothing.

use anyhow::{Context as _, Result, ensure};
use godwit_lab::{Node, wait};
use godwit_types::names;

use crate::container::{BUNDLES, SOON};

/// One line for each thing that is left on the node. It must have no container at all.
///
/// # Errors
/// The node cannot be asked.
pub fn left(node: &Node) -> Result<String> {
    let (shims, images, fences) = (names::SHIM_SOCKETS, names::IMAGES_DIR, names::FENCES);
    let run = names::RUN_DIR;
    let look = format!(
        "pgrep --list-full 'containerd-shim|criu|godwit-pager|redis-server' || true
        ps -e -o stat=,pid=,ppid=,comm= | grep '^Z' || true
        for dir in {shims} {images} {fences} {run}/restores {BUNDLES} /run/containerd/runc/default; do
            test ! -d $dir || find $dir -mindepth 1
        done
        find /sys/fs/cgroup -mindepth 2 -type d '(' -path '*/default/*' -o -path '*/godwit/*' ')'
        grep --extended-regexp 'io.containerd.runtime.v2.task|{run}/|{images}' /proc/self/mountinfo || true"
    );
    Ok(node.sh(&look)?)
}

/// Waits until nothing is left.
///
/// # Errors
/// Something is, for too long.
pub fn wait(node: &Node) -> Result<()> {
    wait::until(&format!("nothing to be left on {}", node.name()), SOON, || match left(node) {
        Ok(left) if left.is_empty() => Ok(()),
        Ok(left) => Err(left),
        Err(error) => Err(format!("{error:#}")),
    })?;
    Ok(())
}

/// Waits until these nodes have so many processes of this name, in containers or not: what CRIU has made of an attempt that was given up
/// ends in a moment. It never runs: more that run are a fault at once.
///
/// # Errors
/// More run, or there are others.
pub fn only<'n>(
    nodes: impl Iterator<Item = &'n Node> + Clone,
    name: &str,
    wanted: usize,
) -> Result<()> {
    let sum = |states: &str| -> Result<usize> {
        let of_each = nodes.clone().map(|node| count(node, name, states));
        Ok(of_each.collect::<Result<Vec<_>>>()?.into_iter().sum())
    };
    // Not stopped or traced, which is how CRIU leaves them.
    let running = sum("--runstates R,S,D")?;
    ensure!(running <= wanted, "{running} {name} run, not {wanted}");
    Ok(wait::until(&format!("{wanted} processes {name}"), SOON, || match sum("") {
        Ok(found) if found == wanted => Ok(()),
        found => Err(format!("{found:?}")),
    })?)
}

/// How many processes of this name the node has, in containers or not.
///
/// # Errors
/// The node cannot be asked.
pub fn processes(node: &Node, name: &str) -> Result<usize> {
    count(node, name, "")
}

fn count(node: &Node, name: &str, states: &str) -> Result<usize> {
    let count = node.sh(&format!("pgrep --count --exact {states} {name} || true"))?;
    count.trim().parse().with_context(|| format!("pgrep said {count:?}"))
}
