//! Ephemeral containers (`kubectl debug`): whoever continues a pod has not the same, so it is not checkpointed while one runs. Only its
//! cluster knows which of its containers they are.

use std::fmt;
use std::sync::OnceLock;

use godwit_types::PodKey;

type Ask = Box<dyn Fn(&str, &str) -> bool + Send + Sync>;

/// Which containers are ephemeral; none where nobody tells.
#[derive(Default)]
pub struct Ephemeral(OnceLock<Ask>);

impl Ephemeral {
    /// From now on this tells whether the container of a name is one, in the pod of a uid.
    pub fn told_by(&self, ask: impl Fn(&str, &str) -> bool + Send + Sync + 'static) {
        // Said once, when the agent starts.
        let _ = self.0.set(Box::new(ask));
    }

    pub(crate) fn is_one(&self, pod: &PodKey, container: &str) -> bool {
        self.0.get().is_some_and(|ask| ask(pod.as_str(), container))
    }
}

impl fmt::Debug for Ephemeral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ephemeral").field("told", &self.0.get().is_some()).finish()
    }
}
