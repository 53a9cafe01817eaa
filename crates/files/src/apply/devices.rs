//! Whether a checkpoint may bring device nodes.

use oci_spec::runtime::{Capability, Spec};

/// A node is only made where the new container could make it itself; what can be done with it is up to the device rules of
/// its cgroup, which come from its spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    /// None.
    Refuse,
    /// Those that the layer had.
    Allow,
}

impl Devices {
    /// By the spec of the new container: allowed if CAP_MKNOD is in its bounding set. (runc lets every container that has
    /// the capability make any node.)
    #[must_use]
    pub fn of_spec(spec: &Spec) -> Self {
        let process = spec.process().as_ref();
        let bounding = process.and_then(|p| p.capabilities().as_ref()?.bounding().as_ref());
        match bounding.is_some_and(|set| set.contains(&Capability::Mknod)) {
            true => Self::Allow,
            false => Self::Refuse,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_gets_the_device_nodes_that_it_could_make_itself() {
        let spec = |bounding: &str| -> Spec {
            let text = format!(
                r#"{{"ociVersion":"1.2.0","process":{{"cwd":"/","user":{{"uid":0,"gid":0}},"capabilities":{{"bounding":[{bounding}]}}}}}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        assert_eq!(Devices::of_spec(&spec("\"CAP_CHOWN\",\"CAP_MKNOD\"")), Devices::Allow);
        assert_eq!(Devices::of_spec(&spec("\"CAP_CHOWN\"")), Devices::Refuse);
    }
}
