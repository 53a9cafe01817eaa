//! Places where a test may kill the process.
//!
//! A site costs nothing and cannot be switched on in a production build: without the cargo feature `failpoints` of this crate
//! [`site`] is an empty function that no environment reaches.

/// Environment variable read by a build *with* the feature: `<site>` or `<site>:<n>`; the process aborts when it passes that
/// site for the n-th time (from 1).
pub const VARIABLE: &str = "GODWIT_FAILPOINT";

/// Passes a named place, for example `site("seal.sent")`. Names are `<message or step>.<before|sent|answered>`.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn site(_name: &str) {}

/// Passes a named place; aborts the process if a test asked for it.
#[cfg(feature = "failpoints")]
pub fn site(name: &str) {
    if armed::passes(name) {
        eprintln!("failpoint {name}: aborting");
        std::process::abort();
    }
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static ARMED: OnceLock<Option<(String, AtomicU32)>> = OnceLock::new();

    pub(super) fn parse(text: &str) -> Option<(String, AtomicU32)> {
        let (name, count) = match text.split_once(':') {
            Some((name, n)) => (name, n.parse().ok()?),
            None => (text, 1),
        };
        (!name.is_empty() && count > 0).then(|| (name.to_owned(), AtomicU32::new(count)))
    }

    /// Whether this passage is the one that was asked for.
    pub(super) fn passes(name: &str) -> bool {
        let armed = ARMED.get_or_init(|| parse(&std::env::var(super::VARIABLE).ok()?));
        armed.as_ref().is_some_and(|(site, left)| hit(site, left, name))
    }

    pub(super) fn hit(site: &str, left: &AtomicU32, name: &str) -> bool {
        site == name && left.fetch_sub(1, Ordering::SeqCst) == 1
    }
}

#[cfg(all(test, feature = "failpoints"))]
mod tests {
    use super::armed::{hit, parse};

    #[test]
    fn the_nth_passage_of_the_named_site_is_hit_and_no_other() {
        let (site, left) = parse("seal.sent:2").expect("valid");
        assert!(!hit(&site, &left, "freeze.sent"));
        assert!(!hit(&site, &left, "seal.sent"));
        assert!(hit(&site, &left, "seal.sent"));
        assert!(parse(":1").is_none());
        assert!(parse("x:0").is_none());
    }
}
