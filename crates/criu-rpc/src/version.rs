//! CRIU's version: which ones Godwit works with.

use std::fmt;

use crate::Error;
use crate::rpc::VersionResp;

/// The oldest CRIU that has what Godwit relies on (`network_lock` SKIP, `query-ext-files`, PAGEMAP_SCAN).
pub const OLDEST_CRIU: CriuVersion = CriuVersion { major: 4, minor: 1, sublevel: 0 };

/// A version of CRIU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CriuVersion {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number; 0 when there is none.
    pub sublevel: u32,
}

impl CriuVersion {
    /// Takes it from CRIU's answer.
    #[must_use]
    pub fn from_response(resp: &VersionResp) -> Self {
        let unsigned = |n: i32| u32::try_from(n).unwrap_or(0);
        Self {
            major: unsigned(resp.major_number),
            minor: unsigned(resp.minor_number),
            sublevel: unsigned(resp.sublevel()),
        }
    }

    /// Whether Godwit can work with it.
    ///
    /// # Errors
    /// [`Error::TooOld`] below [`OLDEST_CRIU`].
    pub fn require_supported(self) -> Result<Self, Error> {
        if self < OLDEST_CRIU {
            return Err(Error::TooOld { found: self, oldest: OLDEST_CRIU });
        }
        Ok(self)
    }
}

impl fmt::Display for CriuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.sublevel > 0 {
            write!(f, ".{}", self.sublevel)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_and_old_ones_refused_with_a_sentence() {
        let of = |major, minor, sublevel| CriuVersion { major, minor, sublevel };
        assert!(of(4, 2, 1).require_supported().is_ok());
        assert!(of(5, 0, 0).require_supported().is_ok());
        let e = of(3, 19, 0).require_supported().unwrap_err();
        assert_eq!(e.to_string(), "CRIU 3.19 is too old: 4.1 or newer is needed");
    }
}
