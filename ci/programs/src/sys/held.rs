//! Things that cannot be saved.
#![allow(unsafe_code, reason = "system calls that no library has a safe form of")]

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd, IntoRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mm::{MapFlags, ProtFlags};

use super::{Fork, fork, leave};

/// What keeps it: closed with this.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "only its life matters")] Option<OwnedFd>);

fn descriptor(result: libc::c_long) -> io::Result<Held> {
    let fd = RawFd::try_from(result).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(Held(Some(unsafe { OwnedFd::from_raw_fd(fd) })))
}

/// An io_uring instance.
///
/// # Errors
/// The kernel's.
pub fn io_uring() -> io::Result<Held> {
    // `struct io_uring_params`: 120 bytes, all zero for the defaults.
    let mut parameters = [0_u64; 15];
    // SAFETY: the kernel writes at most the size of its structure.
    descriptor(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) })
}

/// A userfaultfd for faults of user mode.
///
/// # Errors
/// The kernel's.
pub fn userfaultfd() -> io::Result<Held> {
    // 1: `UFFD_USER_MODE_ONLY`.
    // SAFETY: no memory is passed.
    descriptor(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | 1) })
}

/// A child that is traced by this process.
///
/// # Errors
/// The kernel's.
pub fn traced_child() -> io::Result<Held> {
    let child = child(|| Ok(()))?;
    // SAFETY: no memory is passed.
    if unsafe { libc::ptrace(libc::PTRACE_SEIZE, child, 0, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Held(None))
}

/// A child in a mount namespace of its own.
///
/// # Errors
/// The kernel's.
pub fn nested_child() -> io::Result<Held> {
    child(|| {
        // SAFETY: changes only the namespaces of this process, which has one thread.
        match unsafe { libc::unshare(libc::CLONE_NEWNS) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    })
    .map(|_| Held(None))
}

/// `<linux/major.h>`, `<linux/miscdevice.h>`: `/dev/loop-control`, `/dev/fuse`, `/dev/loop0`.
const LOOP_CONTROL: (u32, u32) = (10, 237);
const FUSE: (u32, u32) = (10, 229);
const LOOP0: (u32, u32) = (7, 0);

/// A device file of our own, opened: what the container's `/dev` has does not matter.
fn open_device(name: &str, kind: FileType, number: (u32, u32)) -> io::Result<File> {
    mknodat(CWD, name, kind, Mode::RUSR | Mode::WUSR, makedev(number.0, number.1))?;
    File::options().read(true).write(true).open(name)
}

/// An open device: `/held-device`.
///
/// # Errors
/// The kernel's.
pub fn device() -> io::Result<Held> {
    let device = open_device("/held-device", FileType::CharacterDevice, LOOP_CONTROL)?;
    Ok(Held(Some(device.into())))
}

/// A mapped device, `/held-block`, without a descriptor.
///
/// # Errors
/// The kernel's.
pub fn mapped_device() -> io::Result<Held> {
    let device = open_device("/held-block", FileType::BlockDevice, LOOP0)?;
    // SAFETY: a new mapping at a place of the kernel's choice; nobody ever reads it.
    unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            crate::page::PAGE,
            ProtFlags::READ,
            MapFlags::SHARED,
            &device,
            0,
        )
    }?;
    Ok(Held(None))
}

/// Two files of 3 MiB each that are open and have no name any more.
///
/// # Errors
/// The kernel's.
pub fn deleted_files() -> io::Result<Held> {
    for name in ["/held-1", "/held-2"] {
        let mut file = File::create_new(name)?;
        file.write_all(&vec![7; 3 << 20])?;
        std::fs::remove_file(name)?;
        // It stays open for as long as this process lives.
        let _open = file.into_raw_fd();
    }
    Ok(Held(None))
}

/// A mounted FUSE file system whose server is this process.
///
/// # Errors
/// The kernel's.
pub fn fuse() -> io::Result<Held> {
    let device = open_device("/held-fuse", FileType::CharacterDevice, FUSE)?;
    std::fs::create_dir("/fuse")?;
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0\0", device.as_raw_fd());
    // SAFETY: all strings end with a zero byte and outlive the call.
    let mounted = unsafe {
        libc::mount(
            c"hold".as_ptr(),
            c"/fuse".as_ptr(),
            c"fuse".as_ptr(),
            libc::MS_NOSUID | libc::MS_NODEV,
            options.as_ptr().cast(),
        )
    };
    match mounted {
        0 => Ok(Held(Some(device.into()))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A temporary file system at `/held-mount`.
///
/// # Errors
/// The kernel's.
pub fn mount() -> io::Result<Held> {
    std::fs::create_dir("/held-mount")?;
    let (source, target, kind) = (c"hold".as_ptr(), c"/held-mount".as_ptr(), c"tmpfs".as_ptr());
    // SAFETY: all strings end with a zero byte and outlive the call; a tmpfs needs no options.
    match unsafe { libc::mount(source, target, kind, 0, std::ptr::null()) } {
        0 => Ok(Held(None)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A connection to a gRPC server, which has greeted: the other end is surely accepted.
///
/// # Errors
/// The kernel's, or the server's.
pub fn unix_peer() -> io::Result<Held> {
    let mut peer = UnixStream::connect("/peer.sock")?;
    // HTTP/2's preface and an empty SETTINGS frame (RFC 9113, 3.4 and 6.5).
    peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
    peer.read_exact(&mut [0; 9])?;
    Ok(Held(Some(peer.into())))
}

/// A thread that waits in `vfork`: its child shares our memory and executes nothing.
///
/// # Errors
/// The kernel's.
pub fn vfork() -> io::Result<Held> {
    extern "C" fn child(told: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `told` is a descriptor in disguise; `write` reads one byte of ours, `pause` nothing.
        unsafe {
            libc::write(told as RawFd, c"1".as_ptr().cast(), 1);
            loop {
                libc::pause();
            }
        }
    }
    let (read, write) = rustix::pipe::pipe()?;
    std::thread::spawn(move || {
        let mut stack = vec![0_u128; 4 << 10];
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: the child has this stack, aligned to 16 bytes, for as long as the parent waits here, which is as long as
        // it lives.
        unsafe {
            let top = stack.as_mut_ptr().add(stack.len());
            libc::clone(child, top.cast(), flags, write.as_raw_fd() as *mut libc::c_void)
        }
    });
    match rustix::io::read(&read, &mut [0])? {
        0 => Err(io::Error::other("there is no child")),
        _ => Ok(Held(None)),
    }
}

/// A child that has done something, told by a byte, and waits for ever.
fn child(first: impl FnOnce() -> io::Result<()>) -> io::Result<i32> {
    let (read, write) = rustix::pipe::pipe()?;
    match fork()? {
        Fork::Child => {
            let told = first().and_then(|()| Ok(rustix::io::write(&write, b"1")?));
            if told.is_err() {
                leave(1);
            }
            loop {
                std::thread::park();
            }
        }
        Fork::Parent(pid) => {
            drop(write);
            let mut byte = [0];
            if rustix::io::read(&read, &mut byte)? == 0 {
                return Err(io::Error::other("the child was refused"));
            }
            Ok(pid)
        }
    }
}
