//! Connections without a process: the kernel would say farewell for them, or stand in the way of the same connection when it is
//! restored (`include/uapi/linux/inet_diag.h`).

use std::io;

use super::netlink::{ACK, DONE, DUMP, ERROR, Netlink, message};

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
    use io::ErrorKind::{NotFound, Unsupported};
    for family in FAMILIES {
        for id in find(diag, family)? {
            let asked = message(DESTROY, ACK, &request(family, &id));
            match diag.ask(&asked, 1) {
                // It ended by itself; or the kernel cannot (`CONFIG_INET_DIAG_DESTROY`): a restore that it is in the way of says so.
                Err(why) if matches!(why.kind(), NotFound | Unsupported) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

fn find(diag: &mut Netlink, family: u8) -> io::Result<Vec<Vec<u8>>> {
    diag.send(&message(LOOK, DUMP, &request(family, &[0; 48])))?;
    let mut found = Vec::new();
    loop {
        for answer in diag.receive()? {
            match answer.kind {
                DONE => return Ok(found),
                ERROR => answer.result()?,
                LOOK => found.extend(orphan(&answer.body)),
                _ => {}
            }
        }
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
