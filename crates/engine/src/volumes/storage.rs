//! Which storage it is that the kubelet has mounted for a pod. Each pod has it under a path of its own
//! (`pods/<uid>/volumes/<plugin>/<name>`); these are known by what they are:
//!
//! * persistent volumes of a CSI driver, by the driver's handle (`pkg/volume/csi` writes it into `vol_data.json` beside the mount),
//! * local persistent volumes, by their name: no pod has one by itself.
//!
//! Others may be told inline, by a name that says nothing.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::Deserialize;

/// Longest `vol_data.json` that is read.
const MAX: u64 = 64 << 10;

/// Of `vol_data.json`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VolData {
    driver_name: String,
    volume_handle: String,
    /// An ephemeral one is made for one pod and ends with it.
    volume_lifecycle_mode: String,
}

/// Which storage a directory is. `None`: nothing but the directory that it is.
pub(super) fn of(path: &Path) -> Option<String> {
    let parts: Vec<&str> = path.iter().map(|part| part.to_str().unwrap_or_default()).collect();
    match parts.as_slice() {
        [.., "pods", _, "volumes", "kubernetes.io~local-volume", name] => {
            Some(format!("local/{name}"))
        }
        [.., "pods", _, "volumes", "kubernetes.io~csi", _, "mount"] => of_driver(path.parent()?),
        _ => None,
    }
}

fn of_driver(dir: &Path) -> Option<String> {
    let mut text = Vec::new();
    File::open(dir.join("vol_data.json")).ok()?.take(MAX).read_to_end(&mut text).ok()?;
    let data: VolData = serde_json::from_slice(&text).ok()?;
    let is_kept = data.volume_lifecycle_mode == "Persistent" && !data.volume_handle.is_empty();
    is_kept.then(|| format!("csi/{}/{}", data.driver_name, data.volume_handle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drivers_volume_is_the_same_for_every_pod_and_an_ephemeral_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mounted = |uid: &str, mode: &str| {
            let volume = dir.path().join(format!("pods/{uid}/volumes/kubernetes.io~csi/pvc-1"));
            std::fs::create_dir_all(volume.join("mount")).unwrap();
            let data = format!(
                r#"{{"attachmentID":"a","driverName":"d.csi","nodeName":"n","specVolID":"pvc-1",
                "volumeHandle":"h/1","volumeLifecycleMode":"{mode}"}}"#
            );
            std::fs::write(volume.join("vol_data.json"), data).unwrap();
            of(&volume.join("mount"))
        };
        let kept = Some("csi/d.csi/h/1".to_owned());
        assert_eq!(
            [mounted("u1", "Persistent"), mounted("u2", "Persistent")],
            [kept.clone(), kept]
        );
        assert_eq!(mounted("u3", "Ephemeral"), None);
        assert_eq!(of(&dir.path().join("pods/u4/volumes/kubernetes.io~csi/pvc-1/mount")), None);
    }

    #[test]
    fn local_volumes_are_known_by_their_names_and_directories_are_what_they_are() {
        let of = |path: &str| of(Path::new(path));
        let local = "/var/lib/kubelet/pods/u1/volumes/kubernetes.io~local-volume/disk-1";
        assert_eq!(of(local).as_deref(), Some("local/disk-1"));
        assert_eq!(of("/srv/data"), None);
        assert_eq!(of("/var/lib/kubelet/pods/u1/volumes/kubernetes.io~nfs/data"), None);
    }
}
