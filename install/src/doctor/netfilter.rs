//! Whether the kernel has netfilter's tables (`nf_tables`), by which a pod's connections rest while its sockets are read and made.

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

use crate::check::{Finding, Verdict};
use Verdict::{Good, Limited, Unknown};

/// `NFT_MSG_GETGEN` of netfilter's subsystem for tables (`<linux/netfilter/nf_tables.h>`).
const GET_GENERATION: u16 = (10 << 8) | 16;
/// `NLM_F_REQUEST`, `NLMSG_ERROR`
const REQUEST: u16 = 1;
const ERROR: u16 = 2;
/// The kernel answers before the question is sent; longer only if its answer was lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a message's head; the error is behind it.
const HEAD: usize = 16;

pub(super) fn examine() -> Finding {
    Finding { subject: "netfilter", verdict: verdict(&ask()) }
}

/// Asks for the tables' generation, which changes nothing; the kernel loads its module for it.
fn ask() -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(NETFILTER),
    )?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    let mut question = Vec::from(20_u32.to_ne_bytes());
    question.extend(GET_GENERATION.to_ne_bytes());
    question.extend(REQUEST.to_ne_bytes());
    // Number and sender, then netfilter's own head: any family, version 0.
    question.extend([0; 12]);
    sendto(&socket, &question, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 4096];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    read(answer.get(..length).unwrap_or_default())
}

fn read(answer: &[u8]) -> io::Result<()> {
    let is_error = answer.get(4..6) == Some(ERROR.to_ne_bytes().as_slice());
    let said = answer.get(HEAD..HEAD + 4).and_then(|said| said.try_into().ok());
    match said.map(i32::from_ne_bytes) {
        Some(said) if is_error && said < 0 => Err(io::Error::from_raw_os_error(-said)),
        _ => Ok(()),
    }
}

fn verdict(tables: &io::Result<()>) -> Verdict {
    let Err(why) = tables else { return Good("this kernel has nf_tables".to_owned()) };
    let said = why.raw_os_error().map(Errno::from_raw_os_error);
    match said {
        // By the last an older kernel says that it has no such subsystem.
        Some(Errno::OPNOTSUPP | Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT | Errno::INVAL) => {
            Limited(format!(
                "this kernel has no nf_tables ({why}): TCP connections inside a pod that are busy at a checkpoint may break, and \
                 `godwit.dev/tcp: keep` is refused: `modprobe nf_tables`, and a line `nf_tables` in /etc/modules-load.d/godwit.conf"
            ))
        }
        _ => Unknown(format!("the kernel does not say whether it has nf_tables ({why})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_tables_is_told_from_one_that_does_not_say() {
        ask().unwrap();
        let says = |errno: Errno| {
            let mut answer = vec![0; 36];
            answer[4..6].copy_from_slice(&ERROR.to_ne_bytes());
            answer[HEAD..HEAD + 4].copy_from_slice(&(-errno.raw_os_error()).to_ne_bytes());
            verdict(&read(&answer))
        };
        let none = says(Errno::INVAL);
        assert!(none.word() == "limited" && none.told().contains("modprobe"), "{none:?}");
        assert_eq!(says(Errno::PERM).word(), "unknown");
        assert_eq!(verdict(&read(&[])).word(), "good");
    }
}
