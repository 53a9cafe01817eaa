//! The memory limit of the cgroup that a pod's containers lie in: the kubelet gives a pod the sum of theirs if each has one.

use std::path::{Component, Path, PathBuf};

use godwit_types::Bytes;
use oci_spec::runtime::Spec;

/// Where this node has its cgroups.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Limits from here on are none: cgroup v1 says the largest number of pages that it can count.
const NONE: u64 = 1 << 62;

/// The limit of the cgroup above the container's; `None` without one.
pub(super) fn limit(spec: &Spec) -> Option<Bytes> {
    limit_below(Path::new(CGROUPS), spec.linux().as_ref()?.cgroups_path().as_ref()?)
}

fn limit_below(cgroups: &Path, asked: &Path) -> Option<Bytes> {
    let group = group_of(asked)?;
    let v1 = cgroups.join("memory").join(&group).join("memory.limit_in_bytes");
    let v2 = cgroups.join(&group).join("memory.max");
    let text = std::fs::read_to_string(v1).or_else(|_| std::fs::read_to_string(v2)).ok()?;
    text.trim().parse().ok().filter(|limit| *limit < NONE).map(Bytes)
}

/// Where a container's cgroup lies, by `linux.cgroupsPath`: a path, or `slice:prefix:name` for systemd.
fn group_of(asked: &Path) -> Option<PathBuf> {
    let text = asked.to_str()?;
    if let Some((slice, _)) = text.split_once(':') {
        return slices(slice);
    }
    let parent = asked.strip_prefix("/").ok()?.parent()?;
    let clean = parent.components().all(|part| matches!(part, Component::Normal(_)));
    clean.then(|| parent.to_owned())
}

/// A slice `a-b.slice` lies in `a.slice`.
fn slices(slice: &str) -> Option<PathBuf> {
    let stem = slice.strip_suffix(".slice").filter(|stem| !stem.contains('/'))?;
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    Some(ends.map(|end| format!("{}.slice", &stem[..end])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_group_is_where_its_containers_are() {
        let group = |asked: &str| group_of(Path::new(asked)).map(|p| p.display().to_string());
        assert_eq!(
            group("/kubepods/burstable/podu1/c1").as_deref(),
            Some("kubepods/burstable/podu1")
        );
        assert_eq!(
            group("kubepods-burstable-podu1.slice:cri-containerd:c1").as_deref(),
            Some("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podu1.slice")
        );
        assert_eq!(group("/c1").as_deref(), Some(""));
        for strange in ["c1", "/a/../b/c1", "../x.slice:a:b"] {
            assert_eq!(group(strange), None, "{strange}");
        }
    }

    #[test]
    fn its_limit_is_read_in_both_versions_of_cgroups() {
        let dir = tempfile::tempdir().unwrap();
        let limit = |asked: &str| limit_below(dir.path(), Path::new(asked));
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("memory/kubepods/pod1/memory.limit_in_bytes", "1048576\n");
        write("memory/kubepods/pod2/memory.limit_in_bytes", "9223372036854771712\n");
        write("kubepods/pod3/memory.max", "2097152\n");
        write("kubepods/pod4/memory.max", "max\n");
        let found = [1, 2, 3, 4, 5].map(|n| limit(&format!("/kubepods/pod{n}/c")));
        assert_eq!(found, [Some(Bytes(1 << 20)), None, Some(Bytes(2 << 20)), None, None]);
    }
}
