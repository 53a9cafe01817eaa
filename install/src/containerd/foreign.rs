//! What else changes when containerd reads our drop-in: it must be nothing.

use std::collections::BTreeSet;
use std::path::Path;

use godwit_types::names;
use toml::{Table, Value};

use crate::containerd::config;

/// Most places that are told.
const SHOWN: usize = 8;

/// Places in which two dumps differ, but for the runtime of our name and the files that were read.
#[must_use]
pub fn changes(before: &Table, after: &Table, files: &[&Path]) -> Vec<String> {
    let (before, after) = (without_ours(before, files), without_ours(after, files));
    let mut places = vec![];
    differences("", &Value::Table(before), &Value::Table(after), &mut places);
    places.truncate(SHOWN);
    places
}

fn without_ours(dump: &Table, files: &[&Path]) -> Table {
    let mut dump = dump.clone();
    if let Some(runtimes) = config::runtimes_mut(&mut dump) {
        runtimes.remove(names::RUNTIME_HANDLER);
    }
    // A set: the order in which containerd tells what it has read is by chance.
    let imports = dump.remove("imports");
    let imports = imports.iter().filter_map(Value::as_array).flatten().filter_map(Value::as_str);
    let others: BTreeSet<&str> =
        imports.filter(|import| !files.iter().any(|file| Path::new(import) == *file)).collect();
    let others = others.into_iter().map(Value::from).collect();
    dump.insert("imports".into(), Value::Array(others));
    dump
}

fn differences(at: &str, before: &Value, after: &Value, places: &mut Vec<String>) {
    match (before, after) {
        (Value::Table(before), Value::Table(after)) => {
            for key in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
                let place = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                match (before.get(key), after.get(key)) {
                    (Some(before), Some(after)) => differences(&place, before, after, places),
                    _ => places.push(place),
                }
            }
        }
        _ if before == after => {}
        _ => places.push(at.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        text.parse().unwrap()
    }

    const BEFORE: &str = "version = 3\nimports = [\"/m\"]\noom_score = 1\n\
        [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\nruntime_type = 'r'\n";

    #[test]
    fn our_runtime_and_our_files_are_no_foreign_change() {
        let ours = BEFORE.replace("[\"/m\"]", "[\"/d/godwit.toml\", \"/m\"]")
            + "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.godwit]\nruntime_type = 'g'\n";
        let files = [Path::new("/d/godwit.toml")];
        assert_eq!(changes(&table(BEFORE), &table(&ours), &files), Vec::<String>::new());
        let import = BEFORE.replace("/m", "/other");
        assert_eq!(changes(&table(BEFORE), &table(&import), &files), ["imports"]);
    }

    #[test]
    fn anything_else_is_named_by_its_place() {
        let lost = BEFORE.replace("runtimes.runc", "runtimes.other").replace("= 1", "= 2");
        let found = changes(&table(BEFORE), &table(&lost), &[]);
        let plugin = "plugins.io.containerd.cri.v1.runtime.containerd.runtimes";
        assert_eq!(found, ["oom_score", &format!("{plugin}.other"), &format!("{plugin}.runc")]);
    }
}
