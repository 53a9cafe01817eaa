//! Kubernetes' programs, and those that test container runtimes: built from their Go modules, once, into the cache.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::tools;

/// As in `kubernetes/go.mod`.
pub const VERSION: &str = "v1.36.3";
/// As in `kubernetes/go.mod`.
const CRI_TOOLS: &str = "v1.36.0";
/// The longest first.
const PACKAGES: [&str; 7] = [
    "k8s.io/kubernetes/cmd/kube-apiserver",
    "k8s.io/kubernetes/cmd/kube-controller-manager",
    "k8s.io/kubernetes/cmd/kube-proxy",
    "k8s.io/kubernetes/cmd/kube-scheduler",
    "k8s.io/kubernetes/cmd/kubectl",
    "k8s.io/kubernetes/cmd/kubelet",
    "sigs.k8s.io/cri-tools/cmd/crictl",
];

/// The directory with `kubelet`, `kubectl`, `kube-apiserver` and the like, and `crictl`; built when the cache lacks it.
///
/// # Errors
/// When their modules cannot be fetched or built.
pub fn ensure_built() -> Result<PathBuf> {
    tools::ensure(&format!("kubernetes-{VERSION}"), |to| {
        let flags = flags();
        let to = format!("{}/", to.display());
        PACKAGES.iter().try_for_each(|package| {
            eprintln!("  {package}");
            tools::go(
                &module(),
                &["build", "-trimpath", "-ldflags", &flags, "-o", &to, package],
                &[],
            )
        })
    })
}

/// `critest`, the tests of container runtimes; built when the cache lacks it.
///
/// # Errors
/// When its module cannot be fetched or built.
pub fn ensure_critest() -> Result<PathBuf> {
    let dir = tools::ensure(&format!("critest-{CRI_TOOLS}"), |to| {
        let to = to.join("critest").display().to_string();
        let package = "sigs.k8s.io/cri-tools/cmd/critest";
        let words = ["test", "-c", "-trimpath", "-ldflags", "-s -w", "-o", &to, package];
        tools::go(&module(), &words, &[])
    })?;
    Ok(dir.join("critest"))
}

fn module() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kubernetes")
}

/// Without a version they say v0.0.0, and refuse to work with each other.
fn flags() -> String {
    let set = |name: &str, value: &str| format!("-X k8s.io/component-base/version.{name}={value}");
    let parts: Vec<&str> = VERSION.trim_start_matches('v').split('.').collect();
    let [major, minor, ..] = parts[..] else { return String::new() };
    let all = [
        "-s -w".to_owned(),
        set("gitVersion", VERSION),
        set("gitMajor", major),
        set("gitMinor", minor),
        set("gitTreeState", "clean"),
        format!("-X sigs.k8s.io/cri-tools/pkg/version.Version={CRI_TOOLS}"),
    ];
    all.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_what_the_module_names() {
        let text = std::fs::read_to_string(module().join("go.mod")).unwrap();
        assert!(text.contains(&format!("k8s.io/kubernetes {VERSION}\n")));
        assert!(text.contains(&format!("sigs.k8s.io/cri-tools {CRI_TOOLS}\n")));
        assert!(flags().contains("gitMinor=36"), "{}", flags());
    }
}
