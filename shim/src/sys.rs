//! What happens in a child between fork and exec, and descriptors in the event loop: neither the standard library nor
//! tokio offers a safe way to place descriptors, to tie a child to its parent or to poll an owned descriptor. And a system
//! call that no library has.
#![allow(unsafe_code)]

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use rustix::io::{dup2, fcntl_dupfd_cloexec};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// First descriptor that is not a standard stream.
const FIRST: RawFd = 3;

/// Gives the child these descriptors as 3, 4, 5, … The command owns copies of them: they are closed in the parent when
/// it is dropped.
///
/// # Errors
/// No descriptor is left.
pub(crate) fn pass_from_3(command: &mut Command, fds: &[OwnedFd]) -> io::Result<()> {
    // Copies above all targets, so that placing one never overwrites another that is still to be placed.
    let above = FIRST + i32::try_from(fds.len()).map_err(io::Error::other)?;
    let copies: Vec<OwnedFd> =
        fds.iter().map(|fd| fcntl_dupfd_cloexec(fd, above)).collect::<Result<_, _>>()?;
    let place = move || {
        for (number, copy) in (FIRST..).zip(&copies) {
            // SAFETY: it is only used as the target of dup2 and never closed (ManuallyDrop): whatever has this number in
            // the child is close-on-exec and not needed between fork and exec.
            let mut target = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
            dup2(copy, &mut target)?;
        }
        Ok(())
    };
    // SAFETY: the closure only makes system calls (dup2): no allocation, no lock.
    unsafe { command.pre_exec(place) };
    Ok(())
}

/// Lets the kernel kill the child when the thread that starts it ends. The shim starts children from its only
/// long-lived thread, so that is when the shim ends.
pub(crate) fn die_with_parent(command: &mut Command) {
    // SAFETY: the closure makes one system call (prctl): no allocation, no lock.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
}

/// Has the child begin in a user namespace of its own, without maps.
pub(crate) fn in_new_user_namespace(command: &mut Command) {
    // SAFETY: the closure makes one system call (unshare) in a process of one thread: no allocation, no lock, and no
    // descriptors are separated.
    unsafe {
        command.pre_exec(|| Ok(unshare_unsafe(UnshareFlags::NEWUSER)?));
    }
}

/// Lets a detached mount show the ids that a user namespace maps. Nobody else has a part in what is mounted below it.
///
/// # Errors
/// Its file system cannot, or the kernel cannot.
pub(crate) fn map_ids(
    tree: &OwnedFd,
    users: BorrowedFd<'_>,
    with_those_below: bool,
) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: u64::try_from(users.as_raw_fd()).map_err(io::Error::other)?,
    };
    let below = if with_those_below { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty string with its zero, `attributes` lives until the call returns and its size is given;
    // both descriptors are open.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | below,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Registers a descriptor with the event loop, for reading and writing.
///
/// # Errors
/// It cannot be polled (a regular file).
pub(crate) fn poll_fd(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the value passed is an `OwnedFd`, whose descriptor stays the same and open for as long as the value lives;
    // `AsyncFd` deregisters before it drops it.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE | Interest::WRITABLE) }
        .map_err(io::Error::from)
}

/// Runs something with another working directory, on a thread of its own whose directory is nobody else's.
///
/// # Errors
/// The directory cannot be entered, or what `run` says.
pub(crate) fn run_in_directory(
    dir: &Path,
    run: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    let dir = dir.to_owned();
    let thread = std::thread::Builder::new().spawn(move || {
        // SAFETY: only the working directory, root and umask are separated (CLONE_FS); no descriptors.
        unsafe { unshare_unsafe(UnshareFlags::FS) }?;
        std::env::set_current_dir(dir)?;
        run()
    })?;
    thread.join().map_err(|_| io::Error::other("the thread that mounts panicked"))?
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    #[test]
    fn another_directory_is_of_that_thread_alone() {
        let before = std::env::current_dir().unwrap();
        let see = || {
            assert_eq!(std::env::current_dir()?, Path::new("/proc"));
            Ok(())
        };
        run_in_directory(Path::new("/proc"), see).unwrap();
        assert_eq!(std::env::current_dir().unwrap(), before);
    }

    #[test]
    fn a_child_finds_the_descriptors_from_3_on_in_order() {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (_, other) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo fourth >&4"]);
        pass_from_3(&mut command, &[other, write]).unwrap();
        let mut child = command.spawn().unwrap();
        drop(command);
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(text, "fourth\n");
        assert!(child.wait().unwrap().success());
    }
}
