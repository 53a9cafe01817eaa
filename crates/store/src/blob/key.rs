//! Names of objects: the one place where text becomes a key, so that no backend meets a hostile one.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// Longest key: S3 allows 1024 bytes with the configured prefix in front.
const MAX_KEY: usize = 768;
/// Longest component: what a directory entry may hold.
const MAX_COMPONENT: usize = 255;

/// The name of an object below the store's root: components of `[A-Za-z0-9._+-]` joined by `/`, none empty, none
/// starting with a dot. So it means the same in a bucket and in a directory and can leave neither.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Key(String);

/// Text that is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a key: components of a-z, A-Z, 0-9, '.', '_', '+', '-' joined by '/', none empty or starting with '.'"
)]
pub struct InvalidKey(String);

impl Key {
    /// Checks and takes the text.
    ///
    /// # Errors
    /// The text breaks the rule above.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidKey> {
        let text = text.into();
        let fits = text.len() <= MAX_KEY && text.split('/').all(is_component);
        if fits { Ok(Self(text)) } else { Err(InvalidKey(text)) }
    }

    /// A key made of checked names; a text that is none would be a defect of this crate, found by its tests.
    pub(crate) fn made_of(text: String) -> Self {
        debug_assert!(Self::new(text.as_str()).is_ok(), "{text:?} is not a key");
        Self(text)
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What follows the last `/`.
    #[must_use]
    pub fn last_component(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

fn is_component(text: &str) -> bool {
    (1..=MAX_COMPONENT).contains(&text.len())
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b))
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_cannot_leave_its_store() {
        let long = "x/".repeat(500) + "x";
        for bad in
            ["", "/", "a/", "/a", "a//b", "..", "a/../b", "a/.b", "a b", "a\0", "a\\b", "ä", &long]
        {
            assert!(Key::new(bad).is_err(), "{bad:?}");
        }
        assert!(Key::new("t/_node/lineages/uid/01J/log/18446744073709551614").is_ok());
        assert!(serde_json::from_str::<Key>("\"../../etc/passwd\"").is_err());
    }
}
