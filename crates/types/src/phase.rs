//! The steps of the two flows, in order. One spelling for logs, reports, progress and failpoints.

use serde::{Deserialize, Serialize};

macro_rules! phases {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// A step of a checkpoint or of a restore.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Phase { $($(#[$doc])* $variant,)* }

        impl Phase {
            /// Every phase, checkpoint first.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name used in logs, reports and failpoints.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

phases! {
    /// Checkpoint: it waits for its turn (`operations` in agent.toml).
    Queue = "queue",
    /// Checkpoint: the shim is asked, refusals are checked, the log says that we own the pod.
    Preflight = "preflight",
    /// Checkpoint: intent written, CRIU started and warm, budget reserved.
    Prepare = "prepare",
    /// Checkpoint: memory and files are read and stored while the pod runs.
    PreCopy = "pre-copy",
    /// Checkpoint: the pod is frozen, CRIU dumps, the last pages arrive.
    Freeze = "freeze",
    /// Checkpoint: what is left is compressed and sent.
    Upload = "upload",
    /// Checkpoint: head, manifest, seal, log entry.
    Commit = "commit",
    /// Checkpoint: thawed, stopped or offered; intents removed, report stored.
    Finish = "finish",
    /// Restore: the request is resolved; log, manifest and compatibility are checked.
    Check = "check",
    /// Restore: CRIU's images are made from the head, files are applied.
    Stage = "stage",
    /// Restore: CRIU makes the tasks and they are held.
    Restore = "restore",
    /// Restore: the take-over is won.
    TakeOver = "take-over",
    /// Restore: pages arrive while the pod runs.
    Hydrate = "hydrate",
    /// Store: the objects of a checkpoint are read and compared.
    Verify = "verify",
    /// Store: checkpoints beyond the limits are deleted, what nobody needs is found and removed.
    Collect = "collect",
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
