//! Which annotations of a container's spec are obeyed. One that looks like ours and is none is refused: a slip of the pen must not
//! start a container from its image whose memory was asked for.

use crate::names;

/// What ours begin with.
const PREFIX: &str = "godwit.dev/";
/// All there are, and with which others each is for.
const KNOWN: [(&str, &[&str]); 6] = [
    (names::RESTORE_FROM, &[]),
    (names::FORK_FROM, &[]),
    (names::FORCE, &[names::RESTORE_FROM]),
    (names::STORE, &[names::RESTORE_FROM, names::FORK_FROM]),
    (names::VOLUMES, &[names::RESTORE_FROM, names::FORK_FROM]),
    (names::HYDRATE, &[names::RESTORE_FROM, names::FORK_FROM]),
];
/// What [`names::HYDRATE`] may say.
const WHEN: [&str; 2] = [names::AFTER_START, names::BEFORE_START];

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
    #[error("the annotation {name} is {}, not {value:?}", WHEN.join(" or "))]
    Value {
        /// Which.
        name: String,
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
    let is_ours = |(name, _): &(&str, &str)| name.starts_with(PREFIX);
    let ours: Vec<_> = all.into_iter().filter(is_ours).collect();
    let is_given = |name: &&str| ours.iter().any(|(given, _)| given == name);
    for (name, value) in &ours {
        let owned = || (*name).to_owned();
        let Some((_, with)) = KNOWN.iter().find(|(known, _)| known == name) else {
            return Err(Misused::Unknown { name: owned() });
        };
        if value.trim().is_empty() {
            return Err(Misused::Empty { name: owned() });
        }
        if *name == names::HYDRATE && !WHEN.contains(value) {
            return Err(Misused::Value { name: owned(), value: (*value).to_owned() });
        }
        if !with.is_empty() && !with.iter().any(is_given) {
            return Err(Misused::Alone { name: owned(), with });
        }
    }
    Ok(())
}

fn known() -> String {
    KNOWN.map(|(name, _)| name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(all: &[(&str, &str)]) -> String {
        check(all.iter().copied()).unwrap_err().to_string()
    }

    #[test]
    fn a_slip_of_the_pen_is_refused_with_what_there_is() {
        for wrong in ["godwit.dev/restore_from", "godwit.dev/tcp", "godwit.dev/"] {
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
    }

    #[test]
    fn what_means_nothing_alone_is_refused_alone() {
        let refused = told(&[(names::FORCE, "n1 burnt"), (names::FORK_FROM, "X")]);
        assert!(refused.ends_with("means nothing without godwit.dev/restore-from"), "{refused}");
        assert!(told(&[(names::STORE, "main")]).contains("restore-from or godwit.dev/fork-from"));
    }

    #[test]
    fn good_ones_and_those_of_others_pass() {
        let good = [
            (names::RESTORE_FROM, "X"),
            (names::FORCE, "n1 burnt"),
            (names::STORE, "main"),
            (names::HYDRATE, "before-start"),
            ("io.kubernetes.cri.sandbox-id", ""),
            ("example.com/godwit.dev/x", ""),
        ];
        assert_eq!(check(good), Ok(()));
        assert_eq!(check([]), Ok(()));
    }
}
