//! What a run of Go tests says, test by test.

use std::collections::BTreeMap;

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Pass,
    /// Not well.
    Fail,
    /// It did not begin.
    Skip,
}

/// By name; of tests that consist of others, only the whole.
pub type Outcomes = BTreeMap<String, Outcome>;

/// Reads what `go test -v` prints. A test that was run and never ended has failed.
pub(super) fn parse(log: &str) -> Outcomes {
    let mut all = Outcomes::new();
    for line in log.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["===", "RUN", name] if !name.contains('/') => {
                all.entry(name.to_owned()).or_insert(Outcome::Fail);
            }
            ["---", how, name, ..] if line.starts_with("---") => {
                let outcome = match how {
                    "PASS:" => Outcome::Pass,
                    "SKIP:" => Outcome::Skip,
                    "FAIL:" => Outcome::Fail,
                    // Programs that a test runs begin lines with dashes, too.
                    _ => continue,
                };
                all.insert(name.to_owned(), outcome);
            }
            _ => {}
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_prints_is_read() {
        let log = "=== RUN   TestA\n=== RUN   TestA/part\n    --- FAIL: TestA/part (0.0s)\n--- PASS: TestA (0.10s)\n\
                   === RUN   TestB\n--- SKIP: TestB (0.00s)\n--- SIGCHLD {si_signo=SIGCHLD} ---\n\
                   === RUN   TestC\npanic: test timed out\n";
        let all = parse(log);
        assert_eq!(all.len(), 3);
        assert_eq!(all["TestA"], Outcome::Pass);
        assert_eq!(all["TestB"], Outcome::Skip);
        assert_eq!(all["TestC"], Outcome::Fail);
    }
}
