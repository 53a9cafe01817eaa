//! Connections without a process: the kernel would say farewell for them, or stand in the way of the same connection when it is
//! restored (`include/uapi/linux/inet_diag.h`).

use std::io;

use godwit_netlink::{ACK, Netlink, message};

/// `SOCK_DIAG_BY_FAMILY`, `SOCK_DESTROY`.
const LOOK: u16 = 20;
const DESTROY: u16 = 21;
/// `AF_INET`, `AF_INET6`
const FAMILIES: [u8; 2] = [2, 10];
/// `IPPROTO_TCP`
const TCP: u8 = 6;
/// All states but `TCP_LISTEN`.
const STATES: u32 = !(1 << 10);
/// Of `struct inet_diag_msg`: where the connection's id is and how long, and the socket's inode, which only one with a process has.
const ID: std::ops::Range<usize> = 4..52;
const INODE: std::ops::Range<usize> = 68..72;

/// Forgets them all.
pub(super) fn forget(diag: &mut Netlink) -> io::Result<()> {
    for family in FAMILIES {
        let found = diag.dump(LOOK, &request(family, &[0; 48]), orphan);
        for id in able(found)?.unwrap_or_default() {
            able(diag.ask(&message(DESTROY, ACK, &request(family, &id)), 1))?;
        }
    }
    Ok(())
}

/// Nothing where a connection ended by itself, or the kernel cannot (`CONFIG_INET_TCP_DIAG`, `CONFIG_INET_DIAG_DESTROY`): a restore that
/// one is in the way of says so.
fn able<T>(told: io::Result<T>) -> io::Result<Option<T>> {
    use io::ErrorKind::{NotFound, Unsupported};
    match told {
        Err(why) if matches!(why.kind(), NotFound | Unsupported) => Ok(None),
        other => other.map(Some),
    }
}

fn orphan(body: &[u8]) -> Option<Vec<u8>> {
    let owned = body.get(INODE)?.iter().any(|byte| *byte != 0);
    (!owned).then(|| body.get(ID).map(<[u8]>::to_vec)).flatten()
}

/// `struct inet_diag_req_v2`
fn request(family: u8, id: &[u8]) -> Vec<u8> {
    [&[family, TCP, 0, 0], STATES.to_ne_bytes().as_slice(), id].concat()
}
