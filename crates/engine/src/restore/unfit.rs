//! Points that a pod cannot continue here although its first container could: one that joined was refused for good, or CRIU failed again
//! and again. A pod that may do without its memory starts from its image then; else it would be held, killed and tried again for ever.
//! What becomes of another pod with the same point says nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use godwit_types::CheckpointId;

use crate::news::Why;

/// After so many failures of CRIU a point is given up.
const TRIES: u32 = 3;
/// So many are remembered: those whose first failure is the newest.
const KEPT: usize = 256;

/// What this agent has seen.
#[derive(Debug, Default)]
pub struct Unfit(Mutex<Kept>);

/// Of a point in a pod.
type Key = (CheckpointId, String);

#[derive(Debug, Default)]
struct Kept {
    seen: BTreeMap<Key, Seen>,
    /// Oldest first.
    order: VecDeque<Key>,
}

#[derive(Debug)]
struct Seen {
    failures: u32,
    why: Why,
}

impl Unfit {
    /// It will never be restored in the pod of this uid.
    pub(super) fn never(&self, pod: &str, checkpoint: CheckpointId, why: Why) {
        self.put(pod, checkpoint, TRIES, why);
    }

    /// CRIU has failed; another time it may not.
    pub(super) fn failed(&self, pod: &str, checkpoint: CheckpointId, why: Why) {
        self.put(pod, checkpoint, 1, why);
    }

    fn put(&self, pod: &str, checkpoint: CheckpointId, failures: u32, why: Why) {
        let (mut all, key) = (self.lock(), (checkpoint, pod.to_owned()));
        let before = all.seen.get(&key).map_or(0, |seen| seen.failures);
        let seen = Seen { failures: before.saturating_add(failures), why };
        if all.seen.insert(key.clone(), seen).is_none() {
            all.order.push_back(key);
        }
        while all.seen.len() > KEPT {
            let Some(oldest) = all.order.pop_front() else { break };
            all.seen.remove(&oldest);
        }
    }

    /// Why it is given up, if it is.
    pub(super) fn why(&self, pod: &str, checkpoint: CheckpointId) -> Option<Why> {
        let all = self.lock();
        let seen = all.seen.get(&(checkpoint, pod.to_owned()))?;
        (seen.failures >= TRIES).then(|| seen.why.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
            unfit.failed("web", often, why(told));
            assert_eq!(unfit.why("web", often), None);
        }
        unfit.failed("web", often, why("third"));
        assert_eq!(unfit.why("web", often), Some(why("third")));
        assert_eq!(unfit.why("copy", often), None, "another pod's is another");
        unfit.never("web", once, why("other image"));
        assert_eq!(unfit.why("web", once), Some(why("other image")));
        assert_eq!(unfit.why("web", other), None);
        for _ in 0..KEPT {
            unfit.never("web", CheckpointId::mint(), why("many"));
        }
        assert_eq!(unfit.lock().seen.len(), KEPT);
        // The oldest checkpoint is not the oldest failure.
        unfit.never("web", often, why("again"));
        assert_eq!(unfit.why("web", often), Some(why("again")));
    }
}
