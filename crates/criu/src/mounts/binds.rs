//! Which files outside of its own a container writes to: those of the node by writable bind mounts, which nobody copies, and those of its
//! pod, which are a part of the checkpoint.

use std::path::{Path, PathBuf};

use godwit_types::names;
use oci_spec::runtime::Spec;

use super::{MountPlan, PlannedMount, Role, is_bind, same_path};

/// What containerd and the CRI put into every container: made anew wherever it starts.
const THE_RUNTIMES: &[&str] =
    &["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/shm", "/dev/termination-log"];

/// A bind mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Where the container has it.
    pub destination: PathBuf,
    /// Where the node has it.
    pub source: PathBuf,
}

/// A directory that is the pod's alone: it begins empty with the pod and ends with it, and what is in it belongs to its memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodsOwn {
    /// The same in every pod of this specification: `emptyDir/cache`, `shm`.
    pub name: String,
    /// Where.
    pub bind: Bind,
}

/// The directories of a Kubernetes pod among the binds of a container's spec: each `emptyDir`, on disk or in memory, as the kubelet
/// makes them (`pkg/volume/emptydir`), and the sandbox's `/dev/shm`, as containerd's CRI does.
#[must_use]
pub fn pods_own(spec: &Spec) -> Vec<PodsOwn> {
    of_spec(spec)
        .filter_map(|bind| Some(PodsOwn { name: pods_own_name(spec, &bind)?, bind }))
        .collect()
}

fn pods_own_name(spec: &Spec, bind: &Bind) -> Option<String> {
    let annotation = |name: &str| spec.annotations().as_ref()?.get(name).map(String::as_str);
    let mut tail = bind.source.iter().rev().map(|part| part.to_str().unwrap_or_default());
    let mut next = || tail.next().unwrap_or_default();
    let [last, kind, third] = [next(), next(), next()];
    if last == ".." {
        return None;
    }
    if kind == "kubernetes.io~empty-dir" && third == "volumes" {
        let uid = annotation(names::SANDBOX_UID).filter(|uid| !uid.is_empty())?;
        return (next() == uid && next() == "pods").then(|| format!("emptyDir/{last}"));
    }
    let sandbox = annotation(names::SANDBOX_ID).filter(|id| !id.is_empty())?;
    let shm = same_path(Path::new("/dev/shm"), &bind.destination);
    (shm && [last, kind, third] == ["shm", sandbox, "sandboxes"]).then(|| "shm".to_owned())
}

/// The binds of a spec through which, by the mount table, something can be written: there, or in a mount that came with it.
#[must_use]
pub fn writable(plan: &MountPlan, spec: &Spec) -> Vec<Bind> {
    let written = |bind: &Bind| plan.mounts.iter().any(|m| !m.read_only && belongs(m, bind));
    let others =
        |bind: &Bind| !is_the_runtimes(&bind.destination) && pods_own_name(spec, bind).is_none();
    of_spec(spec).filter(|bind| others(bind) && written(bind)).collect()
}

/// What a spec binds to this destination.
#[must_use]
pub fn source_of(spec: &Spec, destination: &Path) -> Option<PathBuf> {
    let found = of_spec(spec).find(|bind| same_path(&bind.destination, destination));
    found.map(|bind| bind.source)
}

fn of_spec(spec: &Spec) -> impl Iterator<Item = Bind> + '_ {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    mounts.iter().filter(|m| is_bind(m)).map(|m| Bind {
        destination: m.destination().components().collect(),
        source: m.source().clone().unwrap_or_default(),
    })
}

fn is_the_runtimes(destination: &Path) -> bool {
    THE_RUNTIMES.iter().any(|path| same_path(Path::new(path), destination))
}

fn belongs(mount: &PlannedMount, bind: &Bind) -> bool {
    match &mount.role {
        Role::Bind => same_path(&bind.destination, mount.mountpoint.as_path()),
        Role::Inner { of, .. } => same_path(&bind.destination, of.as_path()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mountinfo;

    const TABLE: &str = "\
1 0 0:50 / / rw - overlay overlay rw
2 1 0:51 / /proc rw - proc proc rw
3 1 0:54 / /dev/shm rw - tmpfs shm rw
4 1 8:1 /x /etc/hosts rw - ext4 /dev/sda1 rw
5 1 8:1 /d /data rw - ext4 /dev/sda1 rw
6 1 8:1 /c /conf ro - ext4 /dev/sda1 rw
7 1 8:1 /t /tree ro - ext4 /dev/sda1 rw
8 7 8:2 / /tree/in rw - ext4 /dev/sdb1 rw
9 1 0:59 / /cache rw - tmpfs tmpfs rw
";
    const SPEC: &str = r#"{"ociVersion":"1.2.0","mounts":[
        {"destination":"/etc/hosts/","type":"bind","source":"/h","options":["rbind","rw"]},
        {"destination":"/dev/shm","source":"/s","options":["rbind"]},
        {"destination":"/data/","type":"bind","source":"/srv/d","options":["rbind"]},
        {"destination":"/conf","type":"bind","source":"/srv/c","options":["bind","ro"]},
        {"destination":"/tree","type":"bind","source":"/srv/t","options":["rbind","ro"]},
        {"destination":"/cache","type":"tmpfs","source":"tmpfs"}]}"#;

    #[test]
    fn directories_of_the_pod_itself_are_known_by_its_uid_and_sandbox() {
        let spec = |uid: &str| {
            let json = format!(
                r#"{{"ociVersion":"1.2.0","annotations":{{"io.kubernetes.cri.sandbox-uid":"{uid}",
                "io.kubernetes.cri.sandbox-id":"s1"}},"mounts":[
                {{"destination":"/cache","type":"bind","options":["rbind"],
                  "source":"/var/lib/kubelet/pods/u1/volumes/kubernetes.io~empty-dir/c"}},
                {{"destination":"/conf","type":"bind","options":["rbind"],
                  "source":"/var/lib/kubelet/pods/u1/volumes/kubernetes.io~configmap/c"}},
                {{"destination":"/dev/shm","type":"bind","options":["rbind"],
                  "source":"/run/containerd/io.containerd.grpc.v1.cri/sandboxes/s1/shm"}}]}}"#
            );
            serde_json::from_str::<Spec>(&json).unwrap()
        };
        let names = |uid| {
            let own = pods_own(&spec(uid)).into_iter();
            own.map(|own| (own.name, own.bind.destination)).collect::<Vec<_>>()
        };
        let own = [("emptyDir/c", "/cache"), ("shm", "/dev/shm")];
        assert_eq!(names("u1"), own.map(|(name, path)| (name.to_owned(), PathBuf::from(path))));
        assert_eq!(names("u2").len(), 1, "another pod's emptyDir is a directory of the node");
        assert_eq!(pods_own(&serde_json::from_str(SPEC).unwrap()), []);
    }

    #[test]
    fn what_can_be_written_outside_of_the_container_is_found() {
        let spec: Spec = serde_json::from_str(SPEC).unwrap();
        let table = mountinfo::parse(TABLE.as_bytes()).unwrap();
        let plan = MountPlan::classify(&table, &spec).unwrap();
        let bind = |destination: &str, source: &str| Bind {
            destination: destination.into(),
            source: source.into(),
        };
        assert_eq!(writable(&plan, &spec), [bind("/data", "/srv/d"), bind("/tree", "/srv/t")]);
        assert_eq!(source_of(&spec, Path::new("/conf")), Some("/srv/c".into()));
        assert_eq!(source_of(&spec, Path::new("/cache")), None);
    }
}
