//! Whether the kernel has netfilter's tables (`nf_tables`), by which a pod's connections rest while its sockets are read and made.

use std::io;

use godwit_netlink::nf_tables;

use crate::check::{Finding, Verdict};
use Verdict::{Good, Limited, Unknown};

pub(super) fn examine() -> Finding {
    Finding { subject: "netfilter", verdict: verdict(&nf_tables::ask()) }
}

fn verdict(tables: &io::Result<()>) -> Verdict {
    match tables {
        Ok(()) => Good("this kernel has nf_tables".to_owned()),
        Err(why) if nf_tables::is_missing(why) => Limited(format!(
            "this kernel has no nf_tables ({why}): TCP connections inside a pod that are busy at a checkpoint may break, and \
             `godwit.dev/tcp: keep` is refused: `modprobe nf_tables`, and a line `nf_tables` in /etc/modules-load.d/godwit.conf"
        )),
        Err(why) => Unknown(format!("the kernel does not say whether it has nf_tables ({why})")),
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn a_kernel_without_tables_is_told_from_one_that_does_not_say() {
        let says = |errno: Errno| verdict(&Err(errno.into()));
        let none = says(Errno::INVAL);
        assert!(none.word() == "limited" && none.told().contains("modprobe"), "{none:?}");
        assert_eq!(says(Errno::PERM).word(), "unknown");
        assert_eq!(examine().verdict.word(), "good");
    }
}
