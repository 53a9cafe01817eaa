//! Which requests fail, and how.

use std::time::Duration;

use crate::wrap::Operation;

/// One way to fail. A create answers [`crate::Creation::Unknown`] where another request fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Lost on the way: not done, and fails.
    Fail,
    /// Answered with a refusal: not done.
    Refuse,
    /// Done, but later by this.
    Delay(Duration),
    /// Neither done nor answered, until the caller gives up.
    Hang,
    /// Done, but fails: the reply is lost.
    ReplyLost,
    /// Fails, and is done when [`super::Faulty::land`] is called. A read just fails.
    Late,
    /// A lie: only so many bytes are stored or returned, and success is said.
    Torn(usize),
    /// A lie: one bit is stored or returned wrong, and success is said.
    Flip,
    /// Done at so many bytes per second.
    Slow(u64),
}

/// A fault for requests of some kind, to some keys, some times.
#[derive(Debug, Clone)]
pub struct Rule {
    fault: Fault,
    operation: Option<Operation>,
    part_of_key: String,
    skip: usize,
    times: usize,
}

impl Rule {
    /// The fault, for the next request of any kind.
    #[must_use]
    pub fn new(fault: Fault) -> Self {
        Self { fault, operation: None, part_of_key: String::new(), skip: 0, times: 1 }
    }

    /// Only for requests of this kind.
    #[must_use]
    pub fn on(mut self, operation: Operation) -> Self {
        self.operation = Some(operation);
        self
    }

    /// Only where this text is part of the key (of the prefix, for a LIST).
    #[must_use]
    pub fn matching(mut self, part_of_key: impl Into<String>) -> Self {
        self.part_of_key = part_of_key.into();
        self
    }

    /// Not for the first `n` of them.
    #[must_use]
    pub fn after(mut self, n: usize) -> Self {
        self.skip = n;
        self
    }

    /// For so many of them.
    #[must_use]
    pub fn times(mut self, n: usize) -> Self {
        self.times = n;
        self
    }

    /// For all of them, until [`super::Faulty::heal`].
    #[must_use]
    pub fn always(self) -> Self {
        self.times(usize::MAX)
    }

    /// The fault, if this request gets it; counts the request.
    pub(super) fn meets(&mut self, operation: Operation, key: &str) -> Option<Fault> {
        let meant = self.times > 0
            && self.operation.is_none_or(|o| o == operation)
            && key.contains(&self.part_of_key);
        if !meant {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        if self.times != usize::MAX {
            self.times -= 1;
        }
        Some(self.fault)
    }
}
