//! Unix stream connections that leave the container, by the kernel's socket diagnosis.
//!
//! CRIU refuses "half of a stream unix connection". Datagram sockets with an outside peer (a log daemon) are saved as
//! external and are no reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::Refusal;

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
struct Socket {
    kind: u8,
    inode: u32,
    peer: Option<u32>,
    name: Option<String>,
}

pub(super) fn check(init: u32, members: &BTreeSet<u32>) -> Vec<Refusal> {
    let owners = owners(members);
    // Without the diagnosis (a kernel without it) CRIU's own error tells.
    let sockets = in_network_of(init).unwrap_or_default();
    // A peer lives where its server does: mostly in the container's network or in the node's.
    let nodes = in_network_of(std::process::id()).unwrap_or_default();
    let named = sockets.iter().chain(&nodes);
    let names: BTreeMap<u32, &str> =
        named.filter_map(|s| Some((s.inode, s.name.as_deref()?))).collect();
    let mut refusals = Vec::new();
    for socket in &sockets {
        let (Some(pid), Some(peer)) = (owners.get(&socket.inode), socket.peer) else { continue };
        let stream = [SOCK_STREAM, SOCK_SEQPACKET].contains(&socket.kind);
        // A peer that nobody has accepted yet has no number; CRIU saves it with its listener.
        if stream && peer != 0 && !owners.contains_key(&peer) {
            let peer = names.get(&peer).map_or_else(|| format!("socket:[{peer}]"), |n| (*n).into());
            refusals.push(Refusal::ExternalUnixPeer { pid: *pid, peer });
        }
    }
    refusals
}

/// Which process holds which socket.
fn owners(members: &BTreeSet<u32>) -> BTreeMap<u32, u32> {
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
fn in_network_of(pid: u32) -> Option<Vec<Socket>> {
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
        if !read_packet(&buffer[..got], &mut sockets) {
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

/// Reads the messages of one packet; `false` after the last one.
fn read_packet(mut packet: &[u8], out: &mut Vec<Socket>) -> bool {
    while let Some((len, kind)) = header(packet) {
        if kind == NLMSG_DONE || kind == NLMSG_ERROR {
            return false;
        }
        let Some(message) = packet.get(HEADER..len) else { return false };
        out.extend(read_socket(message));
        packet = packet.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    true
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
    fn a_connection_inside_is_no_reason_and_one_to_the_outside_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let hold = |stream: UnixStream| {
            let mut sleep = Command::new("sleep");
            sleep.arg("1000").stdin(OwnedFd::from(stream)).spawn().unwrap()
        };
        let mut child = hold(UnixStream::connect(&path).unwrap());
        let _peer: UnixStream = listener.accept().unwrap().0;
        let pid = child.id();
        let alone = check(pid, &BTreeSet::from([pid]));
        let together = check(pid, &BTreeSet::from([pid, std::process::id()]));
        child.kill().unwrap();
        child.wait().unwrap();
        let peer = path.display().to_string();
        assert_eq!(alone, [Refusal::ExternalUnixPeer { pid, peer }]);
        assert!(
            !together
                .iter()
                .any(|r| matches!(r, Refusal::ExternalUnixPeer { pid: p, .. } if *p == pid))
        );
    }

    #[test]
    fn a_cut_answer_is_not_read_beyond_its_end() {
        let mut out = Vec::new();
        assert!(!read_packet(&[200, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &mut out));
        assert!(read_packet(&[1, 2, 3], &mut out));
        assert_eq!((out.len(), read_socket(&[1, 1, 1])), (0, None));
    }
}
