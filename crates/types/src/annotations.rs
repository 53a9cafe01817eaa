//! Which annotations of a container's spec are obeyed. One that looks like ours and is none is refused: a slip of the pen must not
//! start a container from its image whose memory was asked for.

use crate::names;

/// What ours begin with.
const PREFIX: &str = "godwit.dev/";
/// What a pod's annotation asks of its restore, which there is by either of these.
const OF_RESTORES: &[&str] = &[names::RESTORE_FROM, names::FORK_FROM, names::CHECKPOINT_ON_STOP];
/// All that users write.
const KNOWN: [Known; 10] = [
    Known { name: names::RESTORE_FROM, with: &[], values: &[] },
    Known { name: names::FORK_FROM, with: &[], values: &[] },
    Known { name: names::FORCE, with: &[names::RESTORE_FROM], values: &[] },
    Known { name: names::STORE, with: OF_RESTORES, values: &[] },
    Known { name: names::VOLUMES, with: OF_RESTORES, values: &[] },
    Known {
        name: names::HYDRATE,
        with: OF_RESTORES,
        values: &[names::AFTER_START, names::BEFORE_START],
    },
    Known { name: names::TCP, with: &[], values: &[names::CLOSE, names::KEEP] },
    Known { name: names::RESTORE, with: &[], values: &[names::NEVER] },
    Known { name: names::CHECKPOINT, with: &[], values: &[names::NOW] },
    Known { name: names::CHECKPOINT_ON_STOP, with: &[], values: &["true", "false"] },
];
/// All that agents write into pods. They mean nothing where they are read, as in a copy of the pod.
const WRITTEN: [&str; 5] = [
    names::LINEAGE,
    names::LAST_CHECKPOINT,
    names::LAST_CHECKPOINT_TIME,
    names::RESTORED_FROM,
    names::ELIGIBLE,
];

/// An annotation that users write.
struct Known {
    name: &'static str,
    /// It means nothing without one of these; empty: it stands alone.
    with: &'static [&'static str],
    /// What it may say; empty: anything.
    values: &'static [&'static str],
}

/// Why a spec's annotations are not obeyed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misused {
    /// No such annotation.
    #[error("there is no annotation {name}: there are {}", known())]
    Unknown {
        /// Which.
        name: String,
    },
    /// Its value was forgotten.
    #[error("the annotation {name} has no value: give it one, or leave it away")]
    Empty {
        /// Which.
        name: String,
    },
    /// Its value is none of those that there are.
    #[error("the annotation {name} is {}, not {value:?}", values.join(" or "))]
    Value {
        /// Which.
        name: String,
        /// What there is.
        values: &'static [&'static str],
        /// What it was given.
        value: String,
    },
    /// It means nothing by itself.
    #[error("the annotation {name} means nothing without {}", with.join(" or "))]
    Alone {
        /// Which.
        name: String,
        /// What it is for.
        with: &'static [&'static str],
    },
}

/// Checks the names and values of all annotations of a spec. Those of others are not looked at.
///
/// # Errors
/// The first of ours that cannot be obeyed.
pub fn check<'a>(all: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<(), Misused> {
    let is_read = |(name, _): &(&str, &str)| name.starts_with(PREFIX) && !WRITTEN.contains(name);
    let ours: Vec<_> = all.into_iter().filter(is_read).collect();
    let is_given = |name: &&str| ours.iter().any(|(given, _)| given == name);
    for (name, value) in &ours {
        let owned = || (*name).to_owned();
        let Some(Known { with, values, .. }) = KNOWN.iter().find(|known| known.name == *name)
        else {
            return Err(Misused::Unknown { name: owned() });
        };
        if value.trim().is_empty() {
            return Err(Misused::Empty { name: owned() });
        }
        if !values.is_empty() && !values.contains(value) {
            return Err(Misused::Value { name: owned(), values, value: (*value).to_owned() });
        }
        if !with.is_empty() && !with.iter().any(is_given) {
            return Err(Misused::Alone { name: owned(), with });
        }
    }
    Ok(())
}

fn known() -> String {
    KNOWN.map(|known| known.name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(all: &[(&str, &str)]) -> String {
        check(all.iter().copied()).unwrap_err().to_string()
    }

    #[test]
    fn a_slip_of_the_pen_is_refused_with_what_there_is() {
        for wrong in ["godwit.dev/restore_from", "godwit.dev/udp", "godwit.dev/"] {
            let refused = told(&[(wrong, "01ARZ3NDEKTSV4RRFFQ69G5FAV")]);
            assert!(refused.contains(wrong) && refused.contains(names::RESTORE_FROM), "{refused}");
        }
    }

    #[test]
    fn a_value_that_was_forgotten_is_asked_for() {
        assert!(told(&[(names::RESTORE_FROM, " ")]).contains("no value"));
        assert!(told(&[(names::RESTORE_FROM, "X"), (names::FORCE, "")]).contains("no value"));
    }

    #[test]
    fn a_value_that_there_is_not_is_refused_with_those_that_there_are() {
        let refused = told(&[(names::RESTORE_FROM, "X"), (names::HYDRATE, "eager")]);
        assert!(refused.ends_with("is after-start or before-start, not \"eager\""), "{refused}");
        assert!(told(&[(names::RESTORE, "always")]).ends_with("is never, not \"always\""));
    }

    #[test]
    fn what_means_nothing_alone_is_refused_alone() {
        let refused = told(&[(names::FORCE, "n1 burnt"), (names::FORK_FROM, "X")]);
        assert!(refused.ends_with("means nothing without godwit.dev/restore-from"), "{refused}");
        assert!(
            told(&[(names::STORE, "main")]).contains("restore-from or godwit.dev/fork-from or")
        );
    }

    #[test]
    fn good_ones_and_those_of_others_pass() {
        let good = [
            (names::RESTORE_FROM, "X"),
            (names::FORCE, "n1 burnt"),
            (names::STORE, "main"),
            (names::HYDRATE, "before-start"),
            (names::CHECKPOINT, "now"),
            (names::TCP, "keep"),
            (names::LAST_CHECKPOINT, ""),
            ("io.kubernetes.cri.sandbox-id", ""),
            ("example.com/godwit.dev/x", ""),
        ];
        assert_eq!(check(good), Ok(()));
        assert_eq!(check([]), Ok(()));
    }
}
