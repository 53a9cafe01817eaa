//! CRIU's log in one sentence.
//!
//! Owns the reading of log lines and the table of hints. The first error is the cause; later ones are consequences. A few
//! are none: CRIU goes on after them.

/// Most of a log that is looked at: a log at level 1 is a few lines, at level 4 a few hundred KiB.
pub const MAX_LOG: u64 = 16 << 20;

/// The first error of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogError {
    /// Where in CRIU's source, for example `criu/sk-unix.c:817`.
    pub place: String,
    /// CRIU's words.
    pub message: String,
    /// What a person can do about it, where we know.
    pub hint: Option<&'static str>,
}

impl std::fmt::Display for LogError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.place)?;
        match self.hint {
            Some(hint) => write!(f, ": {hint}"),
            None => Ok(()),
        }
    }
}

/// Finds the first error in a log.
#[must_use]
pub fn first_error(log: &str) -> Option<LogError> {
    log.lines().find_map(parse_line)
}

/// Reads the log at this path; nothing where there is none.
#[must_use]
pub fn read(path: &std::path::Path) -> String {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    // What cannot be read is not there for whoever looks for a reason.
    let _ = std::fs::File::open(path).map(|file| file.take(MAX_LOG).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `(00.018271) pie: 1: Error (criu/files.c:1234): words`; time, pid, and whether it was said inside the task, may be missing.
fn parse_line(line: &str) -> Option<LogError> {
    let (head, rest) = line.split_once("Error (")?;
    if head.split("pie:").any(|part| part.chars().any(|c| c.is_ascii_alphabetic())) {
        return None;
    }
    let (place, message) = rest.split_once("): ")?;
    let message = message.trim();
    if HARMLESS.iter().any(|words| message.contains(words)) {
        return None;
    }
    Some(LogError {
        place: place.to_owned(),
        message: message.to_owned(),
        hint: HINTS.iter().find(|(words, _)| message.contains(words)).map(|(_, hint)| *hint),
    })
}

/// Errors that CRIU goes on after: it has no `CAP_SYS_RESOURCE` and keeps the limit that it has (`criu/util.c`).
const HARMLESS: &[&str] = &["rlimit: Can't setup RLIMIT_NOFILE"];

/// Words of CRIU and what they mean to the person in front of the screen. The first match counts.
const HINTS: &[(&str, &str)] = &[
    (
        "half of stream unix connection",
        "a process is connected to a unix socket of a process outside the container; close it before a checkpoint",
    ),
    (
        "External socket is used",
        "a process is connected to a unix socket of a process outside the container; close it before a checkpoint",
    ),
    ("io_uring", "the container uses io_uring, which CRIU cannot dump"),
    (
        "userfaultfd",
        "a process uses userfaultfd, or it needs vm.unprivileged_userfaultfd=1 in a user namespace",
    ),
    (
        "In-flight connection",
        "a client was just connecting; try again, or let in-flight connections be dropped",
    ),
    (
        "has bad build-ID",
        "the program on this node is not the one that was checkpointed: use the same image",
    ),
    (
        "has bad size",
        "a file differs from the one that was checkpointed: use the same image and volumes",
    ),
    (
        "has bad mode",
        "a file's permissions differ from those that were checkpointed: use the same image",
    ),
    (
        "Can't bind inet socket",
        "an address or port of the container is not available here; it needs its old address or a rewritten one",
    ),
    (
        "Can't dump ghost file",
        "a deleted file that is still open is larger than ghost_limit in agent.toml",
    ),
    (
        "Can't link remap to",
        "a file that is open has lost the name that it was opened by, and another name is left: CRIU's stand-in for the lost one (link_remap.N) is there already, of another container of the pod that has such a file in this directory (close one of them), or an old one (delete it)",
    ),
    (
        "Can't lookup mount=",
        "a process has a file open on a mount that it cannot reach; use pipes for its output",
    ),
    (
        "doesn't live in IPC ns",
        "System V shared memory of another IPC namespace is mapped; CRIU must dump the namespace too",
    ),
    ("Failed to restore shm id", "the pod's IPC namespace already holds System V objects"),
    ("already traced", "a debugger or tracer is attached to a process of the container; detach it"),
    (
        "is not seizable",
        "a debugger or tracer is attached to a process of the container; detach it",
    ),
    (
        "Unsupported mapping found",
        "a process maps a device or another kind of memory that CRIU does not know",
    ),
    ("Can't dump nested", "a process made a namespace of its own inside the container"),
    ("nested pid namespaces", "a process made a pid namespace of its own inside the container"),
    ("Can't dump that handle", "an inotify watch on overlayfs cannot be saved by CRIU before 4.3"),
    ("CPU instruction capabilities", "this node's processor lacks what the checkpointed one had"),
    ("FPU", "this node's processor saves another set of registers than the checkpointed one"),
    ("Permission denied", "CRIU lacks a privilege; is the agent confined?"),
    ("No space left on device", "a temporary file system is full"),
    ("Cannot allocate memory", "there is not enough memory"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_is_told_with_its_place_and_a_hint() {
        let log = "(00.000100) Version: 4.2.1 (gitid 0)\n\
                   (00.001200) Warn  (criu/image.c:12): Error is not the first word\n\
                   (00.012345)      7: Error (criu/sk-unix.c:817): unix: Can't dump half of stream unix connection.\n\
                   (00.012400) Error (criu/cr-dump.c:2111): Dumping FAILED.\n";
        let error = first_error(log).unwrap();
        assert_eq!(error.place, "criu/sk-unix.c:817");
        assert!(error.to_string().starts_with("unix: Can't dump half of stream unix connection."));
        assert!(error.to_string().contains("close it before a checkpoint"), "{error}");
    }

    #[test]
    fn what_is_said_inside_a_task_counts_and_what_only_looks_like_it_does_not() {
        let log = "(00.1) pie: 1: Error (criu/pie/util-vdso.c:107): vdso: Invalid ELF magic\n";
        assert_eq!(first_error(log).unwrap().message, "vdso: Invalid ELF magic");
        assert_eq!(first_error("the program wrote: Error (x:1): no\n"), None);
    }

    #[test]
    fn an_error_that_criu_goes_on_after_is_not_the_cause() {
        let log = "(00.000020) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n\
                   (00.040000) Error (criu/seize.c:700): Can't seize\n";
        assert_eq!(first_error(log).unwrap().place, "criu/seize.c:700");
    }

    #[test]
    fn a_log_without_an_error_has_none_and_an_unknown_error_no_hint() {
        assert_eq!(first_error("(00.1) all is well\n"), None);
        let error = first_error("Error (criu/new.c:1): never seen").unwrap();
        assert_eq!((error.hint, error.to_string().as_str()), (None, "never seen (criu/new.c:1)"));
    }
}
