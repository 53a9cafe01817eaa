//! Waiting for a condition with a deadline: the only way to wait in tests.

use std::fmt::Display;
use std::time::{Duration, Instant};

use crate::error::{LabError, Result};

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(20);

/// Calls `look` until it returns `Ok` or the deadline has passed; the error then tells the last `Err`.
///
/// # Errors
/// [`LabError::Deadline`].
pub fn until<T, E: Display>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> std::result::Result<T, E>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let last = match look() {
            Ok(value) => return Ok(value),
            Err(last) => last,
        };
        let waited = start.elapsed();
        if waited >= patience {
            return Err(LabError::Deadline {
                what: what.to_owned(),
                waited,
                last: last.to_string(),
            });
        }
        std::thread::sleep(PAUSE);
    }
}

/// Waits until `condition` is true.
///
/// # Errors
/// [`LabError::Deadline`].
pub fn until_true(
    what: &str,
    patience: Duration,
    mut condition: impl FnMut() -> bool,
) -> Result<()> {
    until(what, patience, || if condition() { Ok(()) } else { Err("not yet") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passed_deadline_tells_what_was_seen_last() {
        let mut n = 0;
        let error = until("rain", Duration::from_millis(50), || {
            n += 1;
            Err::<(), _>(format!("sun {n}"))
        })
        .unwrap_err();
        assert!(error.to_string().contains("rain"), "{error}");
        assert!(error.to_string().contains(&format!("sun {n}")), "{error}");
    }

    #[test]
    fn a_condition_that_holds_at_once_returns_its_value() {
        assert_eq!(until("it", Duration::ZERO, || Ok::<_, String>(7)).unwrap(), 7);
    }
}
