//! `critest`, the kubelet's own idea of a container runtime: run with containerd's runc shim and with ours on the same kind of node.
//! What passes with the one has to pass with the other; what does not is a matter of the lab, and is listed by name.

mod report;
mod stage;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Outcome, Outcomes, Verdict};
use stage::Stage;

/// What a pod's runtime class names.
const GODWIT: &str = "godwit";

/// Where a node's container runtime listens, if nobody stands in front of it.
pub const ENDPOINT: &str = "unix:///run/containerd/containerd.sock";

/// Runs all tests, or those that `only` matches, with both shims, by way of `endpoint`. Logs go to `logs`.
///
/// # Errors
/// When they cannot be run at all.
pub fn run(
    endpoint: &str,
    only: Option<&str>,
    logs: &Path,
    say: &mut dyn FnMut(&str),
) -> Result<Verdict> {
    std::fs::create_dir_all(logs).with_context(|| format!("make {}", logs.display()))?;
    let known = known(include_str!("../../conformance/critest.txt"))?;
    let mut outcome_with = |handler: Option<&str>| -> Result<Outcomes> {
        let shim = handler.unwrap_or("runc");
        let stage = Stage::set()?;
        say(&format!("critest with {shim}'s shim at {endpoint}"));
        let mut outcomes =
            stage.run(endpoint, handler, only, &logs.join(format!("critest-{shim}")))?;
        // Ginkgo calls those skipped, too, that were not asked for.
        outcomes.retain(|_, outcome| only.is_none() || *outcome != Outcome::Skip);
        ensure!(!outcomes.is_empty(), "no test was run: see {}", logs.display());
        Ok(outcomes)
    };
    let (runc, ours) = (outcome_with(None)?, outcome_with(Some(GODWIT))?);
    Ok(Verdict::of(&runc, &ours, &known))
}

/// Reads lines `NAME: REASON`, in which the name has no colon followed by a space; `#` begins a comment.
fn known(text: &str) -> Result<BTreeSet<String>> {
    text.lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|line| match line.split_once(": ") {
            Some((name, reason)) if !reason.trim().is_empty() => Ok(name.trim().to_owned()),
            _ => bail!("a test, a colon, a reason: {line}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_name_and_a_reason() {
        let names = known("# why\n\n[k8s.io] A should b: no SELinux here\n").unwrap();
        assert_eq!(names, ["[k8s.io] A should b".to_owned()].into());
        assert!(known("[k8s.io] A should b").is_err());
        assert!(!known(include_str!("../../conformance/critest.txt")).unwrap().is_empty());
    }
}
