//! The list of tests that fail for reasons of the lab, whatever the shim.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use super::Daemon;

/// The list.
#[derive(Debug, Clone, Default)]
pub struct Known {
    fail: BTreeSet<(Daemon, String)>,
    hang: Vec<String>,
}

impl Known {
    /// The repository's list of client tests.
    ///
    /// # Errors
    /// With the line that cannot be read.
    pub fn of_client() -> Result<Self> {
        Self::parse(include_str!("../../conformance/known.txt"))
    }

    /// The repository's list of CRI tests.
    ///
    /// # Errors
    /// With the line that cannot be read.
    pub fn of_cri() -> Result<Self> {
        Self::parse(include_str!("../../conformance/cri.txt"))
    }

    /// Reads lines `NAME own|debian|both|hangs REASON`; `#` begins a comment.
    fn parse(text: &str) -> Result<Self> {
        let mut known = Self::default();
        for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            let words: Vec<&str> = line.splitn(3, char::is_whitespace).collect();
            let [name, daemon, reason] = words[..] else {
                bail!("a test, a daemon, a reason: {line}")
            };
            let daemons = match daemon {
                "hangs" => {
                    known.hang.push(name.to_owned());
                    &[]
                }
                "both" => &Daemon::ALL[..],
                "own" => &[Daemon::Own],
                "debian" => &[Daemon::Debian],
                _ => bail!("own, debian, both or hangs: {line}"),
            };
            if reason.trim().is_empty() {
                bail!("no reason is given: {line}");
            }
            known.fail.extend(daemons.iter().map(|&daemon| (daemon, name.to_owned())));
        }
        Ok(known)
    }

    /// A regular expression for the tests that never end, so that they are not begun.
    pub(super) fn hanging(&self) -> String {
        format!("^({})$", self.hang.join("|"))
    }

    /// The names of tests that fail under this containerd.
    #[must_use]
    pub fn of(&self, daemon: Daemon) -> BTreeSet<String> {
        self.fail.iter().filter(|(of, _)| *of == daemon).map(|(_, name)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_name_a_daemon_and_a_reason() {
        let known =
            Known::parse("# why\n\nTestA both no network\nTestB own it lies\nTestC hangs ever\n")
                .unwrap();
        assert_eq!(known.hanging(), "^(TestC)$");
        assert_eq!(known.of(Daemon::Own).len(), 2);
        assert_eq!(known.of(Daemon::Debian), ["TestA".to_owned()].into());
        for wrong in ["TestA", "TestA both", "TestA here because"] {
            assert!(Known::parse(wrong).is_err(), "{wrong}");
        }
        for list in [Known::of_client(), Known::of_cri()] {
            assert!(!list.unwrap().of(Daemon::Own).is_empty());
        }
    }
}
