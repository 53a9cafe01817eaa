//! The mount table of the images against the new spec: nothing that the spec lacks, nothing less restricted, nothing
//! unprotected that the spec protects.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use godwit_criu_rpc::image_file::Kind;
use godwit_criu_rpc::images::Mount;
use oci_spec::runtime::Spec;
use rustix::mount::MountFlags;

use super::Refusal;
use crate::Error;
use crate::images::ImageDir;
use crate::mounts::{MountPlan, has_option, same_path};

/// `fstype` numbers (`images/mnt.proto`) that CRIU may make by itself.
const UNSUPPORTED: u32 = 0;
const PROC: u32 = 1;
const SYSFS: u32 = 2;
const TMPFS: u32 = 5;
const DEVPTS: u32 = 6;
const MQUEUE: u32 = 14;
const OVERLAY: u32 = 17;

/// Flags of the spec that must not be lost.
const RESTRICTIONS: [(&str, MountFlags); 4] = [
    ("ro", MountFlags::RDONLY),
    ("nosuid", MountFlags::NOSUID),
    ("nodev", MountFlags::NODEV),
    ("noexec", MountFlags::NOEXEC),
];

pub(super) fn check(images: &ImageDir, spec: &Spec) -> Result<Vec<Refusal>, Error> {
    let names = images.names("mountpoints-")?;
    let [name] = names.as_slice() else {
        return Err(Error::image("mountpoints", format!("{} mount namespaces", names.len())));
    };
    let mounts: Vec<Mount> = images.read(Kind::Mountpoints, name)?.decode(name)?;
    let plan = MountPlan::read(images.path())?;
    let table = Table::of(&mounts, &plan);
    let mut refusals = table.foreign();
    refusals.extend(table.flags(spec));
    refusals.extend(table.unprotected(spec, Path::exists));
    Ok(refusals)
}

struct Table<'a> {
    mounts: &'a [Mount],
    plan: &'a MountPlan,
    /// Devices of external mounts: a bind of one of them is as good as it is.
    external_devices: HashMap<u32, ()>,
}

impl<'a> Table<'a> {
    fn of(mounts: &'a [Mount], plan: &'a MountPlan) -> Self {
        let external = mounts.iter().filter(|m| m.ext_key.is_some());
        let external_devices = external.map(|m| (m.root_dev, ())).collect();
        Self { mounts, plan, external_devices }
    }

    /// Mounts that CRIU would make out of the image, or under a key that is not that of their place.
    fn foreign(&self) -> Vec<Refusal> {
        let foreign = self.mounts.iter().filter(|m| !self.is_known(m));
        foreign.map(|m| Refusal::Mount { path: path_of(m) }).collect()
    }

    fn is_known(&self, mount: &Mount) -> bool {
        let path = path_of(mount);
        if let Some(key) = &mount.ext_key {
            let planned = self
                .plan
                .mounts
                .iter()
                .find(|p| same_path(p.mountpoint.as_path(), Path::new(&path)));
            return planned.and_then(|p| p.key()).as_ref() == Some(key);
        }
        if mount.ext_mount == Some(true) || mount.with_plugin == Some(true) {
            return false;
        }
        match mount.fstype {
            PROC | SYSFS | DEVPTS | MQUEUE => true,
            // Masked files: binds of something external.
            TMPFS => mount.root != "/" && self.external_devices.contains_key(&mount.root_dev),
            UNSUPPORTED | OVERLAY => path == "/",
            _ => false,
        }
    }

    fn flags(&self, spec: &Spec) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        let read_only = spec.root().as_ref().and_then(|r| r.readonly()).unwrap_or(false);
        if read_only {
            refusals.extend(self.lacks(Path::new("/"), "ro", MountFlags::RDONLY));
        }
        for wanted in spec.mounts().as_deref().unwrap_or_default() {
            for (word, flag) in RESTRICTIONS {
                // Of contradicting words the last one counts; `rw` after `ro` is not worth a special case.
                if has_option(wanted, word) && !(word == "ro" && has_option(wanted, "rw")) {
                    let path = wanted.destination();
                    let hierarchies = self.hierarchies(wanted);
                    match hierarchies.is_empty() {
                        true => refusals.extend(self.lacks(path, word, flag)),
                        false => {
                            let lack = |one: &PathBuf| self.lacks(one, word, flag);
                            refusals.extend(hierarchies.iter().filter_map(lack));
                        }
                    }
                }
            }
        }
        refusals
    }

    /// With cgroup v1, runc makes of the spec's one mount a tmpfs of its own, writable, and in it each hierarchy as the spec says.
    fn hierarchies(&self, wanted: &oci_spec::runtime::Mount) -> Vec<PathBuf> {
        let path = wanted.destination();
        let is_v1 = wanted.typ().as_deref() == Some("cgroup")
            && self.at(path).is_some_and(|mount| mount.fstype == TMPFS);
        let paths =
            self.mounts.iter().map(|m| Path::new("/").join(path_of(m).trim_start_matches('/')));
        paths.filter(|one| is_v1 && one.parent() == Some(path)).collect()
    }

    fn lacks(&self, path: &Path, word: &'static str, flag: MountFlags) -> Option<Refusal> {
        let mount = self.at(path)?;
        let own = mount.flags | mount.sb_flags.unwrap_or(0);
        let lacks = own & flag.bits() == 0;
        lacks.then(|| Refusal::MountFlag { path: path.display().to_string(), flag: word })
    }

    /// Paths of the spec that exist on this node and are open in the checkpoint.
    fn unprotected(&self, spec: &Spec, exists: impl Fn(&Path) -> bool) -> Vec<Refusal> {
        let Some(linux) = spec.linux() else { return Vec::new() };
        let masked = linux.masked_paths().as_deref().unwrap_or_default().iter();
        let masked = masked.filter(|p| self.at(Path::new(p)).is_none_or(shows_kernel));
        let read_only = linux.readonly_paths().as_deref().unwrap_or_default().iter();
        let read_only = read_only.filter(|p| {
            self.at(Path::new(p)).is_none_or(|m| m.flags & MountFlags::RDONLY.bits() == 0)
        });
        let refuse =
            |protection| move |p: &String| Refusal::Unprotected { path: p.clone(), protection };
        let here = |p: &&String| exists(Path::new(p));
        let masked = masked.filter(here).map(refuse("masked"));
        masked.chain(read_only.filter(here).map(refuse("read-only"))).collect()
    }

    /// The topmost mount at exactly this path.
    fn at(&self, path: &Path) -> Option<&Mount> {
        self.mounts.iter().rev().find(|m| same_path(path, Path::new(&path_of(m))))
    }
}

fn shows_kernel(mount: &Mount) -> bool {
    matches!(mount.fstype, PROC | SYSFS) && mount.ext_key.is_none()
}

/// CRIU writes mount points as `/x`, `./x` or `.`.
fn path_of(mount: &Mount) -> String {
    let path = mount.mountpoint.strip_prefix('.').unwrap_or(&mount.mountpoint);
    if path.is_empty() { "/".to_owned() } else { path.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: &str = r#"{"version":1,"mounts":[
        {"mountpoint":"/dev","fs":"tmpfs","super_options":[],"read_only":false,"role":{"type":"tmpfs","entries":[]}},
        {"mountpoint":"/vol","fs":"ext4","super_options":[],"read_only":false,"role":{"type":"bind"}}]}"#;
    const SPEC: &str = r#"{"ociVersion":"1.2.0","root":{"path":"r","readonly":true},"mounts":[
        {"destination":"/vol","type":"bind","source":"/v","options":["rbind","ro","nosuid"]}],
        "linux":{"maskedPaths":["/proc/kcore","/proc/none"],"readonlyPaths":["/proc/sys"]}}"#;

    fn mount(path: &str, fstype: u32, flags: MountFlags) -> Mount {
        Mount {
            mountpoint: path.into(),
            fstype,
            flags: flags.bits(),
            root: "/".into(),
            root_dev: fstype,
            ..Mount::default()
        }
    }

    fn external(path: &str, key: &str, flags: MountFlags) -> Mount {
        Mount { ext_key: Some(key.into()), root_dev: 77, ..mount(path, UNSUPPORTED, flags) }
    }

    fn good() -> Vec<Mount> {
        let none = MountFlags::empty();
        vec![
            mount("./", OVERLAY, MountFlags::RDONLY),
            mount("./proc", PROC, none),
            external("./dev", "gw:/dev", none),
            external("./vol", "/vol", MountFlags::RDONLY | MountFlags::NOSUID),
            Mount { root: "/null".into(), root_dev: 77, ..mount("./proc/kcore", TMPFS, none) },
            Mount { root: "/sys".into(), ..mount("./proc/sys", PROC, MountFlags::RDONLY) },
        ]
    }

    fn of(mounts: &[Mount]) -> Vec<Refusal> {
        let plan: MountPlan = serde_json::from_str(PLAN).unwrap();
        let spec: Spec = serde_json::from_str(SPEC).unwrap();
        let table = Table::of(mounts, &plan);
        let mut all = table.foreign();
        all.extend(table.flags(&spec));
        all.extend(table.unprotected(&spec, |p| p != Path::new("/proc/none")));
        all
    }

    #[test]
    fn a_table_within_the_spec_passes() {
        assert_eq!(of(&good()), []);
    }

    #[test]
    fn foreign_mounts_are_refused() {
        for bad in [
            external("./etc", "gw:/etc", MountFlags::empty()),
            external("./dev", "/vol", MountFlags::empty()),
            mount("./x", TMPFS, MountFlags::empty()),
            mount("./proc/sys/fs/binfmt_misc", 4, MountFlags::empty()),
            mount("./x", OVERLAY, MountFlags::empty()),
        ] {
            let mut mounts = good();
            mounts.push(bad.clone());
            let refusals = of(&mounts);
            assert!(refusals.contains(&Refusal::Mount { path: path_of(&bad) }), "{bad:?}");
        }
    }

    #[test]
    fn lost_flags_and_lost_protection_are_refused() {
        let mut mounts = good();
        mounts[0].flags = 0;
        mounts[3].flags = MountFlags::RDONLY.bits();
        mounts[5].flags = 0;
        mounts.remove(4);
        assert_eq!(
            of(&mounts),
            [
                Refusal::MountFlag { path: "/".into(), flag: "ro" },
                Refusal::MountFlag { path: "/vol".into(), flag: "nosuid" },
                Refusal::Unprotected { path: "/proc/kcore".into(), protection: "masked" },
                Refusal::Unprotected { path: "/proc/sys".into(), protection: "read-only" },
            ]
        );
    }
}
