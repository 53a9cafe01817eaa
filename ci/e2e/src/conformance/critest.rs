//! `critest`, the kubelet's own idea of a container runtime: run with containerd's runc shim, with ours, and with ours through the CRI
//! proxy, on the same kind of node. What passes with the first has to pass with all; what does not is a matter of the lab, and is
//! listed by name.

mod report;
mod stage;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Daemon, Outcome, Outcomes, Verdict};
use stage::Stage;

/// How the tests reach containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// containerd, its runc shim.
    Runc,
    /// containerd, our shim.
    Godwit,
    /// The CRI proxy, containerd, our shim.
    GodwitByProxy,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Godwit => "godwit",
            Self::GodwitByProxy => "godwit-by-proxy",
        }
    }

    /// What a pod's runtime class names.
    fn handler(self) -> Option<&'static str> {
        match self {
            Self::Runc => None,
            Self::Godwit | Self::GodwitByProxy => Some("godwit"),
        }
    }

    /// Where the kubelet would find it.
    fn endpoint(self) -> &'static str {
        match self {
            Self::Runc | Self::Godwit => "unix:///run/containerd/containerd.sock",
            Self::GodwitByProxy => "unix:///run/godwit/cri.sock",
        }
    }
}

/// Runs all tests, or those that `only` matches, in all three ways, with this containerd. Logs go to `logs`.
///
/// # Errors
/// When they cannot be run at all.
pub fn run(
    daemon: Daemon,
    only: Option<&str>,
    logs: &Path,
    say: &mut dyn FnMut(&str),
) -> Result<Verdict> {
    std::fs::create_dir_all(logs).with_context(|| format!("make {}", logs.display()))?;
    let known = known(include_str!("../../conformance/critest.txt"), daemon)?;
    let mut outcome_of = |way: Way| -> Result<Outcomes> {
        let stage = Stage::set(daemon)?;
        say(&format!("critest, {}, under containerd {}", way.name(), stage.version()?));
        let log = logs.join(format!("critest-{}-{}", daemon.name(), way.name()));
        let mut outcomes = stage.run(way, only, &log)?;
        // Ginkgo calls those skipped, too, that were not asked for.
        outcomes.retain(|_, outcome| only.is_none() || *outcome != Outcome::Skip);
        ensure!(!outcomes.is_empty(), "no test was run: see {}", logs.display());
        Ok(outcomes)
    };
    let (runc, ours) = (outcome_of(Way::Runc)?, outcome_of(Way::Godwit)?);
    let ours = same_in_both(ours, &outcome_of(Way::GodwitByProxy)?);
    Ok(Verdict::of(&runc, &ours, &known))
}

/// A test whose outcome is another one by way of the proxy has failed.
fn same_in_both(straight: Outcomes, by_proxy: &Outcomes) -> Outcomes {
    let of_both = |(name, outcome): (String, Outcome)| {
        let same = by_proxy.get(&name) == Some(&outcome);
        (name, if same { outcome } else { Outcome::Fail })
    };
    straight.into_iter().map(of_both).collect()
}

/// Reads lines `own|debian|both NAME: REASON`, in which the name has no colon followed by a space; `#` begins a comment. Those of one
/// containerd.
fn known(text: &str, daemon: Daemon) -> Result<BTreeSet<String>> {
    let mut known = BTreeSet::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        let parts = line.split_once(' ').zip(line.split_once(": "));
        let Some(((whose, rest), (_, reason))) = parts else {
            bail!("whose, a test, a colon, a reason: {line}")
        };
        let name = rest.strip_suffix(reason).and_then(|name| name.strip_suffix(": "));
        let is_ours = match whose {
            "both" => true,
            "own" | "debian" => whose == daemon.name(),
            _ => bail!("own, debian or both: {line}"),
        };
        match name {
            Some(name) if !reason.trim().is_empty() && is_ours => known.insert(name.to_owned()),
            Some(_) if !reason.trim().is_empty() => continue,
            _ => bail!("no test or no reason: {line}"),
        };
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_containerd_a_name_and_a_reason() {
        let text = "# why\n\nboth [k8s.io] A should b: no SELinux here\nown C d: it is new\n";
        let of = |daemon| known(text, daemon).unwrap().into_iter().collect::<Vec<_>>();
        assert_eq!(of(Daemon::Own), ["C d", "[k8s.io] A should b"]);
        assert_eq!(of(Daemon::Debian), ["[k8s.io] A should b"]);
        for wrong in ["both A should b", "here A should b: why", "both A should b: "] {
            assert!(known(wrong, Daemon::Own).is_err(), "{wrong}");
        }
        for daemon in Daemon::ALL {
            let list = include_str!("../../conformance/critest.txt");
            assert!(!known(list, daemon).unwrap().is_empty());
        }
    }

    #[test]
    fn a_test_that_passes_in_one_way_only_has_failed() {
        let of = |all: &[(&str, Outcome)]| -> Outcomes {
            all.iter().map(|(name, outcome)| ((*name).to_owned(), *outcome)).collect()
        };
        use Outcome::{Fail, Pass, Skip};
        let straight = of(&[("A", Pass), ("B", Pass), ("C", Skip), ("D", Pass)]);
        let by_proxy = of(&[("A", Pass), ("B", Fail), ("C", Skip)]);
        let expected = of(&[("A", Pass), ("B", Fail), ("C", Skip), ("D", Fail)]);
        assert_eq!(same_in_both(straight, &by_proxy), expected);
    }
}
