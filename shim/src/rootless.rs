//! Whether this is the node's own root. A rootless containerd is in a user namespace and in mounts of its own: no agent finds its
//! containers there, and CRIU cannot do its work.

use std::io::ErrorKind;

use crate::error::{Error, Result};

/// Which ids of the node this process has: user_namespaces(7).
const MAP: &str = "/proc/self/uid_map";

/// That this containerd is root's.
///
/// # Errors
/// A sentence that says what to do.
pub(crate) fn refuse() -> Result<()> {
    match std::fs::read_to_string(MAP) {
        Ok(map) => refuse_by(&map),
        // A kernel without user namespaces.
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(()),
        Err(why) => Err(Error::io(format!("read {MAP}"))(why)),
    }
}

fn refuse_by(map: &str) -> Result<()> {
    if map.split_whitespace().eq(["0", "0", "4294967295"]) {
        return Ok(());
    }
    Err(Error::Refused(
        "this containerd is rootless, and Godwit needs the root of its node: run containerd as root, or this container by the \
         runtime io.containerd.runc.v2"
            .to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_only_some_ids_of_the_node_is_refused_with_a_sentence() {
        refuse_by("         0          0 4294967295\n").unwrap();
        for map in
            ["0 1000 1\n1 100000 65536\n", "0 100000 65536\n", "0 0 1\n", "1000 1000 1\n", ""]
        {
            let refused = refuse_by(map).unwrap_err();
            assert!(matches!(refused, Error::Refused(_)), "{map:?}: {refused}");
            assert!(refused.to_string().contains("run containerd as root"), "{refused}");
        }
    }
}
