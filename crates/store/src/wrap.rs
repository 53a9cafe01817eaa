//! Decorators of a blob store: each adds one property and leaves the rest alone.
//!
//! The order in production, outermost first: [`Unproved`], where the start probe could not write → [`Retry`] → [`Limit`] → [`Meter`] →
//! backend. So a retry waits its turn again, and what is counted is what was sent. Tests put [`Faulty`] where the network would be, below all of them.

mod faulty;
mod limit;
mod meter;
mod retry;
mod unproved;

pub use faulty::{Fault, Faulty, Rule};
pub use limit::{Limit, Limits};
pub use meter::{Counts, Meter, Totals};
pub use retry::{Retry, RetryPolicy};
pub(crate) use unproved::Unproved;

/// The requests that a blob store knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// Create-only PUT.
    Create,
    /// PUT.
    Put,
    /// GET of a whole object.
    Get,
    /// GET of a range.
    GetRange,
    /// LIST.
    List,
    /// HEAD.
    Head,
    /// DELETE.
    Delete,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Create, Self::Put, Self::Get, Self::GetRange, Self::List, Self::Head, Self::Delete];

    /// The label in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Put => "put",
            Self::Get => "get",
            Self::GetRange => "get_range",
            Self::List => "list",
            Self::Head => "head",
            Self::Delete => "delete",
        }
    }
}

#[cfg(test)]
mod tests;
