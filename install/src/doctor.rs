//! What `godwit doctor` says: everything that Godwit needs on a node where it is installed, looked at now. Changes nothing
//! but that the agent writes small objects into each store and removes them.
//!
//! ```text
//!  node      what the installer checks before it installs                 [`check`]
//!  programs  one release, and who runs it                                 [`programs`]
//!  runtime   what containerd has loaded; CRI proxy and kubelet            [`runtime`]
//!  rights    what kernel and security modules permit        [`rights`], [`netfilter`]
//!  agent     whether it answers, and what only it can see                 [`agent`]
//! ```
//! Each group has a thread and a deadline: whoever hangs is told, and holds nobody up.

mod agent;
mod netfilter;
mod programs;
mod rights;
mod runtime;

use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::check::{self, Finding, Verdict};
use crate::host::Host;
use crate::settings::Settings;
use crate::{Error, Result};

/// For everything. Each question has a shorter deadline of its own.
const PATIENCE: Duration = Duration::from_secs(100);

/// A group of checks.
type Group = Box<dyn FnOnce() -> Vec<Finding> + Send>;

/// All findings of this node, whose agent serves this socket.
///
/// # Errors
/// [`Error::Refused`] for who is not root.
pub fn examine(socket: &Path) -> Result<Vec<Finding>> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::Refused("this needs root: run it with sudo".to_owned()));
    }
    let settings = Settings::of_node()?;
    let (of_node, of_runtime) = (settings.clone(), settings.clone());
    let (of_rights, of_agent) = (socket.to_owned(), socket.to_owned());
    let no_release = Err("an installed one is looked at".to_owned());
    let groups: Vec<(&'static str, Group)> = vec![
        ("node", Box::new(move || check::of_node(&Host::look_with(&of_node, no_release)))),
        ("programs", Box::new(programs::examine)),
        ("runtime", Box::new(move || runtime::examine(&of_runtime))),
        ("rights", Box::new(move || rights::examine(&of_rights))),
        ("agent", Box::new(move || agent::examine(&of_agent, &settings))),
    ];
    Ok(beside_each_other(groups, PATIENCE))
}

/// Runs them beside each other, within a time; in their order.
fn beside_each_other(groups: Vec<(&'static str, Group)>, patience: Duration) -> Vec<Finding> {
    let end = Instant::now() + patience;
    let started = groups.into_iter().map(|(name, group)| {
        let (tell, told) = mpsc::channel();
        // Whoever is not waited for any more tells nobody.
        std::thread::spawn(move || drop(tell.send(group())));
        (name, told)
    });
    let started: Vec<_> = started.collect();
    let finished = started.into_iter().map(|(subject, told)| {
        let left = end.saturating_duration_since(Instant::now());
        told.recv_timeout(left).unwrap_or_else(|ended| {
            let why = match ended {
                RecvTimeoutError::Timeout => format!(
                    "what is looked at here did not answer within {} s: a program or a disk of this node hangs (`dmesg`, `ps -e -o pid,stat,wchan,args`)",
                    patience.as_secs()
                ),
                RecvTimeoutError::Disconnected => {
                    "it could not be looked at: this is a defect of godwit".to_owned()
                }
            };
            vec![Finding { subject, verdict: Verdict::Bad(why) }]
        })
    });
    finished.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(subject: &'static str) -> Finding {
        Finding { subject, verdict: Verdict::Good(String::new()) }
    }

    #[test]
    fn whoever_hangs_is_told_and_holds_nobody_up() {
        let (release, hold) = mpsc::channel::<()>();
        let groups: Vec<(&'static str, Group)> = vec![
            ("slow", Box::new(move || hold.recv().map(|()| vec![]).unwrap_or_default())),
            ("quick", Box::new(|| vec![good("a"), good("b")])),
        ];
        let found = beside_each_other(groups, Duration::from_millis(200));
        let told: Vec<_> = found.iter().map(|one| (one.subject, one.verdict.word())).collect();
        assert!(told.contains(&("slow", "bad")), "{told:?}");
        drop(release);
        let groups: Vec<(&'static str, Group)> =
            vec![("one", Box::new(|| vec![good("a")])), ("two", Box::new(|| vec![good("b")]))];
        assert_eq!(beside_each_other(groups, PATIENCE), [good("a"), good("b")]);
    }
}
