//! Terms that several messages share.

use std::str::FromStr;

use godwit_types::Code;

use crate::WireError;

/// [`Code`] as a number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum WireCode {
    /// Never sent; what an absent field decodes to. Read as [`Code::Internal`].
    Unspecified = 0,
    /// [`Code::NotFound`].
    NotFound = 1,
    /// [`Code::AlreadyExists`].
    AlreadyExists = 2,
    /// [`Code::Precondition`].
    Precondition = 3,
    /// [`Code::Unavailable`].
    Unavailable = 4,
    /// [`Code::Corrupt`].
    Corrupt = 5,
    /// [`Code::Refused`].
    Refused = 6,
    /// [`Code::Cancelled`].
    Cancelled = 7,
    /// [`Code::Internal`].
    Internal = 8,
}

impl From<Code> for WireCode {
    fn from(code: Code) -> Self {
        match code {
            Code::NotFound => Self::NotFound,
            Code::AlreadyExists => Self::AlreadyExists,
            Code::Precondition => Self::Precondition,
            Code::Unavailable => Self::Unavailable,
            Code::Corrupt => Self::Corrupt,
            Code::Refused => Self::Refused,
            Code::Cancelled => Self::Cancelled,
            Code::Internal => Self::Internal,
        }
    }
}

impl From<WireCode> for Code {
    fn from(code: WireCode) -> Self {
        match code {
            WireCode::NotFound => Self::NotFound,
            WireCode::AlreadyExists => Self::AlreadyExists,
            WireCode::Precondition => Self::Precondition,
            WireCode::Unavailable => Self::Unavailable,
            WireCode::Corrupt => Self::Corrupt,
            WireCode::Refused => Self::Refused,
            WireCode::Cancelled => Self::Cancelled,
            WireCode::Internal | WireCode::Unspecified => Self::Internal,
        }
    }
}

/// A refusal or failure: what it means, and a sentence for a person. The sentence is shown as it is.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Refusal {
    /// What it means to the caller.
    #[prost(enumeration = "WireCode", tag = "1")]
    pub code: i32,
    /// One sentence that says what to do.
    #[prost(string, tag = "2")]
    pub reason: String,
    /// Only because the store cannot be read or written (`godwit_ownership::Refusal::StoreAway`): the one refusal after which a
    /// restart in the same incarnation may go on and owe its `cold` entry.
    #[prost(bool, tag = "3")]
    pub store_away: bool,
}

impl Refusal {
    /// A refusal with its sentence.
    #[must_use]
    pub fn new(code: Code, reason: impl Into<String>) -> Self {
        Self { code: WireCode::from(code) as i32, reason: reason.into(), store_away: false }
    }

    /// What it means; unknown numbers read as [`Code::Internal`].
    #[must_use]
    pub fn means(&self) -> Code {
        self.code().into()
    }
}

/// One annotation `godwit.dev/…` (or of containerd's CRI) of the container's spec.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Annotation {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// The node's own part of an [`godwit_types::Owner`]; the agent's, because a shim does not know it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NodeIdentity {
    /// Id of the cluster; `_none` without Kubernetes.
    #[prost(string, tag = "1")]
    pub cluster: String,
    /// Name of the node.
    #[prost(string, tag = "2")]
    pub node: String,
    /// Raised when the node returns after its lease was revoked.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
}

/// Where a lineage is: enough for any agent to find its log.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LineageAt {
    /// Name of the store in the agent's configuration.
    #[prost(string, tag = "1")]
    pub store: String,
    /// [`godwit_types::Tenant`].
    #[prost(string, tag = "2")]
    pub tenant: String,
    /// [`godwit_types::LineageName`].
    #[prost(string, tag = "3")]
    pub lineage: String,
}

/// Reads a typed id out of a text field.
///
/// # Errors
/// [`WireError::Field`] with the field's name.
pub fn parse<T: FromStr>(field: &'static str, value: &str) -> Result<T, WireError> {
    value.parse().map_err(|_| WireError::Field { field, value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_wire() {
        for code in [
            Code::NotFound,
            Code::AlreadyExists,
            Code::Precondition,
            Code::Unavailable,
            Code::Corrupt,
            Code::Refused,
            Code::Cancelled,
            Code::Internal,
        ] {
            assert_eq!(Refusal::new(code, "because").means(), code);
        }
    }
}
