//! Checkpoint of containerd's task API: CRIU images into a directory, by `runc checkpoint`, as containerd's own runc
//! shim does. Compatibility; Godwit's own checkpoints are operations (`op`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::warn;

use super::Pod;
use crate::container::Container;
use crate::error::{Error, Result};
use crate::events::Event;
use crate::runc;
use crate::state::{State, Step};

/// Where CRIU's log of a failed dump is kept, in the bundle.
const LOG: &str = "criu-dump.log";

impl Pod {
    /// Writes CRIU images. `what.work` may be empty: then CRIU's log is only kept if it fails.
    ///
    /// # Errors
    /// It is not running, its runtime is crun, or the dump fails: it runs then.
    pub async fn checkpoint(self: &Arc<Self>, id: &str, what: runc::Checkpoint) -> Result<()> {
        let container = self.container(id)?;
        let _turn = container.turn().await;
        if container.options().is_crun() {
            return Err(Error::Refused(
                "checkpoints need runc; this container's runtime is crun".into(),
            ));
        }
        let paused = container.state() == State::Paused;
        if !paused {
            container.shift(Step::Begin)?;
        }
        let images = what.images.display().to_string();
        let dumped = dump(&container, what).await;
        if !paused {
            // Stopped, if it was to exit.
            let _ = container.shift(Step::End);
        }
        dumped?;
        self.events().publish(Event::checkpointed(id, &images));
        Ok(())
    }
}

async fn dump(container: &Arc<Container>, mut what: runc::Checkpoint) -> Result<()> {
    let own_work = what.work.as_os_str().is_empty();
    if own_work {
        what.work = container.bundle().join("work/criu-work");
    }
    let attempt = format!("make CRIU's directory {}", what.work.display());
    std::fs::create_dir_all(&what.work).map_err(Error::io(attempt))?;
    let dumped = container.runc().checkpoint(&what).await;
    let dumped = dumped.map_err(|why| with_log(why, &what.work, container.bundle()));
    if own_work && let Err(why) = std::fs::remove_dir_all(&what.work) {
        warn!(container = container.id(), %why, "removing CRIU's working directory failed");
    }
    dumped
}

fn with_log(why: Error, work: &Path, bundle: &Path) -> Error {
    let kept: PathBuf = bundle.join(LOG);
    match (why, std::fs::copy(work.join("dump.log"), &kept)) {
        (Error::Runtime { verb, said }, Ok(_)) => {
            Error::Runtime { verb, said: format!("{said} path= {}", kept.display()) }
        }
        (why, _) => why,
    }
}
