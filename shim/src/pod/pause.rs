//! Pause, Resume and Update: runc changes the container's cgroup.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Pod;
use crate::error::{Error, Result};
use crate::events::Event;
use crate::state::{State, Step};

/// Numbers the files of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Pod {
    /// Freezes a running container.
    ///
    /// # Errors
    /// It is not running, or runc fails; it runs then.
    pub async fn pause(self: &Arc<Self>, id: &str) -> Result<()> {
        let container = self.container(id)?;
        let _turn = container.turn().await;
        container.shift(Step::Pause)?;
        let paused = container.runc().pause().await;
        let step = if paused.is_ok() { Step::Paused } else { Step::Failed };
        // It may have been killed meanwhile: then it is stopped, not paused.
        let shifted = container.shift(step);
        paused?;
        shifted?;
        self.events().publish(Event::paused(id));
        Ok(())
    }

    /// Thaws a paused container.
    ///
    /// # Errors
    /// It is not paused, or runc fails; it is paused then.
    pub async fn resume(self: &Arc<Self>, id: &str) -> Result<()> {
        let container = self.container(id)?;
        let _turn = container.turn().await;
        container.state().after(Step::Resume).map_err(|refusal| container.refuse(refusal))?;
        container.runc().resume().await?;
        container.shift(Step::Resume)?;
        self.events().publish(Event::resumed(id));
        Ok(())
    }

    /// Changes the limits of a container; `resources` is an OCI `LinuxResources` document (JSON).
    ///
    /// # Errors
    /// It has stopped or an operation holds it, or runc fails.
    pub async fn update(self: &Arc<Self>, id: &str, resources: &[u8]) -> Result<()> {
        let container = self.container(id)?;
        let _turn = container.turn().await;
        let state = container.state();
        if !(state.executes() || matches!(state, State::Created | State::Paused)) {
            let refusal = state.after(Step::Begin).err();
            return Err(container.refuse(refusal.unwrap_or(crate::state::Refusal::Not(state))));
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = container.bundle().join(format!("resources-{number}.json"));
        std::fs::write(&file, resources).map_err(Error::io(format!("write {}", file.display())))?;
        let updated = container.runc().update(&file).await;
        // The bundle may be gone with it.
        let _ = std::fs::remove_file(&file);
        updated
    }
}
