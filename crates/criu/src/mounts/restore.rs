//! What the mounts of a checkpoint become under a *new* spec.
//!
//! Owns the decision where each external mount comes from. The plan of the checkpoint says what there was; sizes,
//! flags and the very existence of a mount come from the new spec, or the restore is refused. Contents are bounded to
//! harmless kinds: no device that the new spec lacks, no path that leaves its file system.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use godwit_criu_rpc::relay_plan::{Entry, EntryKind, RawPath, Source, SourceKind, is_kept};
use oci_spec::runtime::{Mount as SpecMount, Spec};
use rustix::mount::MountFlags;

use super::{MountPlan, PlannedMount, Role, has_option, is_bind, same_path};
use crate::vet::Refusal;

/// Devices that runc makes in every container's `/dev`.
const DEFAULT_DEVICES: &[(u32, u32)] = &[(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1)];

/// Where each external mount comes from on this node.
///
/// # Errors
/// Every reason why the new spec does not allow it.
pub fn sources(plan: &MountPlan, spec: &Spec) -> Result<Vec<Source>, Vec<Refusal>> {
    let mut refusals = missing(plan, spec);
    let mut sources = Vec::new();
    for mount in &plan.mounts {
        match source(mount, spec) {
            Ok(Some(kind)) => {
                let key = mount.key().unwrap_or_default();
                sources.push(Source { key, kind });
            }
            Ok(None) => {}
            Err(refusal) => refusals.push(refusal),
        }
    }
    if refusals.is_empty() { Ok(sources) } else { Err(refusals) }
}

/// Mounts of the new spec that the checkpoint did not have: its processes would see what is underneath.
fn missing(plan: &MountPlan, spec: &Spec) -> Vec<Refusal> {
    let has = |path: &Path| plan.mounts.iter().any(|m| same_path(path, m.mountpoint.as_path()));
    spec_mounts(spec)
        .iter()
        .filter(|m| is_bind(m) || m.typ().as_deref() == Some("tmpfs"))
        .filter(|m| !has(m.destination()))
        .map(|m| Refusal::MountMissing { path: m.destination().display().to_string() })
        .collect()
}

fn source(mount: &PlannedMount, spec: &Spec) -> Result<Option<SourceKind>, Refusal> {
    let path = mount.mountpoint.as_path();
    let in_spec = spec_mounts(spec).iter().find(|m| same_path(m.destination(), path));
    let foreign = || Refusal::Mount { path: path.display().to_string() };
    Ok(match &mount.role {
        Role::Criu => None,
        // runc maps it by its destination.
        Role::Bind => in_spec.is_some_and(is_bind).then_some(None).ok_or_else(foreign)?,
        Role::Inner { of, inner } => Some(inner_source(of, inner, spec).ok_or_else(foreign)?),
        Role::Tmpfs { entries } => Some(tmpfs(mount, entries, in_spec, spec)?),
        Role::Cgroup2 => Some(cgroup(path, "", spec).ok_or_else(foreign)?),
        Role::CgroupV1 => {
            let hierarchy = v1_hierarchy(&mount.super_options);
            Some(cgroup(path, &hierarchy, spec).ok_or_else(foreign)?)
        }
    })
}

fn inner_source(of: &RawPath, inner: &RawPath, spec: &Spec) -> Option<SourceKind> {
    let outer = spec_mounts(spec)
        .iter()
        .find(|m| same_path(m.destination(), of.as_path()) && has_option(m, "rbind"))?;
    let volume = outer.source().clone()?;
    is_plain(inner.as_path()).then(|| SourceKind::Inside { volume, inner: inner.clone() })
}

/// The hierarchy of a v1 mount: `cpu,cpuacct`, or `name=systemd`.
fn v1_hierarchy(super_options: &[String]) -> String {
    let words =
        super_options.iter().filter(|o| !["rw", "ro", "xattr", "none"].contains(&o.as_str()));
    words.cloned().collect::<Vec<_>>().join(",")
}

fn cgroup(path: &Path, hierarchy: &str, spec: &Spec) -> Option<SourceKind> {
    let wanted = |m: &&SpecMount| m.typ().as_deref().is_some_and(|t| t.starts_with("cgroup"));
    let known = hierarchy.chars().all(|c| c.is_ascii_alphanumeric() || "_,=-.".contains(c));
    let mut mounts = spec_mounts(spec).iter().filter(wanted);
    if !known || !mounts.any(|m| path.starts_with(m.destination())) {
        return None;
    }
    Some(match (has_cgroup_namespace(spec), hierarchy) {
        (true, "") => SourceKind::Cgroup2,
        (true, named) if named.starts_with("name=") => {
            SourceKind::CgroupV1 { data: format!("none,{named}") }
        }
        (true, controllers) => SourceKind::CgroupV1 { data: controllers.to_owned() },
        (false, hierarchy) => SourceKind::CgroupOwn { hierarchy: hierarchy.to_owned() },
    })
}

/// Whether the spec asks for a cgroup namespace.
#[must_use]
pub fn has_cgroup_namespace(spec: &Spec) -> bool {
    use oci_spec::runtime::LinuxNamespaceType::Cgroup;
    let namespaces = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
    namespaces.is_some_and(|all| all.iter().any(|n| n.typ() == Cgroup))
}

fn tmpfs(
    mount: &PlannedMount,
    entries: &[Entry],
    in_spec: Option<&SpecMount>,
    spec: &Spec,
) -> Result<SourceKind, Refusal> {
    let path = mount.mountpoint.as_path();
    let masked = spec.linux().as_ref().and_then(|l| l.masked_paths().as_ref());
    if masked.is_some_and(|paths| paths.iter().any(|p| same_path(Path::new(p), path))) {
        // Whatever the checkpoint says: nothing is behind a masked directory.
        let entries = entries.iter().take(1).cloned().collect();
        let flags = u64::from(MountFlags::empty().bits());
        return Ok(SourceKind::Tmpfs { data: String::new(), flags, read_only: true, entries });
    }
    let in_spec = in_spec.filter(|m| {
        let typ = m.typ().as_deref();
        typ == Some("tmpfs") || typ.is_some_and(|t| t.starts_with("cgroup"))
    });
    let Some(in_spec) = in_spec else {
        return Err(Refusal::Mount { path: path.display().to_string() });
    };
    check_entries(path, entries, spec)?;
    let (data, flags, read_only) = tmpfs_options(in_spec);
    Ok(SourceKind::Tmpfs {
        data,
        flags: u64::from(flags.bits()),
        read_only,
        entries: entries.to_vec(),
    })
}

/// What runc would pass to mount(2): the file system's own options, flags, and whether it is read-only.
fn tmpfs_options(mount: &SpecMount) -> (String, MountFlags, bool) {
    let is_tmpfs = mount.typ().as_deref() == Some("tmpfs");
    let mut data = if is_tmpfs { Vec::new() } else { vec!["mode=755"] };
    let mut flags = MountFlags::empty();
    let mut read_only = false;
    for option in mount.options().as_deref().unwrap_or_default() {
        match option.as_str() {
            "ro" => read_only = true,
            "rw" => read_only = false,
            "nosuid" => flags |= MountFlags::NOSUID,
            "nodev" => flags |= MountFlags::NODEV,
            "noexec" => flags |= MountFlags::NOEXEC,
            "noatime" => flags |= MountFlags::NOATIME,
            "nodiratime" => flags |= MountFlags::NODIRATIME,
            "relatime" => flags |= MountFlags::RELATIME,
            "strictatime" => flags |= MountFlags::STRICTATIME,
            own if is_tmpfs && is_tmpfs_option(own) => data.push(own),
            // Propagation, runc's own words (tmpcopyup): not the kernel's.
            _ => {}
        }
    }
    (data.join(","), flags, read_only)
}

fn is_tmpfs_option(option: &str) -> bool {
    const NAMES: &[&str] = &[
        "size",
        "nr_blocks",
        "nr_inodes",
        "mode",
        "uid",
        "gid",
        "huge",
        "mpol",
        "inode32",
        "inode64",
    ];
    NAMES.contains(&option.split('=').next().unwrap_or_default())
}

fn check_entries(mount: &Path, entries: &[Entry], spec: &Spec) -> Result<(), Refusal> {
    let mut seen: HashSet<&Path> = HashSet::new();
    for (index, entry) in entries.iter().enumerate() {
        let path = entry.path.as_path();
        let bad = |why: &'static str| Refusal::TmpfsEntry {
            path: mount.join(path).display().to_string(),
            why,
        };
        let is_root = path.as_os_str().is_empty();
        if is_root != (index == 0) || (is_root && entry.kind != EntryKind::Dir) {
            return Err(bad("the first entry must be the root directory"));
        }
        if !is_root && !is_plain(path) {
            return Err(bad("its path leaves the file system"));
        }
        if !entry.xattrs.iter().all(|x| is_kept(&x.name)) {
            return Err(bad("it has an attribute that is not the file's own"));
        }
        match &entry.kind {
            EntryKind::HardLink { to } if !seen.contains(to.as_path()) => {
                return Err(bad("it links to a file that is not there"));
            }
            EntryKind::CharDevice { major, minor } if !allowed(spec, *major, *minor) => {
                return Err(device(mount, path, *major, *minor));
            }
            EntryKind::BlockDevice { major, minor } if !in_spec(spec, *major, *minor) => {
                return Err(device(mount, path, *major, *minor));
            }
            _ => {}
        }
        if !seen.insert(path) {
            return Err(bad("it is there twice"));
        }
    }
    Ok(())
}

fn device(mount: &Path, path: &Path, major: u32, minor: u32) -> Refusal {
    Refusal::Device { path: mount.join(path).display().to_string(), major, minor }
}

fn allowed(spec: &Spec, major: u32, minor: u32) -> bool {
    DEFAULT_DEVICES.contains(&(major, minor)) || in_spec(spec, major, minor)
}

fn in_spec(spec: &Spec, major: u32, minor: u32) -> bool {
    let devices = spec.linux().as_ref().and_then(|l| l.devices().as_ref());
    let wanted = (i64::from(major), i64::from(minor));
    devices.is_some_and(|all| all.iter().any(|d| (d.major(), d.minor()) == wanted))
}

/// Relative, and of ordinary names only.
fn is_plain(path: &Path) -> bool {
    let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
    plain && path.as_os_str() == path.components().collect::<PathBuf>().as_os_str()
}

fn spec_mounts(spec: &Spec) -> &[SpecMount] {
    spec.mounts().as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = r#"{"ociVersion":"1.2.0","mounts":[
        {"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","strictatime","mode=755","size=65536k","tmpcopyup"]},
        {"destination":"/vol","type":"bind","source":"/new/vol","options":["rbind","rslave"]},
        {"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup","options":["ro","nosuid"]}],
        "linux":{"namespaces":[{"type":"cgroup"}],"maskedPaths":["/proc/acpi"],
                 "devices":[{"path":"/dev/fuse","type":"c","major":10,"minor":229}]}}"#;

    fn spec() -> Spec {
        serde_json::from_str(SPEC).unwrap()
    }

    fn planned(path: &str, role: Role) -> PlannedMount {
        PlannedMount {
            mountpoint: RawPath::from(path),
            fs: "x".into(),
            super_options: vec!["rw".into(), "cpu".into(), "cpuacct".into()],
            read_only: false,
            role,
        }
    }

    fn of(mounts: Vec<PlannedMount>) -> Result<Vec<Source>, Vec<Refusal>> {
        let mut all = mounts;
        for (path, role) in
            [("/dev", Role::Tmpfs { entries: vec![file("")] }), ("/vol", Role::Bind)]
        {
            if !all.iter().any(|m| m.mountpoint == RawPath::from(path)) {
                all.push(planned(path, role));
            }
        }
        sources(&MountPlan { version: 1, mounts: all }, &spec())
    }

    fn file(path: &str) -> Entry {
        let kind = if path.is_empty() {
            EntryKind::Dir
        } else {
            EntryKind::File { size: 0, extents: Vec::new() }
        };
        let (path, xattrs) = (RawPath::from(path), Vec::new());
        Entry { path, mode: 0o755, uid: 0, gid: 0, mtime: (0, 0), xattrs, kind }
    }

    fn with(kind: EntryKind) -> Vec<PlannedMount> {
        let entries = vec![file(""), Entry { kind, ..file("x") }];
        vec![planned("/dev", Role::Tmpfs { entries })]
    }

    #[test]
    fn sizes_and_flags_come_from_the_new_spec() {
        let sources = of(Vec::new()).unwrap();
        let SourceKind::Tmpfs { data, flags, read_only, .. } = &sources[0].kind else { panic!() };
        assert_eq!((sources[0].key.as_str(), data.as_str()), ("gw:/dev", "mode=755,size=65536k"));
        assert_eq!(*flags, u64::from((MountFlags::NOSUID | MountFlags::STRICTATIME).bits()));
        assert!(!read_only);
    }

    #[test]
    fn inner_mounts_and_cgroups_are_found_on_this_node() {
        let inner = Role::Inner { of: RawPath::from("/vol"), inner: RawPath::from("a/b") };
        let mounts = vec![
            planned("/vol/a/b", inner),
            planned("/sys/fs/cgroup", Role::Cgroup2),
            planned("/sys/fs/cgroup/cpu", Role::CgroupV1),
        ];
        let sources = of(mounts).unwrap();
        let inside = SourceKind::Inside { volume: "/new/vol".into(), inner: RawPath::from("a/b") };
        assert_eq!(sources[0].kind, inside);
        assert_eq!(sources[1].kind, SourceKind::Cgroup2);
        assert_eq!(sources[2].kind, SourceKind::CgroupV1 { data: "cpu,cpuacct".into() });
    }

    #[test]
    fn a_masked_directory_is_empty_whatever_the_checkpoint_says() {
        let entries = vec![file(""), file("evil")];
        let sources = of(vec![planned("/proc/acpi", Role::Tmpfs { entries })]).unwrap();
        let SourceKind::Tmpfs { entries, read_only, .. } = &sources[0].kind else { panic!() };
        assert_eq!((entries.len(), *read_only), (1, true));
    }

    #[test]
    fn what_the_new_spec_lacks_is_refused() {
        let refusal = |mounts| of(mounts).unwrap_err().remove(0).to_string();
        let text = refusal(vec![planned("/etc/shadow", Role::Bind)]);
        assert!(text.contains("/etc/shadow"), "{text}");
        assert!(of(vec![planned("/cache", Role::Tmpfs { entries: vec![file("")] })]).is_err());
        let inner = |of, inner| Role::Inner { of: RawPath::from(of), inner: RawPath::from(inner) };
        assert!(of(vec![planned("/vol/x", inner("/vol", "../../etc"))]).is_err());
        assert!(of(vec![planned("/vol/x", inner("/other", "x"))]).is_err());
        assert!(of(with(EntryKind::CharDevice { major: 1, minor: 1 })).is_err());
        assert!(of(with(EntryKind::BlockDevice { major: 8, minor: 0 })).is_err());
        assert!(of(with(EntryKind::CharDevice { major: 10, minor: 229 })).is_ok());
        assert!(of(with(EntryKind::HardLink { to: RawPath::from("y") })).is_err());
        for path in ["../x", "/x", "a/../../b", "a//b", "./a"] {
            let entries = vec![file(""), file(path)];
            assert!(of(vec![planned("/dev", Role::Tmpfs { entries })]).is_err(), "{path}");
        }
    }

    #[test]
    fn a_mount_that_the_checkpoint_lacks_is_refused() {
        let plan = MountPlan { version: 1, mounts: Vec::new() };
        let refusals = sources(&plan, &spec()).unwrap_err();
        let paths: Vec<String> = refusals.iter().map(ToString::to_string).collect();
        assert_eq!(refusals.len(), 2, "{paths:?}");
    }
}
