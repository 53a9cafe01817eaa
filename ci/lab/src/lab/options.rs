//! What a lab shall have, as who starts it says.

use std::time::Duration;

use crate::addresses::ClusterName;
use crate::node::CgroupView;

/// For another run of the same lab to end.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// What a lab shall have.
#[derive(Debug, Clone)]
pub struct LabOptions {
    pub(super) name: String,
    pub(super) nodes: Vec<String>,
    pub(super) clusters: Vec<(ClusterName, u8)>,
    pub(super) cgroup: Option<CgroupView>,
    pub(super) patience: Duration,
}

impl LabOptions {
    /// Two nodes, `n1` and `n2`, in the lab of this name. Labs of different names live beside each other.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            nodes: vec!["n1".to_owned(), "n2".to_owned()],
            clusters: vec![],
            cgroup: None,
            patience: PATIENCE,
        }
    }

    /// The lab of end-to-end tests: `e2e`, or `NAME-e2e` where `GODWIT_LAB` names one. Tests that use it at the same
    /// time wait for each other.
    #[must_use]
    pub fn for_tests() -> Self {
        Self::new(
            &std::env::var("GODWIT_LAB").map_or("e2e".to_owned(), |name| format!("{name}-e2e")),
        )
    }

    /// These nodes instead. Names have at most eight lower-case letters and digits.
    #[must_use]
    pub fn nodes(mut self, names: &[&str]) -> Self {
        self.nodes = names.iter().map(|&name| name.to_owned()).collect();
        self
    }

    /// Kubernetes clusters instead, each with a control plane (`a0`) and this many workers (`a1`, …), at most three.
    #[must_use]
    pub fn clusters(mut self, clusters: &[(ClusterName, u8)]) -> Self {
        self.nodes.clear();
        self.clusters = clusters.to_vec();
        self
    }

    /// Two clusters: `a` with the workers `a1` and `a2`, `b` with `b1`.
    #[must_use]
    pub fn two_clusters(self) -> Self {
        self.clusters(&[(ClusterName::A, 2), (ClusterName::B, 1)])
    }

    /// What the nodes see of control groups; else what the machine has.
    #[must_use]
    pub fn cgroup(mut self, view: CgroupView) -> Self {
        self.cgroup = Some(view);
        self
    }

    /// How long to wait for another run of the same lab.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}
