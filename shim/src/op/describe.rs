//! What an agent is told about a container.

use std::os::fd::OwnedFd;
use std::path::Path;

use godwit_wire::shim_op::{self, RootMount};
use godwit_wire::{Annotation, memfd};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::cgroup::Cgroup;
use crate::container::Container;
use crate::error::{Error, Result};
use crate::spec::{CONFIG, Spec};

/// Annotations that agents read.
const PREFIXES: [&str; 2] = ["godwit.dev/", "io.kubernetes.cri."];

/// A container with \[pidfd of its init, its spec as a sealed memfd\].
///
/// # Errors
/// It has no process, or its spec cannot be read.
pub(super) fn container(container: &Container) -> Result<(shim_op::Container, [OwnedFd; 2])> {
    let pid = container.init_pid();
    let pid = pid.ok_or_else(|| Error::NotFound(format!("{} has no process", container.id())))?;
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let raw = raw.ok_or_else(|| Error::NotFound(format!("{pid} is no pid")))?;
    let attempt = || format!("open the pidfd of {}", container.id());
    let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(Error::io(attempt()))?;
    let described = shim_op::Container {
        id: container.id().to_owned(),
        pid,
        rootfs: container.rootfs().display().to_string(),
        cgroups: container.cgroup().map(|cgroup| cgroups(&cgroup, pid)).unwrap_or_default(),
        stdio: container.init().io().map(|io| io.pipes().to_vec()).unwrap_or_default(),
        terminal: container.init().stdio().terminal,
        execs: u32::try_from(*container.running_execs().borrow()).unwrap_or(u32::MAX),
        runtime: container.options().binary().to_owned(),
        mounts: root_mounts(&container.rootfs()),
    };
    Ok((described, [pidfd, spec(container)?]))
}

/// `config.json` of a container as a sealed memfd.
///
/// # Errors
/// It cannot be read.
pub(super) fn spec(container: &Container) -> Result<OwnedFd> {
    let path = container.bundle().join(CONFIG);
    let bytes = std::fs::read(&path).map_err(Error::io(format!("read {}", path.display())))?;
    memfd::sealed(CONFIG, &bytes)
        .map_err(|why| Error::Unavailable(format!("pass the spec on: {why}")))
}

/// The annotations of a spec that agents read.
pub(super) fn annotations(spec: &Spec) -> Vec<Annotation> {
    let read = |name: &str| PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let told = spec.annotations.iter().filter(|(name, _)| read(name));
    told.map(|(name, value)| Annotation { name: name.clone(), value: value.clone() }).collect()
}

/// Mounts at the root file system's place, as containerd made them.
fn root_mounts(rootfs: &Path) -> Vec<RootMount> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let rootfs = rootfs.canonicalize().unwrap_or_else(|_| rootfs.to_owned());
    table.lines().filter_map(|line| mount_at(line, &rootfs)).collect()
}

fn mount_at(line: &str, rootfs: &Path) -> Option<RootMount> {
    let (left, right) = line.split_once(" - ")?;
    let point = unescape(left.split(' ').nth(4)?);
    if Path::new(&point) != rootfs {
        return None;
    }
    let mut fields = right.split(' ');
    let (kind, source, options) = (fields.next()?, fields.next()?, fields.next()?);
    Some(RootMount {
        kind: kind.to_owned(),
        source: unescape(source),
        options: options.split(',').map(unescape).collect(),
    })
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (code, part.get(3..)) {
            (Some(code), Some(rest)) => {
                plain.push(char::from(code));
                plain.push_str(rest);
            }
            _ => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

fn cgroups(cgroup: &Cgroup, pid: u32) -> Vec<shim_op::Cgroup> {
    match cgroup {
        Cgroup::V2(group) => {
            vec![shim_op::Cgroup {
                controllers: String::new(),
                path: group.dir().display().to_string(),
            }]
        }
        Cgroup::V1(group) => {
            let member = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            let hierarchies = member.lines().filter_map(|line| line.split(':').nth(1));
            let told = hierarchies.filter_map(|controllers| {
                let first = controllers.split(',').next()?.trim_start_matches("name=");
                let path = group.controller(first)?.display().to_string();
                Some(shim_op::Cgroup { controllers: controllers.to_owned(), path })
            });
            told.collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mounts_of_the_root_file_system_are_told_with_their_options() {
        let line = "60 29 0:50 / /run/b\\040x/rootfs rw,relatime shared:1 - overlay overlay rw,lowerdir=/a:/b,upperdir=/u";
        let mount = mount_at(line, Path::new("/run/b x/rootfs")).unwrap();
        assert_eq!((mount.kind.as_str(), mount.options.len()), ("overlay", 3));
        assert_eq!(mount.options[2], "upperdir=/u");
        assert_eq!(mount_at(line, Path::new("/run")), None);
    }

    #[test]
    fn only_annotations_for_agents_are_told() {
        let json = r#"{"annotations":{"godwit.dev/store":"s","io.kubernetes.cri.sandbox-id":"x","secret":"y"}}"#;
        let told = annotations(&Spec::parse(json.as_bytes()).unwrap());
        let names: Vec<&str> = told.iter().map(|a| a.name.as_str()).collect();
        assert_eq!(names, ["godwit.dev/store", "io.kubernetes.cri.sandbox-id"]);
    }

    #[test]
    fn escapes_of_mountinfo_are_undone_and_strange_ones_kept() {
        assert_eq!(unescape("a\\040b\\134c"), "a b\\c");
        assert_eq!(unescape("a\\x"), "a\\x");
    }
}
