//! Who does not stop, and where in the kernel it waits: what a person needs to know after a freeze that timed out.

use std::path::Path;

/// Where a stopped task sleeps: v1, v2.
const STOPPED: [&str; 2] = ["__refrigerator", "do_freezer_trap"];

/// A task that has not stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// Its thread id.
    pub tid: u32,
    /// Its name.
    pub comm: String,
    /// Its state letter.
    pub state: char,
    /// Where in the kernel it waits; empty if the kernel does not say.
    pub wchan: String,
}

/// Tasks of the cgroup and its sub-cgroups that are not in the freezer's trap, at most `limit`.
pub(super) fn find(dir: &Path, limit: usize) -> Vec<Stuck> {
    let mut found = Vec::new();
    super::tasks::each(dir, &mut |task| {
        if found.len() < limit {
            found.extend(unless_stopped(task));
        }
        found.len() < limit
    });
    found
}

fn unless_stopped(task: &Path) -> Option<Stuck> {
    let stat = std::fs::read_to_string(task.join("stat")).ok()?;
    let (tid, comm, state) = parse(&stat)?;
    let wchan = std::fs::read_to_string(task.join("wchan")).unwrap_or_default();
    let wchan = if wchan == "0" { String::new() } else { wchan };
    // A zombie needs no stopping, and a task in the trap has stopped.
    if state == 'Z' || state == 'X' || STOPPED.contains(&wchan.as_str()) {
        return None;
    }
    Some(Stuck { tid, comm, state, wchan })
}

/// `tid (comm) state …`; the name may hold anything, also parentheses.
fn parse(stat: &str) -> Option<(u32, String, char)> {
    let (tid, rest) = stat.split_once(" (")?;
    let (comm, rest) = rest.rsplit_once(") ")?;
    Some((tid.parse().ok()?, comm.to_owned(), rest.chars().next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        assert_eq!(parse("12 (a) b (c) D 1 1"), Some((12, "a) b (c".to_owned(), 'D')));
        assert_eq!(parse("nonsense"), None);
    }
}
