//! The one thing of this crate that the type system cannot check: what runs between fork and exec.
#![allow(unsafe_code)] // `CommandExt::pre_exec` and `close_range` have no safe form

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::FdFlags;

/// Lets the child enter `namespaces` and inherit exactly `keep` (and its standard streams), under the same numbers.
///
/// The descriptors must stay open until the command has been spawned.
pub(crate) fn prepare_child(command: &mut Command, namespaces: Vec<OwnedFd>, keep: Vec<RawFd>) {
    let setup = move || {
        for namespace in &namespaces {
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(namespace), None)?;
        }
        close_on_exec_from(3)?;
        for fd in &keep {
            // SAFETY: the caller keeps the descriptor open until the child has been spawned.
            let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(*fd) };
            rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only (setns, close_range, fcntl): no allocation, no lock, so it is
    // sound in the child of a process with threads.
    unsafe {
        command.pre_exec(setup);
    }
}

fn close_on_exec_from(first: libc::c_uint) -> io::Result<()> {
    // SAFETY: the call takes numbers only and changes no memory of ours.
    let done = unsafe {
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The numbers of these descriptors.
pub(crate) fn numbers<'a>(fds: impl IntoIterator<Item = &'a OwnedFd>) -> Vec<RawFd> {
    fds.into_iter().map(AsRawFd::as_raw_fd).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::Stdio;

    use super::*;

    #[test]
    fn the_child_inherits_what_was_named_and_nothing_else() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        // Far from the numbers that `ls` opens itself, and inheritable by carelessness.
        let read = rustix::io::fcntl_dupfd_cloexec(&read, 500).unwrap();
        rustix::io::fcntl_setfd(&read, FdFlags::empty()).unwrap();
        let mut command = Command::new("ls");
        command.arg("/proc/self/fd").stdout(Stdio::piped()).stdin(Stdio::null());
        prepare_child(&mut command, Vec::new(), numbers([&write]));
        let mut child = command.spawn().unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(child.wait().unwrap().success());
        let seen: Vec<RawFd> = text.lines().map(|l| l.parse().unwrap()).collect();
        assert!(seen.contains(&write.as_raw_fd()), "{seen:?}");
        assert!(!seen.contains(&read.as_raw_fd()), "{seen:?}");
    }
}
