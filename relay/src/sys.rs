//! What has no safe form: the descriptor that runc left at a number, new namespaces, an interface's flags.
#![allow(unsafe_code)] // raw descriptor numbers by runc's contract, `unshare`, one ioctl

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, FromRawFd as _, OwnedFd, RawFd};

use rustix::thread::UnshareFlags;

/// The descriptor that runc's contract puts at this number. Closed by nobody but exec.
pub(crate) fn inherited(fd: RawFd) -> io::Result<ManuallyDrop<OwnedFd>> {
    // SAFETY: the program is started with this number as an argument that names an open socket, nobody else in this
    // single-threaded process owns it, and `ManuallyDrop` keeps the number taken until exec.
    let fd = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(fd) });
    rustix::io::fcntl_getfd(&*fd)?;
    Ok(fd)
}

/// Puts `source` at the number of `target`, which is closed; kept open on exec.
pub(crate) fn replace(source: impl AsFd, target: &mut ManuallyDrop<OwnedFd>) -> io::Result<()> {
    rustix::io::dup2(source, target)?;
    Ok(())
}

/// Moves this process into new namespaces.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: the process has one thread, and CLONE_FILES, the flag that could break descriptor ownership, is not
    // used here.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    Ok(())
}

/// Brings the loopback interface of the current network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: a struct of integers and byte arrays; all zeros are a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, which lives until the call returns.
    let done = unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw const request) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
