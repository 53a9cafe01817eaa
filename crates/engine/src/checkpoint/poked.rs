//! Pages that CRIU itself writes to while it dumps.
//!
//! It has a task execute a system call by writing the instruction over the first bytes of an executable mapping, waits for the task,
//! and puts back what was there (`compel_execute_syscall`, CRIU's `compel/src/lib/infect.c`). It does so after a task's pages were sent,
//! too; and what is sent are references. Whoever copies such a page just then copies CRIU's instruction. So these pages are read again
//! when CRIU has let go of all tasks and still holds them.

use std::path::Path;

use godwit_capture::{CaptureError, Received};
use godwit_image::Space;
use godwit_types::PageNumber;

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
        let path = format!("/proc/{pid}/maps");
        let failed = |source| CaptureError::Process { attempt: "read the mappings", pid, source };
        // Names of mapped files are bytes.
        let maps = std::fs::read(path).map_err(failed)?;
        let lines = maps.split(|byte| *byte == b'\n').map(String::from_utf8_lossy);
        let pages: Vec<PageNumber> = lines.filter_map(|line| executable(&line)).collect();
        received.read_again(Space::Task(vpid), pid, &pages)?;
    }
    Ok(())
}

/// The first page of an executable mapping: `7f40-7f42 r-xp …`.
fn executable(line: &str) -> Option<PageNumber> {
    let mut words = line.split_whitespace();
    let (range, permissions) = (words.next()?, words.next()?);
    let start = u64::from_str_radix(range.split('-').next()?, 16).ok()?;
    (permissions.as_bytes().get(2) == Some(&b'x')).then(|| PageNumber::of_address(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executable_mappings_are_told_from_others() {
        let page = |line| executable(line).map(|page| page.0);
        assert_eq!(page("7f4000-7f6000 r-xp 00000000 00:00 0    [vdso]"), Some(0x7f4));
        assert_eq!(page("7f4000-7f6000 --xp 00000000 00:00 0"), Some(0x7f4));
        assert_eq!(page("7f4000-7f6000 rw-p 00000000 00:00 0"), None);
        assert_eq!(page(""), None);
    }
}
