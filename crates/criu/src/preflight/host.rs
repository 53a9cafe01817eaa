//! Namespaces that a container has in common with the node. Its spec does not tell: the node's are joined by path as well.

use std::fs;

use super::Refusal;

pub(super) fn check(init: u32) -> Vec<Refusal> {
    let link = |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
    [("pid", Refusal::SharedPid), ("net", Refusal::HostNetwork), ("ipc", Refusal::HostIpc)]
        .into_iter()
        .filter(|(kind, _)| {
            let its = link(&init.to_string(), kind);
            its.is_some() && its == link("self", kind)
        })
        .map(|(_, refusal)| refusal)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_like_any_other_of_the_node_has_its_namespaces() {
        let all = [Refusal::SharedPid, Refusal::HostNetwork, Refusal::HostIpc];
        assert_eq!(check(std::process::id()), all);
        assert_eq!(check(u32::MAX), []);
    }
}
