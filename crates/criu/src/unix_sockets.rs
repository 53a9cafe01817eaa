//! Unix sockets and who is connected to whom, by the kernel's socket diagnosis (`unix_diag`, sock_diag(7)).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `<linux/unix_diag.h>`, `<linux/sock_diag.h>`, `<linux/netlink.h>`
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const UDIAG_SHOW_NAME: u32 = 1;
const UDIAG_SHOW_PEER: u32 = 4;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_PEER: u16 = 2;
const SOCK_STREAM: u8 = 1;
const SOCK_SEQPACKET: u8 = 5;
const HEADER: usize = 16;
const MESSAGE: usize = 16;

/// One socket as the kernel describes it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Socket {
    kind: u8,
    pub(crate) inode: u32,
    /// Zero: nobody has accepted the connection yet.
    pub(crate) peer: Option<u32>,
    pub(crate) name: Option<String>,
}

impl Socket {
    /// Whether it is one of connections, and not of datagrams.
    pub(crate) fn is_stream(&self) -> bool {
        [SOCK_STREAM, SOCK_SEQPACKET].contains(&self.kind)
    }
}

/// Whether a process holds a connection to who listens at this path in its network namespace; nothing where the kernel does not tell
/// (`CONFIG_UNIX_DIAG`, or the process has ended).
#[must_use]
pub fn is_connected(pid: u32, path: &str) -> Option<bool> {
    let own = owners(&BTreeSet::from([pid]));
    let sockets = in_network_of(pid)?;
    let is_peers =
        |inode| sockets.iter().any(|s| s.inode == inode && s.name.as_deref() == Some(path));
    let mut held = sockets.iter().filter(|socket| own.contains_key(&socket.inode));
    Some(held.any(|socket| socket.peer.is_some_and(is_peers)))
}

/// Which process holds which socket.
pub(crate) fn owners(members: &BTreeSet<u32>) -> BTreeMap<u32, u32> {
    let mut owners = BTreeMap::new();
    for pid in members {
        let Ok(dir) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for fd in dir.flatten() {
            let Ok(link) = fs::read_link(fd.path()) else { continue };
            let inode = link.to_str().and_then(|l| l.strip_prefix("socket:[")?.strip_suffix(']'));
            if let Some(inode) = inode.and_then(|i| i.parse().ok()) {
                owners.insert(inode, *pid);
            }
        }
    }
    owners
}

/// All unix sockets of the network namespace of this process.
pub(crate) fn in_network_of(pid: u32) -> Option<Vec<Socket>> {
    let path = format!("/proc/{pid}/ns/net");
    let namespace = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    // A thread of its own: `setns` changes the calling thread only, and it ends with it.
    let looker = std::thread::Builder::new().name("unix-look".to_owned());
    looker.spawn(move || dump(&namespace).ok()).ok()?.join().ok()?
}

fn dump(namespace: &OwnedFd) -> rustix::io::Result<Vec<Socket>> {
    let kind = Some(rustix::thread::LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(namespace.as_fd(), kind)?;
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(rustix::net::netlink::SOCK_DIAG),
    )?;
    rustix::net::send(&socket, &request(), SendFlags::empty())?;
    let mut sockets = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (got, _) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        if !read_packet(&buffer[..got], &mut sockets)? {
            return Ok(sockets);
        }
    }
}

/// `nlmsghdr` and `unix_diag_req`: all states, with names and peers.
fn request() -> Vec<u8> {
    let mut out = Vec::with_capacity(40);
    out.extend(40_u32.to_ne_bytes());
    out.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    out.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    out.extend([0; 8]);
    let family = u8::try_from(AddressFamily::UNIX.as_raw()).unwrap_or(1);
    out.extend([family, 0, 0, 0]);
    out.extend(u32::MAX.to_ne_bytes());
    out.extend(0_u32.to_ne_bytes());
    out.extend((UDIAG_SHOW_NAME | UDIAG_SHOW_PEER).to_ne_bytes());
    out.extend([0; 8]);
    out
}

/// Reads the messages of one packet; `false` after the last one. An error is a kernel's that cannot tell, or packets that were lost.
fn read_packet(mut packet: &[u8], out: &mut Vec<Socket>) -> rustix::io::Result<bool> {
    while let Some((len, kind)) = header(packet) {
        match kind {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR => return Err(Errno::NOENT),
            _ => {}
        }
        let Some(message) = packet.get(HEADER..len) else { return Err(Errno::BADMSG) };
        out.extend(read_socket(message));
        packet = packet.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

fn header(packet: &[u8]) -> Option<(usize, u16)> {
    let len = usize::try_from(u32_at(packet, 0)?).ok()?;
    let kind = u16_at(packet, 4)?;
    (len >= HEADER).then_some((len, kind))
}

/// `unix_diag_msg` (family, type, state, pad, inode, cookie) and its attributes.
fn read_socket(message: &[u8]) -> Option<Socket> {
    let mut socket =
        Socket { kind: *message.get(1)?, inode: u32_at(message, 4)?, ..Socket::default() };
    let mut rest = message.get(MESSAGE..)?;
    while let (Some(len), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let len = usize::from(len);
        let value = rest.get(4..len)?;
        match kind {
            UNIX_DIAG_NAME => socket.name = Some(name(value)),
            UNIX_DIAG_PEER => socket.peer = u32_at(value, 0),
            _ => {}
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(socket)
}

/// Abstract names begin with a zero byte, shown as `@`.
fn name(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').replace('\0', "@")
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::Command;

    use super::*;

    #[test]
    fn who_is_connected_is_told_from_who_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("s"), dir.path().join("other"));
        let (listener, _other) =
            (UnixListener::bind(&path).unwrap(), UnixListener::bind(&other).unwrap());
        let (path, other) = (path.to_str().unwrap(), other.to_str().unwrap());
        let mut sleep = Command::new("sleep").arg("1000").spawn().unwrap();
        let (me, another) = (std::process::id(), sleep.id());
        assert_eq!(is_connected(me, path), Some(false));
        let _client = UnixStream::connect(path).unwrap();
        let _accepted = listener.accept().unwrap();
        assert_eq!(is_connected(me, path), Some(true));
        let of_others = (is_connected(me, other), is_connected(another, path));
        sleep.kill().unwrap();
        sleep.wait().unwrap();
        assert_eq!(of_others, (Some(false), Some(false)));
        assert_eq!(is_connected(u32::MAX, path), None);
    }

    #[test]
    fn a_cut_answer_is_not_read_beyond_its_end() {
        let mut out = Vec::new();
        let mut packet = [200, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        read_packet(&packet, &mut out).unwrap_err();
        assert_eq!(read_packet(&[1, 2, 3], &mut out), Ok(true));
        // A kernel without the diagnosis.
        packet[0] = 16;
        packet[4] = 2;
        read_packet(&packet, &mut out).unwrap_err();
        assert_eq!((out.len(), read_socket(&[1, 1, 1])), (0, None));
    }
}
