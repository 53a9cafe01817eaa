//! containerd's own client tests, run with its runc shim and with ours in the same node: what passes with the one has to pass with the
//! other. What fails with both is a matter of the lab, and is listed by name with the reason.

pub mod cri;
pub mod critest;
mod known;
mod outcome;
pub(crate) mod programs;
mod registry;
mod stage;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

pub use known::Known;
pub use outcome::{Outcome, Outcomes};

use crate::container::RUNTIME;
use stage::Stage;

/// Which containerd serves the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Daemon {
    /// The one of the tests' own version.
    Own,
    /// The distribution's, which is older.
    Debian,
}

/// containerd's shim.
const RUNC: &str = "io.containerd.runc.v2";

impl Daemon {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Own, Self::Debian];

    /// As it is written in the list of known failures.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Debian => "debian",
        }
    }
}

/// What one containerd's run has shown.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Tests that pass with both shims.
    pub pass: BTreeSet<String>,
    /// Tests that pass with runc's shim and not with ours; and those that fail with ours and have not failed with runc's: it skips them, or
    /// has not got to them.
    pub ours_fail: BTreeSet<String>,
    /// Tests that fail with both, or only with runc's, and are not known to.
    pub unknown: BTreeSet<String>,
    /// Tests that are known to fail and pass with both.
    pub mended: BTreeSet<String>,
}

impl Verdict {
    fn of(runc: &Outcomes, ours: &Outcomes, known: &BTreeSet<String>) -> Self {
        let mut verdict = Self::default();
        let fails_alone = |name: &&String| {
            ours.get(*name) == Some(&Outcome::Fail) && runc.get(*name) != Some(&Outcome::Fail)
        };
        verdict.ours_fail.extend(ours.keys().filter(fails_alone).cloned());
        for (name, outcome) in runc {
            let passes = ours.get(name) == Some(&Outcome::Pass);
            match outcome {
                Outcome::Pass if !passes => verdict.ours_fail.insert(name.clone()),
                Outcome::Pass if known.contains(name) => verdict.mended.insert(name.clone()),
                Outcome::Pass => verdict.pass.insert(name.clone()),
                Outcome::Fail | Outcome::Skip if !known.contains(name) => {
                    verdict.unknown.insert(name.clone())
                }
                Outcome::Fail | Outcome::Skip => continue,
            };
        }
        verdict
    }

    /// Whether ours is equal, and the list of known failures true.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.ours_fail.is_empty() && self.unknown.is_empty() && self.mended.is_empty()
    }
}

/// Runs all tests, or those that `only` matches, with both shims under one containerd. Logs go to `logs`.
///
/// # Errors
/// When they cannot be run at all.
pub fn run(
    daemon: Daemon,
    only: Option<&str>,
    known: &Known,
    logs: &Path,
    say: &mut dyn FnMut(&str),
) -> Result<Verdict> {
    std::fs::create_dir_all(logs).with_context(|| format!("make {}", logs.display()))?;
    let programs = programs::ensure()?;
    let mut outcome_with = |runtime: &str| {
        // A node of its own, so that neither meets what the other has left.
        let stage = Stage::set(&programs)?;
        say(&format!("{runtime} under containerd {}", stage.version(daemon)?));
        let log = logs.join(format!("{}-{runtime}.log", daemon.name()));
        let outcomes = stage.run(daemon, runtime, (only, &known.hanging()), &log)?;
        ensure!(!outcomes.is_empty(), "no test was run: see {}", log.display());
        Ok(outcomes)
    };
    let (runc, ours) = (outcome_with(RUNC)?, outcome_with(RUNTIME)?);
    Ok(Verdict::of(&runc, &ours, &known.of(daemon)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_names_what_is_not_equal_and_what_is_not_true_of_the_list() {
        let of = |all: &[(&str, Outcome)]| -> Outcomes {
            all.iter().map(|(name, outcome)| ((*name).to_owned(), *outcome)).collect()
        };
        use Outcome::{Fail, Pass, Skip};
        let runc =
            of(&[("A", Pass), ("B", Pass), ("C", Fail), ("D", Fail), ("E", Pass), ("F", Skip)]);
        let ours =
            of(&[("A", Pass), ("B", Fail), ("C", Fail), ("D", Fail), ("E", Pass), ("F", Skip)]);
        let known = ["C", "E", "F"].map(str::to_owned).into();
        let verdict = Verdict::of(&runc, &ours, &known);
        let names = |set: &BTreeSet<String>| set.iter().cloned().collect::<String>();
        assert_eq!(names(&verdict.pass), "A");
        assert_eq!(names(&verdict.ours_fail), "B");
        assert_eq!(names(&verdict.unknown), "D");
        assert_eq!(names(&verdict.mended), "E");
        assert!(!verdict.is_good());
        let skipped = Verdict::of(&of(&[("F", Skip)]), &of(&[("F", Fail), ("G", Fail)]), &known);
        assert_eq!(names(&skipped.ours_fail), "FG", "what runc's skips, or has not, is no excuse");
        let gone = Verdict::of(&of(&[("A", Pass)]), &of(&[]), &known);
        assert_eq!(names(&gone.ours_fail), "A", "one that was not run has not passed");
    }
}
