//! containerd's own CRI tests, run with its runc shim straight at containerd, and with our shim through the CRI proxy: what passes with
//! the one has to pass with the other. What fails with both is a matter of the lab, and is listed by name with the reason.

mod stage;

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::{Daemon, Known, Outcomes, Verdict};
use stage::Stage;

/// How the tests reach containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// containerd, its runc shim.
    Runc,
    /// The CRI proxy, containerd, our shim: also where a test asks for the default, or for containerd's shim by its path.
    GodwitByProxy,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::GodwitByProxy => "godwit-by-proxy",
        }
    }

    /// What a pod's runtime class names.
    fn handler(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::GodwitByProxy => "godwit",
        }
    }
}

/// Runs all tests, or those that `only` matches, in both ways, under the containerd of their own version. Logs go to `logs`.
///
/// # Errors
/// When they cannot be run at all.
pub fn run(
    only: Option<&str>,
    known: &Known,
    logs: &Path,
    say: &mut dyn FnMut(&str),
) -> Result<Verdict> {
    std::fs::create_dir_all(logs).with_context(|| format!("make {}", logs.display()))?;
    let mut outcomes_of = |way: Way| -> Result<Outcomes> {
        // A node of its own, so that neither meets what the other has left.
        let stage = Stage::set(way)?;
        say(&format!("CRI tests, {}, under containerd {}", way.name(), stage.version()?));
        let log = logs.join(format!("cri-{}", way.name()));
        let outcomes = stage.run((only, &known.hanging()), &log)?;
        ensure!(!outcomes.is_empty(), "no test was run: see {}.log", log.display());
        Ok(outcomes)
    };
    let (runc, ours) = (outcomes_of(Way::Runc)?, outcomes_of(Way::GodwitByProxy)?);
    Ok(Verdict::of(&runc, &ours, &known.of(Daemon::Own)))
}
