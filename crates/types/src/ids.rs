//! Names and numbers that must not be mixed up.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use ulid::Ulid;

/// A name that is not allowed, with the rule that it breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {rule}")]
pub struct InvalidName {
    what: &'static str,
    value: String,
    rule: &'static str,
}

macro_rules! ulid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Ulid);

        impl $name {
            /// A new one, unique and ordered by time of creation.
            #[must_use]
            pub fn mint() -> Self {
                Self(Ulid::generate())
            }

            /// When it was minted, in milliseconds since the Unix epoch.
            #[must_use]
            pub fn timestamp_ms(&self) -> u64 {
                self.0.timestamp_ms()
            }
        }

        impl From<u128> for $name {
            fn from(bits: u128) -> Self {
                Self(Ulid(bits))
            }
        }

        impl From<$name> for u128 {
            fn from(id: $name) -> Self {
                id.0.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(s: &str) -> Result<Self, InvalidName> {
                Ulid::from_string(s).map(Self).map_err(|_| InvalidName {
                    what: $what,
                    value: s.to_owned(),
                    rule: "it must be a ULID of 26 characters",
                })
            }
        }
    };
}

ulid_id!(
    /// One checkpoint of one lineage.
    CheckpointId,
    "checkpoint id"
);
ulid_id!(
    /// One operation (a checkpoint or a restore). Kept in the bundle and in the log entry: idempotence is by it.
    OpId,
    "operation id"
);

/// A random value that tells the writer of a log entry from every other writer of the same slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nonce(Ulid);

impl Nonce {
    /// A new random value.
    #[must_use]
    pub fn mint() -> Self {
        Self(Ulid::generate())
    }
}

impl From<u128> for Nonce {
    fn from(bits: u128) -> Self {
        Self(Ulid(bits))
    }
}

/// Position of an entry in a lineage log; the first is 1.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// The position after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The key component that makes an ascending LIST show the newest entry first: 20 digits of `u64::MAX - seq`.
    #[must_use]
    pub fn inverted_key(self) -> String {
        format!("{:020}", u64::MAX - self.0)
    }

    /// The inverse of [`Seq::inverted_key`]; `None` if the text is not exactly 20 digits of a `u64`.
    #[must_use]
    pub fn from_inverted_key(key: &str) -> Option<Self> {
        let digits = key.len() == 20 && key.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| key.parse::<u64>().ok()).flatten().map(|n| Self(u64::MAX - n))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of the last take-over of a lineage; 0 before the first.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// Number of a pack within its checkpoint.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct PackIndex(pub u32);

macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:path, $rule:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Checks and takes the name.
            ///
            /// # Errors
            /// The rule that the name breaks.
            pub fn new(value: impl Into<String>) -> Result<Self, InvalidName> {
                let value = value.into();
                if $check(&value) { Ok(Self(value)) } else { Err(InvalidName { what: $what, value, rule: $rule }) }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(s: &str) -> Result<Self, InvalidName> {
                Self::new(s)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(d)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_name!(
    /// Confines checkpoints and lineages by key prefix: the Kubernetes namespace, or `_node` without Kubernetes.
    Tenant,
    "tenant",
    is_component,
    "1 to 253 of a-z, A-Z, 0-9, '-', '_', '.', not starting with '.'"
);
text_name!(
    /// One logical pod through all its lives: `<kind>/<name>`, for example `sts/web.0` or `uid/<ULID>`.
    LineageName,
    "lineage",
    is_lineage,
    "<kind>/<name>, kind one of sts, job, pod, uid; name 1 to 253 of a-z, A-Z, 0-9, '-', '_', '.'"
);
text_name!(
    /// The key of a fence and of a shim's socket: the pod uid, or `<containerd namespace>+<container id>`.
    PodKey,
    "pod key",
    is_pod_key,
    "1 to 253 of a-z, A-Z, 0-9, '-', '_', '.', '+', not starting with '.'"
);

text_name!(
    /// Which machine this is, for as long as its system stays installed: machine-id(5).
    MachineId,
    "machine id",
    is_machine_id,
    "32 of 0-9, a-f, not all of them 0"
);

impl Tenant {
    /// The tenant of containers without Kubernetes.
    #[must_use]
    pub fn node() -> Self {
        Self("_node".to_owned())
    }
}

impl LineageName {
    /// A lineage that nobody else can name: `uid/<ULID>`, minted at the first checkpoint of a container without Kubernetes.
    #[must_use]
    pub fn mint() -> Self {
        Self(format!("uid/{}", Ulid::generate()))
    }
}

fn is_component(s: &str) -> bool {
    (1..=253).contains(&s.len())
        && !s.starts_with('.')
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn is_pod_key(s: &str) -> bool {
    (1..=253).contains(&s.len())
        && !s.starts_with('.')
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b))
}

fn is_machine_id(s: &str) -> bool {
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    s.len() == 32 && s.bytes().all(is_digit) && s.bytes().any(|b| b != b'0')
}

fn is_lineage(s: &str) -> bool {
    s.split_once('/').is_some_and(|(kind, name)| {
        ["sts", "job", "pod", "uid"].contains(&kind) && is_component(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inverted_key_sorts_newest_first_and_reads_back() {
        let (old, new) = (Seq(9), Seq(10));
        assert!(new.inverted_key() < old.inverted_key());
        assert_eq!(Seq::from_inverted_key(&new.inverted_key()), Some(new));
        assert_eq!(Seq::from_inverted_key("123"), None);
        assert_eq!(Seq::from_inverted_key("+0000000000000000001"), None);
        assert_eq!(Seq::from_inverted_key("99999999999999999999"), None);
    }

    #[test]
    fn names_that_could_leave_their_prefix_are_refused() {
        for bad in ["", ".", "..", "a/b", "a b", ".hidden"] {
            assert!(Tenant::new(bad).is_err(), "{bad:?}");
        }
        for bad in ["web", "sts/", "sts/..", "foo/web", "sts/a/b", "/x"] {
            assert!(LineageName::new(bad).is_err(), "{bad:?}");
        }
        assert!(LineageName::new("sts/web.0").is_ok());
        assert!(PodKey::new("default+web").is_ok());
        assert!(serde_json::from_str::<Tenant>("\"../x\"").is_err());
    }

    #[test]
    fn what_says_nothing_about_the_machine_is_no_machine_id() {
        let zeros = "0".repeat(32);
        for bad in ["", "uninitialized", "0123456789abcdef", &zeros, &"G".repeat(32)] {
            assert!(MachineId::new(bad).is_err(), "{bad:?}");
        }
        assert!(MachineId::new("0123456789abcdef0123456789abcdef").is_ok());
    }

    #[test]
    fn ids_read_back_from_their_text() {
        let id = CheckpointId::mint();
        assert_eq!(id.to_string().parse::<CheckpointId>(), Ok(id));
        assert!("nonsense".parse::<CheckpointId>().is_err());
    }
}
