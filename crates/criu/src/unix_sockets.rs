//! Unix sockets and who is connected to whom, by the kernel's socket diagnosis (`unix_diag`, sock_diag(7)).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use godwit_netlink::{Netlink, SOCK_DIAG, attributes};
use rustix::fs::{Mode, OFlags};

/// `<linux/unix_diag.h>`, `<linux/sock_diag.h>`
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const UDIAG_SHOW_NAME: u32 = 1;
const UDIAG_SHOW_PEER: u32 = 4;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_PEER: u16 = 2;
const SOCK_STREAM: u8 = 1;
const SOCK_SEQPACKET: u8 = 5;
const AF_UNIX: u8 = 1;
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

fn dump(namespace: &OwnedFd) -> io::Result<Vec<Socket>> {
    let kind = Some(rustix::thread::LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(namespace.as_fd(), kind)?;
    Netlink::connect(SOCK_DIAG)?.dump(SOCK_DIAG_BY_FAMILY, &request(), read_socket)
}

/// `unix_diag_req`: all states, with names and peers.
fn request() -> Vec<u8> {
    let show = UDIAG_SHOW_NAME | UDIAG_SHOW_PEER;
    let numbers = [u32::MAX, 0, show, 0, 0].map(u32::to_ne_bytes);
    [[AF_UNIX, 0, 0, 0].as_slice(), numbers.as_flattened()].concat()
}

/// `unix_diag_msg` (family, type, state, pad, inode, cookie) and its attributes.
fn read_socket(message: &[u8]) -> Option<Socket> {
    let ([_, kind, _, _, a, b, c, d, ..], rest) = message.split_first_chunk::<MESSAGE>()?;
    let inode = u32::from_ne_bytes([*a, *b, *c, *d]);
    let mut socket = Socket { kind: *kind, inode, ..Socket::default() };
    for attribute in attributes(rest) {
        match attribute.ok()? {
            (UNIX_DIAG_NAME, value) => socket.name = Some(name(value)),
            (UNIX_DIAG_PEER, value) => {
                socket.peer = value.first_chunk().copied().map(u32::from_ne_bytes);
            }
            _ => {}
        }
    }
    Some(socket)
}

/// Abstract names begin with a zero byte, shown as `@`.
fn name(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').replace('\0', "@")
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
        let mut message = [0; MESSAGE + 8];
        message[MESSAGE..].copy_from_slice(&[8, 0, 2, 0, 7, 7, 7, 7]);
        let peer = Some(u32::from_ne_bytes([7; 4]));
        assert_eq!(read_socket(&message), Some(Socket { peer, ..Socket::default() }));
        assert_eq!(read_socket(&message[..MESSAGE + 6]), None);
        assert_eq!(read_socket(&[1, 1, 1]), None);
    }
}
