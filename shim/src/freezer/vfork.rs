//! A task in the middle of `vfork` (or of `posix_spawn`, which uses it) waits uninterruptibly until its child executes a program.
//! Frozen there, it cannot be stopped by ptrace while its child is: CRIU, which stops the child first, would wait for ever.

use std::path::Path;

/// `clone(2)`
const CLONE_VFORK: u64 = 0x4000;

/// Whether a task of this cgroup, which is frozen, is inside `vfork`.
pub(super) fn any(dir: &Path) -> bool {
    !super::tasks::each(dir, &mut |task| {
        let syscall = std::fs::read_to_string(task.join("syscall")).unwrap_or_default();
        !waits_for_child(&syscall)
    })
}

/// `number argument argument …`, as `/proc/<pid>/syscall` has it. What a `clone3` asked for is in the task's memory: it counts, a
/// wrong guess costs a second freeze.
fn waits_for_child(syscall: &str) -> bool {
    let mut words = syscall.split_whitespace();
    let Some(number) = words.next().and_then(|n| n.parse::<i64>().ok()) else { return false };
    let flags = words.next().and_then(|w| u64::from_str_radix(w.trim_start_matches("0x"), 16).ok());
    #[cfg(target_arch = "x86_64")]
    if number == libc::SYS_vfork {
        return true;
    }
    match number {
        libc::SYS_clone3 => true,
        libc::SYS_clone => flags.is_some_and(|flags| flags & CLONE_VFORK != 0),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clone_that_waits_for_its_child_counts() {
        let clone = |flags: u64| {
            format!("{} {flags:#x} 0x0 0x0 0x0 0x0 0x0 0x7ffe 0x7f00", libc::SYS_clone)
        };
        assert!(waits_for_child(&clone(0x4111)));
        assert!(!waits_for_child(&clone(0x0120_0011)));
        assert!(waits_for_child(&format!("{} 0x7ffe 0x58", libc::SYS_clone3)));
        assert!(!waits_for_child("running"));
        assert!(!waits_for_child("-1 0x7ffe 0x7f00"));
    }
}
