//! OCI images as archives: layers, configuration, manifest, index. Reproducible: no times, no owners.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::error::{LabError, Result};

const MEDIA: &str = "application/vnd.oci.image";

/// What an image runs, and as whom.
#[derive(Debug, Default)]
pub(super) struct Config {
    pub(super) command: Vec<String>,
    /// Empty for root.
    pub(super) user: String,
    /// More than the usual environment.
    pub(super) env: Vec<String>,
    /// Directories that each container gets a volume for.
    pub(super) volumes: Vec<String>,
}

/// One layer in the making. Directories on the way to a file are added by themselves; the first entry of a path stays.
pub(super) struct Layer {
    tar: Builder<Vec<u8>>,
    paths: BTreeSet<String>,
}

impl Default for Layer {
    fn default() -> Self {
        Self { tar: Builder::new(vec![]), paths: BTreeSet::new() }
    }
}

impl Layer {
    /// A directory with this mode.
    pub(super) fn dir(&mut self, path: &str, mode: u32) -> Result<()> {
        if !self.is_new(path)? {
            return Ok(());
        }
        self.append(path, EntryType::Directory, mode, &[])
    }

    /// A directory of this user and group.
    pub(super) fn owned_dir(&mut self, path: &str, owner: (u64, u64)) -> Result<()> {
        if !self.is_new(path)? {
            return Ok(());
        }
        let mut header = header(EntryType::Directory, 0o755, 0);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        self.tar.append_data(&mut header, path, &[][..]).map_err(failed(path))
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) -> Result<()> {
        if !self.is_new(path)? {
            return Ok(());
        }
        let mut header = header(EntryType::Symlink, 0o777, 0);
        self.tar.append_link(&mut header, path, target).map_err(failed(path))
    }

    /// A file with this content, not executable.
    pub(super) fn text(&mut self, path: &str, content: &str) -> Result<()> {
        if !self.is_new(path)? {
            return Ok(());
        }
        self.append(path, EntryType::Regular, 0o644, content.as_bytes())
    }

    /// A program with this text.
    pub(super) fn script(&mut self, path: &str, content: &str) -> Result<()> {
        if !self.is_new(path)? {
            return Ok(());
        }
        self.append(path, EntryType::Regular, 0o755, content.as_bytes())
    }

    /// Another name of a file that is in the layer.
    pub(super) fn hard_link(&mut self, path: &str, target: &str) -> Result<()> {
        if !self.is_new(path)? {
            return Ok(());
        }
        let mut header = header(EntryType::Link, 0o755, 0);
        self.tar.append_link(&mut header, path, target).map_err(failed(path))
    }

    /// A copy of a program of the host that gets the rights of root.
    pub(super) fn set_user_id(&mut self, path: &str, from: &Path) -> Result<()> {
        if !self.is_new(path)? {
            return Ok(());
        }
        let content = std::fs::read(from).map_err(LabError::io("reading", from))?;
        self.append(path, EntryType::Regular, 0o4755, &content)
    }

    /// A copy of a file of the host, with its mode.
    pub(super) fn file(&mut self, path: &str, from: &Path) -> Result<()> {
        if !self.is_new(path)? {
            return Ok(());
        }
        let content = std::fs::read(from).map_err(LabError::io("reading", from))?;
        let meta = std::fs::metadata(from).map_err(LabError::io("reading", from))?;
        self.append(path, EntryType::Regular, meta.permissions().mode() & 0o7777, &content)
    }

    fn append(&mut self, path: &str, kind: EntryType, mode: u32, content: &[u8]) -> Result<()> {
        let mut header = header(kind, mode, content.len());
        self.tar.append_data(&mut header, path, content).map_err(failed(path))
    }

    /// Whether the path is not in the layer yet; it counts as there afterwards, its directories are.
    fn is_new(&mut self, path: &str) -> Result<bool> {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.dir(parent, 0o755)?;
        }
        Ok(self.paths.insert(path.to_owned()))
    }

    fn bytes(&self) -> &[u8] {
        self.tar.get_ref()
    }
}

fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn failed(path: &str) -> impl FnOnce(std::io::Error) -> LabError {
    LabError::io("adding to an image", Path::new(path))
}

/// Writes an archive with one image.
pub(super) fn write(path: &Path, name: &str, layers: &[Layer], config: Config) -> Result<()> {
    write_all(path, &[(vec![name.to_owned()], config)], layers)
}

/// Writes the archive that `ctr images import` takes: images with the same layers. Each gets its names and a name by digest:
/// containerd restores checkpoints only of images that have one.
pub(super) fn write_all(
    path: &Path,
    images: &[(Vec<String>, Config)],
    layers: &[Layer],
) -> Result<()> {
    let mut archive = Archive::create(path)?;
    archive.put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let layers = layers
        .iter()
        // Two zero blocks end a tar file.
        .map(|layer| archive.blob("layer.v1.tar", [layer.bytes(), &[0; 1024]].concat()))
        .collect::<Result<Vec<Value>>>()?;
    let diffs: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
    let mut manifests = vec![];
    for (names, config) in images {
        let config = archive.blob("config.v1+json", configuration(config, &diffs).to_string())?;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": format!("{MEDIA}.manifest.v1+json"),
            "config": config, "layers": layers,
        });
        let manifest = archive.blob("manifest.v1+json", manifest.to_string())?;
        manifests.extend(named(names, &manifest));
    }
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    archive.put("index.json", index.to_string().as_bytes())?;
    archive.finish()
}

/// The archive of images for several platforms: each has its layer and the names of its platforms (`amd64`, `arm64/v8`), of which each
/// adds a layer of its own.
pub(super) fn write_platforms(
    path: &Path,
    images: &[(String, Layer, Config)],
    platforms: &[&str],
) -> Result<()> {
    let mut archive = Archive::create(path)?;
    archive.put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let mut indices = vec![];
    for (name, layer, config) in images {
        let base = archive.blob("layer.v1.tar", [layer.bytes(), &[0; 1024]].concat())?;
        let mut manifests = vec![];
        for platform in platforms {
            manifests.push(archive.manifest_for(platform, &base, config)?);
        }
        let index = json!({
            "schemaVersion": 2, "mediaType": format!("{MEDIA}.index.v1+json"), "manifests": manifests,
        });
        let mut index = archive.blob("index.v1+json", index.to_string())?;
        index["annotations"] = json!({"io.containerd.image.name": name});
        indices.push(index);
    }
    let index = json!({"schemaVersion": 2, "manifests": indices});
    archive.put("index.json", index.to_string().as_bytes())?;
    archive.finish()
}

/// An archive with one image that is a container's checkpoint: its only layer is what the kubelet's checkpoint API has made, and
/// annotations tell containerd's CRI of which container and image.
pub(super) fn write_checkpoint(
    path: &Path,
    name: &str,
    (container, base): (&str, &str),
    checkpoint: &[u8],
) -> Result<()> {
    let mut archive = Archive::create(path)?;
    archive.put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let layer = archive.blob("layer.v1.tar", checkpoint)?;
    let config = configuration(&Config::default(), &[&layer["digest"]]).to_string();
    let config = archive.blob("config.v1+json", config)?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": format!("{MEDIA}.manifest.v1+json"),
        "config": config, "layers": [layer],
        "annotations": {
            "org.criu.checkpoint.container.name": container,
            "org.criu.checkpoint.rootfs.image.name": base,
            "org.criu.checkpoint.engine.name": "containerd",
        },
    });
    let manifest = archive.blob("manifest.v1+json", manifest.to_string())?;
    let index =
        json!({"schemaVersion": 2, "manifests": named(&[name.to_owned()], &manifest)}).to_string();
    archive.put("index.json", index.as_bytes())?;
    archive.finish()
}

fn configuration(config: &Config, diffs: &[&Value]) -> Value {
    let usual =
        ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"];
    let env: Vec<&str> = usual.into_iter().chain(config.env.iter().map(String::as_str)).collect();
    let mut all = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Env": env, "Cmd": config.command},
        "rootfs": {"type": "layers", "diff_ids": diffs},
    });
    if !config.user.is_empty() {
        all["config"]["User"] = json!(config.user);
    }
    if !config.volumes.is_empty() {
        let volumes = config.volumes.iter().map(|path| (path.clone(), json!({})));
        all["config"]["Volumes"] = Value::Object(volumes.collect());
    }
    all
}

/// The manifest under each of its names.
fn named(names: &[String], manifest: &Value) -> Vec<Value> {
    let digest = manifest["digest"].as_str().unwrap_or_default();
    let by_digest = |name: &String| {
        let repository = name.rsplit_once(':').map_or(name.as_str(), |(repository, _)| repository);
        format!("{repository}@{digest}")
    };
    let mut all: Vec<String> = names.iter().cloned().chain(names.iter().map(by_digest)).collect();
    all.dedup();
    all.into_iter()
        .map(|name| {
            let mut named = manifest.clone();
            named["annotations"] = json!({"io.containerd.image.name": name});
            named
        })
        .collect()
}

struct Archive<'a> {
    path: &'a Path,
    tar: Builder<File>,
    blobs: BTreeSet<String>,
}

impl<'a> Archive<'a> {
    fn create(path: &'a Path) -> Result<Self> {
        let file = File::create(path).map_err(LabError::io("creating", path))?;
        Ok(Self { path, tar: Builder::new(file), blobs: BTreeSet::new() })
    }

    fn put(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let mut header = header(EntryType::Regular, 0o644, content.len());
        self.tar.append_data(&mut header, name, content).map_err(LabError::io("writing", self.path))
    }

    /// Adds a blob and returns its descriptor.
    fn blob(&mut self, kind: &str, content: impl AsRef<[u8]>) -> Result<Value> {
        let content = content.as_ref();
        let digest = hex(Sha256::new().chain_update(content));
        if self.blobs.insert(digest.clone()) {
            self.put(&format!("blobs/sha256/{digest}"), content)?;
        }
        Ok(json!({
            "mediaType": format!("{MEDIA}.{kind}"),
            "digest": format!("sha256:{digest}"),
            "size": content.len(),
        }))
    }

    /// The manifest of an image for one platform.
    fn manifest_for(&mut self, platform: &str, base: &Value, config: &Config) -> Result<Value> {
        let mut own = Layer::default();
        own.text("platform", &format!("{platform} of {}", base["digest"]))?;
        let own = self.blob("layer.v1.tar", [own.bytes(), &[0; 1024]].concat())?;
        let layers = [base, &own];
        let mut said = configuration(config, &layers.map(|layer| &layer["digest"]));
        let (architecture, variant) = platform.split_once('/').unwrap_or((platform, ""));
        let mut of = json!({"os": "linux", "architecture": architecture});
        if !variant.is_empty() {
            of["variant"] = json!(variant);
            said["variant"] = json!(variant);
        }
        said["architecture"] = json!(architecture);
        let config = self.blob("config.v1+json", said.to_string())?;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": format!("{MEDIA}.manifest.v1+json"),
            "config": config, "layers": layers,
        });
        let mut manifest = self.blob("manifest.v1+json", manifest.to_string())?;
        manifest["platform"] = of;
        Ok(manifest)
    }

    fn finish(self) -> Result<()> {
        let path = self.path;
        let mut file = self.tar.into_inner().map_err(LabError::io("writing", path))?;
        file.flush().map_err(LabError::io("writing", path))
    }
}

/// A digest in hexadecimal digits.
pub(super) fn hex(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn an_archive_has_every_blob_that_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tar");
        let mut layer = Layer::default();
        layer.text("etc/deep/name", "x").unwrap();
        layer.text("etc/deep/name", "not again").unwrap();
        let config = Config { command: vec!["x".to_owned()], ..Config::default() };
        write(&path, "godwit.test/x:latest", &[layer], config).unwrap();

        let mut archive = tar::Archive::new(File::open(&path).unwrap());
        let mut entries = std::collections::BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut content = vec![];
            entry.read_to_end(&mut content).unwrap();
            entries.insert(name, content);
        }
        let index: Value = serde_json::from_slice(&entries["index.json"]).unwrap();
        let blob = |digest: &Value| {
            &entries[&format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"))]
        };
        assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
        let manifest: Value =
            serde_json::from_slice(blob(&index["manifests"][0]["digest"])).unwrap();
        assert!(!blob(&manifest["config"]["digest"]).is_empty());
        let mut layer = tar::Archive::new(&blob(&manifest["layers"][0]["digest"])[..]);
        let paths: Vec<String> = layer
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(paths, ["etc", "etc/deep", "etc/deep/name"]);
    }
}
