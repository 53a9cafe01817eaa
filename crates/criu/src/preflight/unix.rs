//! Unix stream connections that leave the container.
//!
//! CRIU refuses "half of a stream unix connection". Datagram sockets with an outside peer (a log daemon) are saved as
//! external and are no reason.

use std::collections::{BTreeMap, BTreeSet};

use super::Refusal;
use crate::unix_sockets::{in_network_of, owners};

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
        // A peer that nobody has accepted yet has no number; CRIU saves it with its listener.
        if socket.is_stream() && peer != 0 && !owners.contains_key(&peer) {
            let peer = names.get(&peer).map_or_else(|| format!("socket:[{peer}]"), |n| (*n).into());
            refusals.push(Refusal::ExternalUnixPeer { pid: *pid, peer });
        }
    }
    refusals
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
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
}
