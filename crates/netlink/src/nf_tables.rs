//! Whether the kernel has netfilter's tables (`include/uapi/linux/netfilter/nf_tables.h`).

use std::io;

use rustix::io::Errno as E;

use crate::{ACK, NETFILTER, Netlink, message};

/// Messages about tables are of this kind and those after it: netfilter's subsystem 10.
pub const TABLES: u16 = 10 << 8;
/// `NFT_MSG_GETGEN`
const GET_GENERATION: u16 = TABLES + 16;

/// Asks for the tables' generation, which changes nothing; the kernel loads its module for it.
///
/// # Errors
/// There are none ([`is_missing`]), or the kernel does not say.
pub fn ask() -> io::Result<()> {
    // Netfilter's own head: any family, version 0.
    Netlink::connect(NETFILTER)?.ask(&message(GET_GENERATION, ACK, &[0; 4]), 1)
}

/// Whether this is what a kernel without the tables says; by the last, that it has no subsystem of this number.
#[must_use]
pub fn is_missing(why: &io::Error) -> bool {
    let said = why.raw_os_error().map(E::from_raw_os_error);
    matches!(said, Some(E::OPNOTSUPP | E::PROTONOSUPPORT | E::AFNOSUPPORT | E::INVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What it says of many messages at once for a subsystem that it does not have.
    #[test]
    fn a_kernel_without_tables_is_told_apart_at_once() {
        ask().unwrap();
        let many: Vec<u8> = [16, 0x3f00, 0x3f00, 17]
            .into_iter()
            .flat_map(|kind| message(kind, ACK, &[0, 0, 0, 0x3f]))
            .collect();
        let why = Netlink::connect(NETFILTER).unwrap().ask(&many, 2).unwrap_err();
        assert!(is_missing(&why), "{why}");
        assert!(!is_missing(&E::PERM.into()) && !is_missing(&io::ErrorKind::OutOfMemory.into()));
    }
}
