//! What the drop-in says, and what becomes of main files.

use super::*;

const MAIN: &str = "/etc/containerd/config.toml";
const FILE: &str = "/etc/containerd/conf.d/godwit.toml";

fn with(text: &str) -> String {
    with_import(Path::new(MAIN), text, Path::new(FILE)).unwrap()
}

fn without(text: &str) -> String {
    without_import(Path::new(MAIN), text, Path::new(FILE)).unwrap()
}

#[test]
fn an_import_is_added_and_nothing_else_touched() {
    let text = "# mine\nversion = 2   # two\n\n[plugins]\n  [plugins.\"x\"]\n    a = 'b'\n";
    let changed = with(text);
    let table: Table = changed.parse().unwrap();
    assert_eq!(table["imports"].as_array().unwrap(), &vec![Value::from(FILE)]);
    for line in text.lines() {
        assert!(changed.contains(line), "{line:?} is lost in {changed}");
    }
    assert_eq!(with(&changed), changed);
    assert_eq!(without(&changed), text);
}

#[test]
fn other_imports_stay() {
    let text = "version = 3\nimports = [\"/a.toml\"] # others\n";
    let changed = with(text);
    assert!(changed.contains("/a.toml") && changed.contains(FILE) && changed.contains("# others"));
    assert_eq!(without(&changed), text);
}

#[test]
fn an_import_that_means_the_file_already_is_enough() {
    for import in
        ["/etc/containerd/conf.d/*.toml", "conf.d/*.toml", "conf.d/godwit.toml", "conf.d/g*w*.toml"]
    {
        let text = format!("version = 3\nimports = [\"{import}\"]\n");
        assert_eq!(with(&text), text);
    }
    for import in ["/etc/containerd/*.toml", "conf.d/*.conf", "conf.d/godwit"] {
        let text = format!("version = 3\nimports = [\"{import}\"]\n");
        assert!(with(&text).contains(FILE), "{import}");
    }
}

#[test]
fn a_main_file_without_a_version_that_takes_drop_ins_is_refused_with_what_to_do() {
    for text in ["", "version = 1", "version = 9", "version = '3'"] {
        let error = version_of(Path::new(MAIN), text).unwrap_err().to_string();
        assert!(error.contains(MAIN) && error.contains("containerd config migrate"), "{error}");
    }
    assert_eq!(version_of(Path::new(MAIN), "version = 3").unwrap(), 3);
    assert!(version_of(Path::new(MAIN), "version = ").is_err());
}

const DUMP: &str = "
version = 3
[plugins.'io.containerd.cri.v1.runtime'.containerd]
default_runtime_name = 'own'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.own]
runtime_type = 'io.containerd.runc.v2'
pod_annotations = ['x']
privileged_without_host_devices = true
snapshotter = ''
sandboxer = 'podsandbox'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.own.options]
BinaryName = '/usr/lib/runc'
Root = ''
IoUid = 0
SystemdCgroup = true
";

fn written(version: i64, dump: &str) -> Table {
    drop_in(version, &dump.parse().unwrap()).parse().unwrap()
}

#[test]
fn the_drop_in_has_the_settings_of_the_nodes_runc_and_the_version_of_the_main_file() {
    for (version, plugin) in [(2, CRI_2), (3, CRI_3), (4, CRI_3)] {
        let table = written(version, DUMP);
        assert_eq!(table["version"].as_integer(), Some(version));
        assert_eq!(table["plugins"].as_table().unwrap().keys().collect::<Vec<_>>(), [plugin]);
        let ours = &runtimes(&table).unwrap()["godwit"];
        assert_eq!(ours["runtime_type"].as_str(), Some(RUNC_TYPE));
        assert_eq!(starter_of_ours(&table).map(is_ours), Some(true));
        assert_eq!(ours["pod_annotations"][0].as_str(), Some("godwit.dev/*"));
        assert_eq!(ours["privileged_without_host_devices"].as_bool(), Some(true));
        assert!(ours.get("snapshotter").is_none() && ours.get("sandboxer").is_none());
        let options: Vec<_> = ours["options"].as_table().unwrap().keys().collect();
        assert_eq!(options, ["BinaryName", "SystemdCgroup"]);
    }
}

#[test]
fn a_runtime_of_our_name_is_known_by_what_starts_it() {
    let of = |lines: &str| {
        let runtime: Table = lines.parse().unwrap();
        starter(&runtime).map(is_ours)
    };
    let (runc, path) = ("runtime_type = 'io.containerd.runc.v2'", shim().display().to_string());
    assert_eq!(of(&format!("{runc}\nruntime_path = '{path}'")), Some(true));
    assert_eq!(of("runtime_type = 'io.containerd.godwit.v2'\nruntime_path = ''"), Some(true));
    assert_eq!(of(runc), Some(false));
    assert_eq!(of(&format!("{runc}\nruntime_path = '/opt/containerd-shim-other-v2'")), Some(false));
    assert_eq!(of(""), None);
}

#[test]
fn our_own_runtime_is_not_the_nodes_runc() {
    let dump = DUMP.replace("snapshotter = ''", &format!("runtime_path = '{}'", shim().display()));
    assert!(runtimes(&written(3, &dump)).unwrap()["godwit"].get("options").is_none());
}

#[test]
fn a_program_that_is_no_runc_is_not_taken_over() {
    for other in ["crun", "/usr/bin/nvidia-container-runtime"] {
        let table = written(3, &DUMP.replace("/usr/lib/runc", other));
        let options: Vec<_> =
            runtimes(&table).unwrap()["godwit"]["options"].as_table().unwrap().keys().collect();
        assert_eq!(options, ["SystemdCgroup"]);
    }
    let table = written(3, &DUMP.replace("io.containerd.runc.v2", "io.containerd.kata.v2"));
    assert!(runtimes(&table).unwrap()["godwit"].get("options").is_none());
}
