//! Pages that CRIU itself writes to while it dumps.
//!
//! It has a task execute a system call by writing the instruction over the first bytes of an executable mapping, waits for the task,
//! and puts back what was there (`compel_execute_syscall`, CRIU's `compel/src/lib/infect.c`). It does so after a task's pages were sent,
//! too; and what is sent are references. Whoever copies such a page just then copies CRIU's instruction. So these pages are read again
//! when CRIU has let go of all tasks and still holds them.

use std::path::Path;

use godwit_capture::{Received, executable};
use godwit_image::Space;

use super::CheckpointError;
use super::memory::{innermost_pid, pids};

/// Reads the first page of every executable mapping of a container again, where it arrived. CRIU takes the first such mapping that is
/// large enough; which one that is, is its own affair.
///
/// # Errors
/// [`CheckpointError::Capture`].
pub(super) fn read_again(received: &mut Received, cgroup: &Path) -> Result<(), CheckpointError> {
    for pid in pids(cgroup)? {
        let Some(vpid) = innermost_pid(pid) else { continue };
        let space = Space::Task(vpid);
        // Nothing arrives of a process that has ended, which has no mappings either.
        if received.spaces().contains_key(&space) {
            received.read_again(space, pid, &executable(pid)?)?;
        }
    }
    Ok(())
}
