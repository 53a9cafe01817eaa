//! Imports point downward only: the edges between our crates are those of `docs/design/architecture.md`, "The parts".
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, outside the test functions"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Each crate and the crates of ours that it may depend on. A new crate or edge is a decision: it is made here.
const MAY_DEPEND: &[(&str, &[&str])] = &[
    // Libraries, from the ground up.
    ("godwit-types", &[]),
    ("godwit-wire", &["types"]),
    ("godwit-image", &["types"]),
    ("godwit-ownership", &["types"]),
    ("godwit-netlink", &[]),
    ("godwit-criu-rpc", &["types"]),
    ("godwit-criu", &["types", "netlink", "criu-rpc"]),
    ("godwit-store", &["types", "image", "ownership"]),
    ("godwit-files", &["types", "image", "store"]),
    ("godwit-capture", &["types", "image"]),
    ("godwit-faults", &["types", "image"]),
    (
        "godwit-engine",
        &["types", "wire", "image", "ownership", "store", "files", "criu-rpc", "criu", "capture"],
    ),
    // Products. The shim knows no store, the pager none either; only the agent runs the engine. The CRI proxy needs none of us.
    ("containerd-shim-godwit-v2", &["types", "wire", "ownership", "netlink", "criu-rpc"]),
    ("godwit-pager", &["types", "wire", "image", "faults"]),
    ("godwit-relay", &["types", "wire", "criu-rpc"]),
    ("godwit-cri-proxy", &["types", "wire"]),
    (
        "godwit-agent",
        &["types", "wire", "image", "ownership", "store", "files", "criu", "capture", "engine"],
    ),
    ("godwit-install", &["types", "wire", "netlink", "criu-rpc", "criu"]),
    // `godwit doctor` looks at what the installer has put there.
    ("godwit", &["types", "wire", "image", "ownership", "store", "engine", "install"]),
    // For tests.
    ("godwit-testkit", &["types"]),
    ("godwit-lab", &["types"]),
    ("godwit-programs", &[]),
    (
        "godwit-e2e",
        &[
            "types",
            "wire",
            "image",
            "ownership",
            "store",
            "files",
            "criu-rpc",
            "criu",
            "capture",
            "faults",
            "engine",
            "lab",
            "testkit",
        ],
    ),
];

/// What any crate may use in its tests.
const IN_TESTS: &[&str] = &["godwit-testkit"];

type Edges = BTreeMap<String, BTreeSet<(String, bool)>>;

/// Each crate of the workspace, with the workspace's crates that it names; true where only its tests do.
fn edges() -> Edges {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let ours: BTreeSet<&str> = packages.iter().map(|p| p["name"].as_str().unwrap()).collect();
    packages
        .iter()
        .map(|package| {
            let named = package["dependencies"].as_array().unwrap().iter();
            let edges = named
                .map(|d| (d["name"].as_str().unwrap().to_owned(), d["kind"] == "dev"))
                .filter(|(name, _)| ours.contains(name.as_str()))
                .collect();
            (package["name"].as_str().unwrap().to_owned(), edges)
        })
        .collect()
}

fn allowed(name: &str) -> BTreeSet<String> {
    let row = MAY_DEPEND.iter().find(|(known, _)| *known == name);
    let (_, allowed) = row.unwrap_or_else(|| panic!("{name} is in no room of the design: add it"));
    allowed.iter().map(|short| format!("godwit-{short}")).collect()
}

#[test]
fn imports_point_downward_only() {
    let mut wrong = vec![];
    for (name, named) in edges() {
        let allowed = allowed(&name);
        let test_only = |to: &str, dev: bool| dev && IN_TESTS.contains(&to);
        wrong.extend(
            named
                .iter()
                .filter(|(to, dev)| !allowed.contains(to) && !test_only(to, *dev))
                .map(|(to, _)| format!("{name} -> {to}")),
        );
    }
    assert!(wrong.is_empty(), "edges that the design does not have: {wrong:?}");
}

#[test]
fn the_list_knows_every_crate_and_no_other() {
    let real: BTreeSet<String> = edges().into_keys().collect();
    let listed: BTreeSet<String> = MAY_DEPEND.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(real, listed);
}

#[test]
fn the_list_has_no_circle() {
    // Each row names only crates of rows above it.
    let mut above = BTreeSet::new();
    for (name, may) in MAY_DEPEND {
        for short in *may {
            assert!(
                above.contains(&format!("godwit-{short}")),
                "{name} names {short}, which is below it"
            );
        }
        above.insert((*name).to_owned());
    }
}
