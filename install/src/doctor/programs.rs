//! Whether all programs that are found are those of one release, and whether systemd starts them.

use std::path::{Path, PathBuf};

use crate::check::{Finding, Verdict};
use crate::programs::{BIN, places};
use crate::settings::InitKind;
use crate::{proxy, systemd};
use Verdict::{Bad, Good};

pub(super) fn examine() -> Vec<Finding> {
    let found = places()
        .into_iter()
        .map(|(name, place)| (name, std::fs::canonicalize(&place).ok(), place))
        .collect::<Vec<_>>();
    let mut findings = vec![Finding { subject: "programs", verdict: release(&found) }];
    if InitKind::of_node() == InitKind::Systemd {
        findings.push(Finding { subject: "units", verdict: units() });
    }
    findings
}

/// Each program, what its place leads to, and its place.
type Found = (&'static str, Option<PathBuf>, PathBuf);

/// That of the agent is the release in use.
fn release(found: &[Found]) -> Verdict {
    let agent = found.iter().find(|(name, ..)| *name == "godwit-agent");
    let Some(dir) = agent.and_then(|(_, real, _)| real.as_deref()?.parent()) else {
        return Bad(format!(
            "there is no {BIN}/godwit-agent: install Godwit by `godwit-install node` of a release"
        ));
    };
    let is_other = |(name, real, _): &&Found| real.as_deref() != Some(&dir.join(name));
    let others: Vec<String> = found
        .iter()
        .filter(is_other)
        .map(|(_, real, place)| leads(place, real.as_deref()))
        .collect();
    match others.is_empty() {
        true => Good(format!("release {}", dir.display())),
        false => Bad(format!(
            "the release in use is {}, but {}: bring the node to one release by `godwit-install node`",
            dir.display(),
            others.join(", ")
        )),
    }
}

fn leads(place: &Path, real: Option<&Path>) -> String {
    match real {
        Some(real) => format!("{} leads to {}", place.display(), real.display()),
        None => format!("{} leads nowhere", place.display()),
    }
}

/// Whether they are there after a reboot.
fn units() -> Verdict {
    let wanted = [systemd::UNIT, proxy::SOCKET];
    let state = |unit: &str| {
        systemd::show(unit, "UnitFileState").unwrap_or_else(|why| crate::error_chain(&why))
    };
    let off: Vec<String> = wanted
        .into_iter()
        .map(|unit| (unit, state(unit)))
        .filter(|(_, state)| state != "enabled")
        .map(|(unit, state)| format!("{unit} is {state:?}"))
        .collect();
    match off.is_empty() {
        true => Good(format!("{} are enabled", wanted.join(" and "))),
        false => Bad(format!(
            "{}, and does not start with the node: run `godwit-install node`",
            off.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(changed: Option<(&str, Option<&str>)>) -> Vec<Found> {
        let real = |name: &str| match changed {
            Some((other, real)) if other == name => real.map(PathBuf::from),
            _ => Some(Path::new("/opt/godwit/releases/1-a").join(name)),
        };
        places().into_iter().map(|(name, place)| (name, real(name), place)).collect()
    }

    #[test]
    fn all_are_of_one_release() {
        assert_eq!(release(&found(None)), Good("release /opt/godwit/releases/1-a".to_owned()));
    }

    #[test]
    fn one_of_another_release_or_that_is_not_there_is_named() {
        let other = "/opt/godwit/releases/2-b/godwit-relay";
        let Bad(told) = release(&found(Some(("godwit-relay", Some(other))))) else { panic!() };
        assert!(
            told.contains("relay/criu leads to") && told.contains("godwit-install node"),
            "{told}"
        );
        let Bad(told) = release(&found(Some(("godwit-pager", None)))) else { panic!() };
        assert!(told.contains("/usr/libexec/godwit/godwit-pager leads nowhere"), "{told}");
        let Bad(told) = release(&found(Some(("godwit-agent", None)))) else { panic!() };
        assert!(told.contains("install Godwit by"), "{told}");
    }
}
