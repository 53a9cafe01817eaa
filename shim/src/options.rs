//! containerd's runc options, so that an existing runc stanza can be copied, and their copy in the bundle that `delete`
//! reads when the shim is gone.
//!
//! They come in two forms: clients that know runc's message send that; containerd's CRI sends the stanza of a runtime
//! that it does not know as TOML within `runtimeoptions.v1.Options`.

use std::path::{Path, PathBuf};

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// File name in a bundle; containerd's runc shim writes the same.
const FILE: &str = "options.json";
/// Where runc keeps its state unless told otherwise; the namespace is appended.
const RUNC_ROOT: &str = "/run/containerd/runc";
/// Type name of runc's options.
const RUNC: &str = "containerd.runc.v1.Options";
/// Type name of the options of any runtime.
const GENERIC: &str = "runtimeoptions.v1.Options";

/// The fields of [`Options`], for stanzas.
const FIELDS: [&str; 10] = [
    "no_pivot_root",
    "no_new_keyring",
    "shim_cgroup",
    "io_uid",
    "io_gid",
    "binary_name",
    "root",
    "systemd_cgroup",
    "criu_image_path",
    "criu_work_path",
];

/// Options of the runtime, fields as in containerd's `runc.v1.Options`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// Use MS_MOVE instead of pivot_root (initramfs).
    pub no_pivot_root: bool,
    /// Do not make a session keyring.
    pub no_new_keyring: bool,
    /// cgroup of the shim itself.
    pub shim_cgroup: String,
    /// Owner of the container's stdio pipes.
    pub io_uid: u32,
    /// Group of the container's stdio pipes.
    pub io_gid: u32,
    /// The OCI runtime; `runc` when empty.
    pub binary_name: String,
    /// The OCI runtime's state directory.
    pub root: String,
    /// Let systemd make the cgroups.
    pub systemd_cgroup: bool,
    /// Directory of images of the task API's checkpoints (containerd reads it, not we).
    pub criu_image_path: String,
    /// CRIU's working directory.
    pub criu_work_path: String,
}

/// `runtimeoptions.v1.Options` (containerd, `api/types/runtimeoptions/v1`).
#[derive(Clone, PartialEq, prost::Message)]
struct Generic {
    #[prost(string, tag = "1")]
    type_url: String,
    /// A file with the stanza.
    #[prost(string, tag = "2")]
    config_path: String,
    /// The stanza itself.
    #[prost(bytes = "vec", tag = "3")]
    config_body: Vec<u8>,
}

impl Options {
    /// Whether these are options that [`Options::decode`] understands.
    #[must_use]
    pub fn understands(any: &Any) -> bool {
        [RUNC, GENERIC].contains(&type_name(any))
    }

    /// Decodes what containerd sent; nothing sent means defaults.
    ///
    /// # Errors
    /// Options of another runtime, or not protobuf.
    pub fn decode(any: Option<&Any>) -> Result<Self> {
        let Some(any) = any.filter(|any| !any.type_url.is_empty() && !any.value.is_empty()) else {
            return Ok(Self::default());
        };
        match type_name(any) {
            RUNC => oci::Options::parse_from_bytes(&any.value)
                .map(Self::from)
                .map_err(|why| Error::Invalid(format!("runtime options: {why}"))),
            GENERIC => Self::decode_generic(&any.value),
            other => Err(Error::Invalid(format!(
                "runtime options of type {other} are not known; use {RUNC}"
            ))),
        }
    }

    fn decode_generic(bytes: &[u8]) -> Result<Self> {
        let generic = <Generic as prost::Message>::decode(bytes)
            .map_err(|why| Error::Invalid(format!("runtime options: {why}")))?;
        let body = if generic.config_path.is_empty() {
            generic.config_body
        } else {
            let attempt = format!("read runtime options in {}", generic.config_path);
            std::fs::read(&generic.config_path).map_err(Error::io(attempt))?
        };
        Self::parse_stanza(&String::from_utf8_lossy(&body))
            .map_err(|why| Error::Invalid(format!("runtime options: {why}")))
    }

    /// `SystemdCgroup = true` and the like. Case does not count and unknown keys are skipped, as in containerd.
    fn parse_stanza(text: &str) -> Result<Self, toml::de::Error> {
        let plain = |key: &str| key.replace('_', "").to_lowercase();
        let mut known = toml::Table::new();
        for (key, value) in text.parse::<toml::Table>()? {
            if let Some(field) = FIELDS.iter().find(|field| plain(field) == plain(&key)) {
                known.insert((*field).to_owned(), value);
            }
        }
        known.try_into()
    }

    /// The OCI runtime's program.
    #[must_use]
    pub fn binary(&self) -> &str {
        if self.binary_name.is_empty() { "runc" } else { &self.binary_name }
    }

    /// Whether the OCI runtime is runc, by the name of its program: the only one whose containers can be restored.
    #[must_use]
    pub fn is_runc(&self) -> bool {
        Path::new(self.binary()).file_name().is_some_and(|name| name == "runc")
    }

    /// Whether the OCI runtime is crun, by the name of its program.
    #[must_use]
    pub fn is_crun(&self) -> bool {
        Path::new(self.binary()).file_name().is_some_and(|name| name == "crun")
    }

    /// The OCI runtime's state directory for a containerd namespace.
    #[must_use]
    pub fn runc_root(&self, namespace: &str) -> PathBuf {
        let root = if self.root.is_empty() { RUNC_ROOT } else { &self.root };
        Path::new(root).join(namespace)
    }

    /// Writes the copy for `delete`.
    ///
    /// # Errors
    /// The bundle cannot be written.
    pub fn save(&self, bundle: &Path) -> Result<()> {
        let path = bundle.join(FILE);
        let attempt = format!("write {}", path.display());
        let bytes = serde_json::to_vec(self).map_err(Error::io(attempt.clone()))?;
        std::fs::write(&path, bytes).map_err(Error::io(attempt))
    }

    /// Reads the copy; defaults if there is none (the container was never created).
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn load(bundle: &Path) -> Result<Self> {
        let path = bundle.join(FILE);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|why| Error::Invalid(format!("{}: {why}", path.display()))),
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(why) => Err(Error::io(format!("read {}", path.display()))(why)),
        }
    }
}

impl From<oci::Options> for Options {
    fn from(o: oci::Options) -> Self {
        Self {
            no_pivot_root: o.no_pivot_root,
            no_new_keyring: o.no_new_keyring,
            shim_cgroup: o.shim_cgroup,
            io_uid: o.io_uid,
            io_gid: o.io_gid,
            binary_name: o.binary_name,
            root: o.root,
            systemd_cgroup: o.systemd_cgroup,
            criu_image_path: o.criu_image_path,
            criu_work_path: o.criu_work_path,
        }
    }
}

/// The last part of a type's URL: containerd writes bare names, others put a host before it.
fn type_name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(type_url: &str) -> Any {
        let options = oci::Options {
            binary_name: "/usr/bin/crun".into(),
            systemd_cgroup: true,
            ..Default::default()
        };
        Any {
            type_url: type_url.into(),
            value: options.write_to_bytes().unwrap(),
            ..Default::default()
        }
    }

    #[test]
    fn options_are_read_with_and_without_a_host_in_their_type() {
        for url in [RUNC.to_owned(), format!("type.googleapis.com/{RUNC}")] {
            let options = Options::decode(Some(&any(&url))).unwrap();
            assert!(options.systemd_cgroup && options.is_crun());
        }
        assert!(Options::decode(Some(&any("other.Options"))).is_err());
        assert_eq!(Options::decode(None).unwrap().binary(), "runc");
    }

    #[test]
    fn a_copied_runc_stanza_is_understood_as_cri_sends_it() {
        let stanza =
            "BinaryName = '/usr/bin/crun'\nSystemdCgroup = true\nCriuPath = ''\nIoUid = 7\n";
        let generic = Generic { config_body: stanza.into(), ..Default::default() };
        let any = Any {
            type_url: GENERIC.into(),
            value: prost::Message::encode_to_vec(&generic),
            ..Default::default()
        };
        let options = Options::decode(Some(&any)).unwrap();
        assert!(options.systemd_cgroup && options.is_crun() && Options::understands(&any));
        assert_eq!(options.io_uid, 7);
        assert!(!options.is_runc() && Options::default().is_runc());
        assert!(Options::parse_stanza("SystemdCgroup = 'yes'").is_err());
    }

    #[test]
    fn every_field_has_its_name_in_the_list() {
        let written = serde_json::to_value(Options::default()).unwrap();
        let fields: Vec<&str> = written.as_object().unwrap().keys().map(String::as_str).collect();
        assert!(FIELDS.iter().all(|field| fields.contains(field)));
        assert_eq!(fields.len(), FIELDS.len());
    }

    #[test]
    fn options_read_back_from_the_bundle_and_absence_means_defaults() {
        let bundle = tempfile::tempdir().unwrap();
        assert_eq!(Options::load(bundle.path()).unwrap(), Options::default());
        let options = Options { root: "/x".into(), io_uid: 7, ..Default::default() };
        options.save(bundle.path()).unwrap();
        assert_eq!(Options::load(bundle.path()).unwrap(), options);
        assert_eq!(options.runc_root("k8s.io"), PathBuf::from("/x/k8s.io"));
    }
}
