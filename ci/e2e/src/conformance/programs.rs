//! containerd, its tests, and a registry, built from their Go modules.

use std::path::{Path, PathBuf};

use anyhow::Result;
use godwit_lab::{LabError, tools};

/// As in `conformance/suite/go.mod`.
const CONTAINERD: &str = "v2.4.2";
const MODULE: &str = "github.com/containerd/containerd/v2";
/// As in `conformance/registry/go.mod`.
const REGISTRY_VERSION: &str = "v3.1.2";
/// A program of the CRI tests.
const ALONE: &str = "loopback-v2";
const REGISTRY: &str = "github.com/distribution/distribution/v3/cmd/registry";

/// The directory with containerd, its tests and `testdata`.
pub(super) fn ensure() -> Result<PathBuf> {
    let built = tools::ensure(&format!("conformance-{CONTAINERD}"), |to| build(&modules(), to));
    Ok(built?)
}

/// The directory with containerd's CRI tests, and the programs that fail for them.
pub(super) fn ensure_cri() -> Result<PathBuf> {
    Ok(tools::ensure(&format!("conformance-cri-{CONTAINERD}"), |to| build_cri(&modules(), to))?)
}

/// A registry of images.
pub(crate) fn ensure_registry() -> Result<PathBuf> {
    let dir = tools::ensure(&format!("registry-{REGISTRY_VERSION}"), |to| {
        compile(&modules().join("registry"), to, "registry", REGISTRY)
    })?;
    Ok(dir.join("registry"))
}

fn modules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance")
}

fn build(modules: &Path, to: &Path) -> Result<(), LabError> {
    let suite = modules.join("suite");
    for program in ["containerd", "containerd-shim-runc-v2", "ctr"] {
        compile(&suite, to, program, &format!("{MODULE}/cmd/{program}"))?;
    }
    compile(&suite, to, "runc-fp", &format!("{MODULE}/integration/failpoint/cmd/runc-fp"))?;
    let tests = format!("{MODULE}/integration/client");
    let test = to.join("client.test").display().to_string();
    tools::go(&suite, &["test", "-c", "-o", &test, &tests], &[])?;
    let copy = format!("cp --recursive \"$(go list -f '{{{{.Dir}}}}' {tests})/testdata\" \"$TO\"");
    tools::shell(&suite, &copy, &[("TO", to)])
}

fn build_cri(modules: &Path, to: &Path) -> Result<(), LabError> {
    let suite = modules.join("suite");
    for program in ["cni-bridge-fp", "containerd-shim-runc-fp-v1", ALONE] {
        compile(&suite, to, program, &format!("{MODULE}/integration/failpoint/cmd/{program}"))?;
    }
    let test = to.join("cri.test").display().to_string();
    tools::go(&suite, &["test", "-c", "-o", &test, &format!("{MODULE}/integration")], &[])
}

fn compile(from: &Path, to: &Path, name: &str, package: &str) -> Result<(), LabError> {
    let flags = format!("-s -w -X {MODULE}/version.Version={CONTAINERD}");
    let program = to.join(name).display().to_string();
    // One runs in containers that have no libraries.
    let alone = [("CGO_ENABLED", Path::new("0"))];
    let env = if name == ALONE { &alone[..] } else { &[] };
    tools::go(from, &["build", "-trimpath", "-ldflags", &flags, "-o", &program, package], env)
}
