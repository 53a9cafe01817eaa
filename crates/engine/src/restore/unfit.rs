//! Points that this node cannot continue although the first container of their pod could be: what a container that joined was refused for,
//! and restores that failed again and again. A pod that may do without its memory starts from its image then; else it would be held, killed
//! and tried again for ever.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use godwit_types::CheckpointId;

use crate::news::Why;

/// After so many failures of CRIU a point is given up.
const TRIES: u32 = 3;
/// So many points are remembered, the newest.
const KEPT: usize = 256;

/// What this agent has seen.
#[derive(Debug, Default)]
pub struct Unfit(Mutex<BTreeMap<CheckpointId, Seen>>);

#[derive(Debug)]
struct Seen {
    failures: u32,
    why: Why,
}

impl Unfit {
    /// It will never be restored here.
    pub(super) fn never(&self, checkpoint: CheckpointId, why: Why) {
        self.put(checkpoint, TRIES, why);
    }

    /// A restore of it failed; another one may not.
    pub(super) fn failed(&self, checkpoint: CheckpointId, why: Why) {
        self.put(checkpoint, 1, why);
    }

    fn put(&self, checkpoint: CheckpointId, failures: u32, why: Why) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.get(&checkpoint).map_or(0, |seen| seen.failures);
        all.insert(checkpoint, Seen { failures: before.saturating_add(failures), why });
        if all.len() > KEPT {
            all.pop_first();
        }
    }

    /// Why it is given up, if it is.
    pub(super) fn why(&self, checkpoint: CheckpointId) -> Option<Why> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&checkpoint).filter(|seen| seen.failures >= TRIES).map(|seen| seen.why.clone())
    }
}

#[cfg(test)]
mod tests {
    use godwit_types::Code;

    use super::*;

    #[test]
    fn a_point_is_given_up_after_three_failures_or_one_that_is_final() {
        let why = |told: &str| Why { code: Code::Refused, reason: None, told: told.to_owned() };
        let (unfit, [often, once, other]) =
            (Unfit::default(), [(); 3].map(|()| CheckpointId::mint()));
        for told in ["first", "second"] {
            unfit.failed(often, why(told));
            assert_eq!(unfit.why(often), None);
        }
        unfit.failed(often, why("third"));
        assert_eq!(unfit.why(often), Some(why("third")));
        unfit.never(once, why("other image"));
        assert_eq!(unfit.why(once), Some(why("other image")));
        assert_eq!(unfit.why(other), None);
        for _ in 0..KEPT {
            unfit.never(CheckpointId::mint(), why("many"));
        }
        assert_eq!(unfit.0.lock().unwrap().len(), KEPT);
    }
}
