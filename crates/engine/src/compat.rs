//! Whether a checkpoint can run on this node: processor, page size, architecture.
//!
//! A process may have looked at the processor and chosen its code by it, so every feature that the source offered must be
//! here, and its saved registers must fit: the XSAVE area must have the same size (CRIU checks only its parts).

use std::path::Path;

use godwit_image::Digest;
use godwit_image::manifest::Compat;
use godwit_types::PAGE_SIZE;
use serde::{Deserialize, Serialize};

use crate::cpu;

/// Why this node cannot continue a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Another architecture.
    #[error(
        "the checkpoint is of a {source_arch} machine, this node is {here}: choose a node of its kind"
    )]
    Arch {
        /// The source's.
        source_arch: String,
        /// This node's.
        here: String,
    },
    /// The processor lacks features.
    #[error(
        "this node's processor lacks {features}, which the source offered: choose a node of the same processor family"
    )]
    Cpu {
        /// What is missing.
        features: String,
    },
    /// Saved registers have another size.
    #[error(
        "the processor's XSAVE area has {here} bytes here and had {source_bytes} at the source: choose a node of the same processor family"
    )]
    Xsave {
        /// The source's.
        source_bytes: u32,
        /// This node's.
        here: u32,
    },
    /// Memory cannot come later.
    #[error(
        "this node's kernel has no userfaultfd that CRIU can use, so nothing can be restored on it: boot a kernel with CONFIG_USERFAULTFD"
    )]
    NoUserfaultfd,
    /// Pages have another size.
    #[error("pages have {here} bytes here and had {source_bytes} at the source")]
    PageSize {
        /// The source's.
        source_bytes: u32,
        /// This node's.
        here: u32,
    },
}

/// What this node is.
#[must_use]
pub fn of_this_node(criu: &str, runtime: &str) -> Compat {
    Compat {
        arch: std::env::consts::ARCH.to_owned(),
        cpu_features: cpu_features(&read("/proc/cpuinfo")),
        xsave_bytes: cpu::xsave_bytes(),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        criu: criu.to_owned(),
        page_size: PAGE_SIZE as u32,
        cgroup_version: if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { 2 } else { 1 },
        runtime: runtime.to_owned(),
    }
}

/// A word for what [`check`] compares: between nodes that have the same everything can move. At most 63 letters, digits and '-', as labels
/// of nodes are.
#[must_use]
pub fn cpu_class(of: &Compat) -> String {
    let compared = format!("{} {} {}", of.page_size, of.xsave_bytes, of.cpu_features.join(" "));
    let digest = Digest::of(compared.as_bytes()).to_string();
    let hex = digest.rsplit(':').next().unwrap_or_default();
    format!("{}-{}", of.arch.replace('_', "-"), hex.get(..12).unwrap_or_default())
}

/// Whether what ran there can run here.
///
/// # Errors
/// The first reason why not.
pub fn check(there: &Compat, here: &Compat) -> Result<(), Mismatch> {
    if there.arch != here.arch {
        let (source_arch, here) = (there.arch.clone(), here.arch.clone());
        return Err(Mismatch::Arch { source_arch, here });
    }
    if there.page_size != here.page_size {
        return Err(Mismatch::PageSize { source_bytes: there.page_size, here: here.page_size });
    }
    let missing: Vec<&str> = there
        .cpu_features
        .iter()
        .filter(|feature| here.cpu_features.binary_search(feature).is_err())
        .map(String::as_str)
        .collect();
    if !missing.is_empty() {
        return Err(Mismatch::Cpu { features: missing.join(", ") });
    }
    if there.xsave_bytes != here.xsave_bytes {
        return Err(Mismatch::Xsave { source_bytes: there.xsave_bytes, here: here.xsave_bytes });
    }
    Ok(())
}

/// Whether memory can come after a container runs.
///
/// # Errors
/// [`Mismatch::NoUserfaultfd`].
pub fn check_lazy(lazy_pages: bool) -> Result<(), Mismatch> {
    if lazy_pages { Ok(()) } else { Err(Mismatch::NoUserfaultfd) }
}

/// How this node differs from the one where a checkpoint was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// Why the checkpoint cannot be continued here; `None`: nothing of the node forbids it.
    pub fault: Option<String>,
    /// What else is different: `kernel 6.1.0 there, 6.12.0 here`. Forbids nothing.
    pub others: Vec<String>,
}

/// For a person who asks before anything moves. A restore asks [`check`] and [`check_lazy`].
#[must_use]
pub fn compare(there: &Compat, here: &Compat, lazy_pages: bool) -> Comparison {
    let fits = check(there, here).and_then(|()| check_lazy(lazy_pages));
    let cgroups = [there, here].map(|node| format!("v{}", node.cgroup_version));
    let others = [
        ("kernel", &there.kernel, &here.kernel),
        ("CRIU", &there.criu, &here.criu),
        ("cgroups", &cgroups[0], &cgroups[1]),
        ("runtime", &there.runtime, &here.runtime),
    ];
    let differ = others.iter().filter(|(_, there, here)| there != here);
    Comparison {
        fault: fits.err().map(|why| why.to_string()),
        others: differ
            .map(|(what, there, here)| format!("{what} {there} there, {here} here"))
            .collect(),
    }
}

/// Flags that tell how the machine is run, not what a program can use.
const NOT_FEATURES: &[&str] = &[
    "hypervisor",
    "constant_tsc",
    "nonstop_tsc",
    "tsc_known_freq",
    "tsc_reliable",
    "cpuid",
    "rep_good",
    "nopl",
];

fn cpu_features(cpuinfo: &str) -> Vec<String> {
    let flags = cpuinfo.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        ["flags", "Features"].contains(&name.trim()).then_some(value)
    });
    let words = flags.unwrap_or_default().split_whitespace();
    let mut features: Vec<String> =
        words.filter(|w| !NOT_FEATURES.contains(w)).map(str::to_owned).collect();
    features.sort();
    features.dedup();
    features
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_node_can_continue_what_ran_on_it() {
        let here = of_this_node("4.2.1", "runc");
        assert!(!here.cpu_features.is_empty() && here.xsave_bytes > 0);
        assert_eq!(check(&here, &here), Ok(()));
    }

    #[test]
    fn a_missing_feature_another_size_and_another_kind_are_refused_by_name() {
        let here = of_this_node("4.2.1", "runc");
        let mut there = here.clone();
        there.cpu_features.push("amx_future".to_owned());
        assert_eq!(check(&there, &here), Err(Mismatch::Cpu { features: "amx_future".to_owned() }));
        let there = Compat { xsave_bytes: here.xsave_bytes + 64, ..here.clone() };
        assert!(matches!(check(&there, &here), Err(Mismatch::Xsave { .. })));
        let there = Compat { arch: "s390x".to_owned(), ..here.clone() };
        assert!(matches!(check(&there, &here), Err(Mismatch::Arch { .. })));
        let there = Compat { page_size: 65536, ..here.clone() };
        assert!(matches!(check(&there, &here), Err(Mismatch::PageSize { .. })));
    }

    #[test]
    fn a_person_is_told_what_forbids_it_and_what_else_is_different() {
        let here = of_this_node("4.2.1", "runc 1.3");
        let same = Comparison { fault: None, others: vec![] };
        assert_eq!(compare(&here, &here, true), same);
        let there = Compat { criu: "4.1".to_owned(), cgroup_version: 3, ..here.clone() };
        let told = compare(&there, &here, true);
        let cgroups = format!("cgroups v3 there, v{} here", here.cgroup_version);
        assert_eq!(told.others, ["CRIU 4.1 there, 4.2.1 here".to_owned(), cgroups]);
        assert_eq!(told.fault, None);
        let there = Compat { xsave_bytes: here.xsave_bytes + 64, ..here.clone() };
        assert_eq!(
            compare(&there, &here, true).fault,
            check(&there, &here).err().map(|why| why.to_string())
        );
        assert!(compare(&here, &here, false).fault.is_some_and(|why| why.contains("userfaultfd")));
    }
}
