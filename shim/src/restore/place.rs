//! Where a container's cgroup will be, before there is a process in it: from `linux.cgroupsPath` of its spec, as runc reads it.

use std::path::PathBuf;

use crate::cgroup::{Cgroup, unified, v1, v2};
use crate::container::Container;
use crate::options::Options;
use crate::spec::Spec;

/// The cgroup of the container: where its processes are, or else where runc will make it. `None` for a spec that leaves the place
/// to runc.
#[must_use]
pub fn of(container: &Container) -> Option<Cgroup> {
    if let Some(known) = container.cgroup() {
        return Some((*known).clone());
    }
    asked(container.spec(), container.options())
}

/// Where runc makes the cgroup of a container. `None` for a spec that leaves the place to runc.
#[must_use]
pub fn asked(spec: &Spec, options: &Options) -> Option<Cgroup> {
    let asked = spec.linux.as_ref()?.cgroups_path.as_deref()?;
    let path = if options.systemd_cgroup { systemd(asked)? } else { absolute(asked)? };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    if unified() {
        return v2::Group::find(&format!("0::{path}\n"), &mounts).map(Cgroup::V2);
    }
    let ours = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    v1::Group::find(&elsewhere(&ours, &path), &mounts).map(Cgroup::V1)
}

/// Its directories for a pager: the memory controller's first.
#[must_use]
pub fn directories(cgroup: &Cgroup) -> Vec<PathBuf> {
    match cgroup {
        Cgroup::V2(group) => vec![group.dir().to_owned()],
        Cgroup::V1(group) => ["memory", "freezer", "devices"]
            .iter()
            .filter_map(|name| group.controller(name).map(ToOwned::to_owned))
            .collect(),
    }
}

fn absolute(path: &str) -> Option<String> {
    let below_root = path.starts_with('/') && !path.trim_matches('/').is_empty();
    let clean = below_root && !path.split('/').any(|part| part == "..");
    clean.then(|| path.to_owned())
}

/// `slice:prefix:name`; a slice `a-b.slice` lies in `a.slice`.
fn systemd(path: &str) -> Option<String> {
    let mut parts = path.split(':');
    let (slice, prefix, name) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || name.is_empty() || path.contains('/') {
        return None;
    }
    let slice = if slice.is_empty() { "system.slice" } else { slice };
    let stem = slice.strip_suffix(".slice")?;
    let mut dir = String::new();
    if stem != "-" {
        let mut so_far = String::new();
        for part in stem.split('-') {
            so_far.push_str(part);
            dir.push_str(&format!("/{so_far}.slice"));
            so_far.push('-');
        }
    }
    let scope = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}-{name}") };
    let unit = if name.ends_with(".slice") { name.to_owned() } else { format!("{scope}.scope") };
    Some(format!("{dir}/{unit}"))
}

/// The membership of a process that would be at `path` in each of our hierarchies.
fn elsewhere(ours: &str, path: &str) -> String {
    ours.lines()
        .filter_map(|line| line.rsplit_once(':'))
        .map(|(head, _)| format!("{head}:{path}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_nested_as_systemd_nests_them() {
        let place = |path| systemd(path);
        assert_eq!(
            place("kube-pod1.slice:cri:abc").as_deref(),
            Some("/kube.slice/kube-pod1.slice/cri-abc.scope")
        );
        assert_eq!(place(":runc:web").as_deref(), Some("/system.slice/runc-web.scope"));
        assert_eq!(place("-.slice::web").as_deref(), Some("/web.scope"));
        assert_eq!(place("nonsense"), None);
        assert_eq!(place("a.slice:../x:y"), None);
    }

    #[test]
    fn only_an_absolute_path_is_known_before_runc_makes_it() {
        assert_eq!(absolute("/default/web").as_deref(), Some("/default/web"));
        assert_eq!(absolute("web"), None);
        assert_eq!(absolute("/a/../b"), None);
        assert_eq!(absolute("/"), None);
    }

    #[test]
    fn every_hierarchy_gets_the_path() {
        let ours = "5:memory:/shim\n4:cpu,cpuacct:/x\n0::/y\n";
        assert_eq!(elsewhere(ours, "/d/c"), "5:memory:/d/c\n4:cpu,cpuacct:/d/c\n0::/d/c\n");
    }
}
