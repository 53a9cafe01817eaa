//! containerd's configuration as text: the drop-in with the runtime, and the one line of the main file that imports it.
//!
//! A drop-in has the version of the main file: containerd 2.0 and 2.1 migrate what they have merged, not each file. Maps are
//! merged by key, so a drop-in that names our runtime alone changes nothing else.

use std::path::{Path, PathBuf};

use toml::{Table, Value};
use toml_edit::{Array, DocumentMut, Item};

use godwit_types::names;

use crate::programs::{BIN, SHIM};
use crate::{Error, Result};

/// The CRI plugin's section in version 2, and from version 3 on.
const CRI_2: &str = "io.containerd.grpc.v1.cri";
const CRI_3: &str = "io.containerd.cri.v1.runtime";
/// The type of every runtime that runs runc. Whether a runtime can have user namespaces and recursive read-only mounts is asked, and
/// its options are understood, only if it has this one; which shim that is says `runtime_path`.
const RUNC_TYPE: &str = "io.containerd.runc.v2";
/// Versions of the file that have drop-ins which we know how to write.
const VERSIONS: std::ops::RangeInclusive<i64> = 2..=4;

/// Version of a main file.
///
/// # Errors
/// It is no TOML, or too old to take a drop-in.
pub fn version_of(path: &Path, text: &str) -> Result<i64> {
    let table: Table = text
        .parse()
        .map_err(|why: toml::de::Error| Error::Toml { path: path.into(), why: why.to_string() })?;
    match table.get("version").and_then(Value::as_integer) {
        Some(version) if VERSIONS.contains(&version) => Ok(version),
        found => Err(Error::Refused(format!(
            "{} has {}, and Godwit's drop-in can have version 2 to 4: bring it up to date, as with `containerd config migrate`",
            path.display(),
            found.map_or("no version".to_owned(), |version| format!("version {version}")),
        ))),
    }
}

/// Settings of a runtime that are copied from the node's own one, so that pods with either are alike otherwise. `sandboxer` is not:
/// its default is right for both.
const COPIED: [&str; 9] = [
    "privileged_without_host_devices",
    "privileged_without_host_devices_all_devices_allowed",
    "cgroup_writable",
    "base_runtime_spec",
    "cni_conf_dir",
    "cni_max_conf_num",
    "snapshotter",
    "disable_pause_image_pull",
    "io_type",
];

/// The drop-in for a main file of this version, from what containerd reads (`config dump`) without it.
#[must_use]
pub fn drop_in(version: i64, dump: &Table) -> String {
    let mut runtime = Table::new();
    runtime.insert("runtime_type".into(), RUNC_TYPE.into());
    runtime.insert("runtime_path".into(), shim().to_string_lossy().as_ref().into());
    let wanted = Value::Array(vec![names::ANNOTATIONS.into()]);
    runtime.insert("pod_annotations".into(), wanted.clone());
    runtime.insert("container_annotations".into(), wanted);
    if let Some(own) = own_runtime(dump) {
        let said = |key: &&str| own.get(*key).filter(|value| !is_default(value)).cloned();
        runtime.extend(COPIED.iter().filter_map(|key| Some(((*key).to_owned(), said(key)?))));
        let options = options_of(own);
        if !options.is_empty() {
            runtime.insert("options".into(), options.into());
        }
    }
    let plugin = if version == 2 { CRI_2 } else { CRI_3 };
    let nested = |key: &str, inner: Table| Table::from_iter([(key.to_owned(), Value::from(inner))]);
    let tree = nested(names::RUNTIME_HANDLER, runtime);
    let tree = ["runtimes", "containerd", plugin, "plugins"].iter().fold(tree, |t, k| nested(k, t));
    format!(
        "# Written by godwit-install: the runtime `{}`, with the settings of this node's runc. Changes here are overwritten.\n\
         version = {version}\n\n{tree}",
        names::RUNTIME_HANDLER
    )
}

/// Options of the node's runc. One that is no runc (crun, a wrapper for devices) cannot restore: then ours is the runc that
/// containerd finds.
fn options_of(own: &Table) -> Table {
    let options = own.get("options").and_then(Value::as_table).cloned().unwrap_or_default();
    let is_runc = |value: &Value| {
        value.as_str().and_then(|path| Path::new(path).file_name()).is_some_and(|n| n == "runc")
    };
    options
        .into_iter()
        .filter(|(_, value)| !is_default(value))
        .filter(|(key, value)| key != "BinaryName" || is_runc(value))
        .collect()
}

fn is_default(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Integer(number) => *number == 0,
        Value::Boolean(flag) => !flag,
        Value::Array(list) => list.is_empty(),
        Value::Table(table) => table.is_empty(),
        Value::Float(_) | Value::Datetime(_) => false,
    }
}

/// The runtimes in a dump.
#[must_use]
pub fn runtimes(dump: &Table) -> Option<&Table> {
    let plugins = dump.get("plugins")?.as_table()?;
    let cri = plugins.get(CRI_3).or_else(|| plugins.get(CRI_2))?.as_table()?;
    cri.get("containerd")?.get("runtimes")?.as_table()
}

/// As [`runtimes`], to change them.
pub fn runtimes_mut(dump: &mut Table) -> Option<&mut Table> {
    let plugins = dump.get_mut("plugins")?.as_table_mut()?;
    let key = if plugins.contains_key(CRI_3) { CRI_3 } else { CRI_2 };
    plugins.get_mut(key)?.get_mut("containerd")?.get_mut("runtimes")?.as_table_mut()
}

/// The node's runc: the one of that name, else the default runtime; only if containerd's runc shim runs it.
fn own_runtime(dump: &Table) -> Option<&Table> {
    let plugins = dump.get("plugins")?.as_table()?;
    let cri = plugins.get(CRI_3).or_else(|| plugins.get(CRI_2))?;
    let default = cri.get("containerd").and_then(|c| c.get("default_runtime_name")?.as_str());
    let is_runc = |own: &&Table| {
        own.get("runtime_type").and_then(Value::as_str) == Some(RUNC_TYPE)
            && !starter(own).is_some_and(is_ours)
    };
    let named = |name: &str| runtimes(dump)?.get(name)?.as_table().filter(is_runc);
    named("runc").or_else(|| named(default?))
}

/// What starts the runtime of our name in a dump: the path of its shim, or its type if it has none.
#[must_use]
pub fn starter_of_ours(dump: &Table) -> Option<&str> {
    starter(runtimes(dump)?.get(names::RUNTIME_HANDLER)?.as_table()?)
}

fn starter(runtime: &Table) -> Option<&str> {
    let said = |key: &str| runtime.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    said("runtime_path").or_else(|| said("runtime_type"))
}

/// Whether that is our shim: by its path, or by its type, as in drop-ins of earlier releases.
#[must_use]
pub fn is_ours(starter: &str) -> bool {
    starter == names::RUNTIME || Path::new(starter).file_name().is_some_and(|name| name == SHIM)
}

/// Where containerd finds our shim.
#[must_use]
pub fn shim() -> PathBuf {
    Path::new(BIN).join(SHIM)
}

/// A main file that also imports `file`; as it was if it does already.
///
/// # Errors
/// It is no TOML, or its `imports` is no list.
pub fn with_import(path: &Path, text: &str, file: &Path) -> Result<String> {
    let mut document = parse(path, text)?;
    if imports(path, &document)?.iter().any(|import| covers(path, import, file)) {
        return Ok(text.to_owned());
    }
    let item = document.entry("imports").or_insert(Item::Value(Array::new().into()));
    let list = item.as_array_mut().ok_or_else(|| no_list(path))?;
    list.push(file.to_string_lossy().as_ref());
    Ok(document.to_string())
}

/// A directory of which a main file imports every file that is named like this one, if there is such a directory.
#[must_use]
pub fn imported_dir(path: &Path, text: &str, name: &str) -> Option<PathBuf> {
    let document = parse(path, text).ok()?;
    let all = imports(path, &document).ok()?;
    let mut dirs = all.iter().filter(|import| import.contains('*')).filter_map(|import| {
        let dir = path.parent()?.join(import).parent()?.to_owned();
        Some(dir).filter(|dir| covers(path, import, &dir.join(name)))
    });
    dirs.find(|dir| !dir.to_string_lossy().contains('*'))
}

/// A main file that does not name `file` any more; the rest as it is.
///
/// # Errors
/// It is no TOML, or its `imports` is no list.
pub fn without_import(path: &Path, text: &str, file: &Path) -> Result<String> {
    let mut document = parse(path, text)?;
    let Some(item) = document.get_mut("imports") else { return Ok(text.to_owned()) };
    let list = item.as_array_mut().ok_or_else(|| no_list(path))?;
    let before = list.len();
    list.retain(|import| import.as_str().is_none_or(|import| Path::new(import) != file));
    let (after, is_empty) = (list.len(), list.is_empty());
    if after == before {
        return Ok(text.to_owned());
    }
    if is_empty {
        document.remove("imports");
    }
    Ok(document.to_string())
}

fn parse(path: &Path, text: &str) -> Result<DocumentMut> {
    text.parse().map_err(|why: toml_edit::TomlError| Error::Toml {
        path: path.to_owned(),
        why: why.to_string(),
    })
}

fn imports(path: &Path, document: &DocumentMut) -> Result<Vec<String>> {
    let Some(item) = document.get("imports") else { return Ok(vec![]) };
    let list = item.as_array().ok_or_else(|| no_list(path))?;
    Ok(list.iter().filter_map(|import| import.as_str().map(str::to_owned)).collect())
}

fn no_list(path: &Path) -> Error {
    Error::Toml { path: path.to_owned(), why: "`imports` is no list".to_owned() }
}

/// Whether an import of the main file means `file` already: relative to the main file, `*` as containerd takes it.
fn covers(main: &Path, import: &str, file: &Path) -> bool {
    let import: PathBuf = main.parent().unwrap_or(main).join(import);
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    import.parent() == file.parent() && matches(&name(&import), &name(file))
}

/// Whether a name fits a pattern with `*` for any text.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|tail| {
            (0..=tail.len())
                .filter(|at| tail.is_char_boundary(*at))
                .any(|at| matches(rest, &tail[at..]))
        }),
    }
}

#[cfg(test)]
mod tests;
