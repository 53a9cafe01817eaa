//! Places where a test may kill the process, or stop it for a while.
//!
//! A site costs nothing and cannot be switched on in a production build: without the cargo feature `failpoints` of this crate
//! [`site`] is an empty function that no environment reaches.

/// Environment variable read by a build *with* the feature: `<site>`, `<site>:<n>` or `<site>:<n>:stop`; when it passes that
/// site for the n-th time (from 1) the process aborts, or stops itself until it is continued (SIGCONT).
pub const VARIABLE: &str = "GODWIT_FAILPOINT";

/// Passes a named place, for example `site("seal.sent")`. Names are `<message or step>.<before|sent|answered>`.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn site(_name: &str) {}

/// Passes a named place; aborts the process, or stops it, if a test asked for it.
#[cfg(feature = "failpoints")]
pub fn site(name: &str) {
    match armed::passes(name) {
        None => {}
        Some(armed::Act::Abort) => {
            eprintln!("failpoint {name}: aborting");
            std::process::abort();
        }
        Some(armed::Act::Stop) => {
            eprintln!("failpoint {name}: stopping");
            // To this thread: sent to the process, another one would take it, and this one go on meanwhile. Of oneself it is always
            // permitted.
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP);
        }
    }
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// What happens there.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum Act {
        Abort,
        Stop,
    }

    /// Where, and what.
    pub(super) struct Armed {
        site: String,
        left: AtomicU32,
        act: Act,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

    pub(super) fn parse(text: &str) -> Option<Armed> {
        let mut parts = text.split(':');
        let site = parts.next().filter(|site| !site.is_empty())?.to_owned();
        let count: u32 = parts.next().map_or(Some(1), |n| n.parse().ok())?;
        let act = match parts.next() {
            None => Act::Abort,
            Some("stop") => Act::Stop,
            Some(_) => return None,
        };
        (count > 0).then(|| Armed { site, left: AtomicU32::new(count), act })
    }

    /// What happens at this passage, if it is the one that was asked for.
    pub(super) fn passes(name: &str) -> Option<Act> {
        let armed = ARMED.get_or_init(|| parse(&std::env::var(super::VARIABLE).ok()?));
        armed.as_ref()?.hit(name)
    }

    impl Armed {
        pub(super) fn hit(&self, name: &str) -> Option<Act> {
            let is_it = self.site == name && self.left.fetch_sub(1, Ordering::SeqCst) == 1;
            is_it.then_some(self.act)
        }
    }
}

#[cfg(all(test, feature = "failpoints"))]
mod tests {
    use super::armed::{Act, parse};

    #[test]
    fn the_nth_passage_of_the_named_site_is_hit_and_no_other() {
        let armed = parse("seal.sent:2").expect("valid");
        assert_eq!(armed.hit("freeze.sent"), None);
        assert_eq!(armed.hit("seal.sent"), None);
        assert_eq!(armed.hit("seal.sent"), Some(Act::Abort));
        let stops = parse("x:1:stop").expect("valid");
        assert_eq!([stops.hit("x"), stops.hit("x")], [Some(Act::Stop), None]);
        for bad in [":1", "x:0", "x:1:sleep"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
